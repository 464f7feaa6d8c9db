"""Models without a lower bound on log p(x): they have no number that has no meaning, and say why and what to do."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae import evaluation, export, likelihoods, objectives, posteriors, priors
from tfvae.callbacks import Checkpoints, KLWarmUp
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.reporting import measures

X = np.random.default_rng(0).normal(size=(21, 4)).astype("float32")
RAE = objectives.RAE(0.1)


def network():
    layers = [keras.Input((4,)), keras.layers.Dense(5, "tanh"), keras.layers.BatchNormalization()]
    return keras.Sequential(layers)


def model(kind, **arguments):
    """A model whose q(z|x) is a point, whose likelihood is of features, or both."""
    if kind != "features":
        arguments = {"posterior": posteriors.Deterministic(), "objective": RAE, **arguments}
    if kind != "point":
        arguments["likelihood"] = likelihoods.Perceptual(network(), 0.5, likelihoods.Normal("learned"))
    networks = dense_encoder((4,), hidden=(8,)), dense_decoder(2, (4,), hidden=(8,))
    made = tfvae.VAE(*networks, 2, **arguments)
    made.compile(keras.optimizers.Adam(0.01))
    return made


NAMES = {
    "point": {"reconstruction_log_likelihood"},
    "features": {"reconstruction_log_likelihood", "kl"},
    "both": {"reconstruction_log_likelihood"},
}


@pytest.fixture(scope="module")
def trained():
    """A trained and calibrated model whose q(z|x) is a point."""
    keras.utils.set_random_seed(0)
    made = model("point")
    # A warm-up and the warning of a collapsed posterior look for a KL divergence.
    history = made.fit(X, epochs=2, batch_size=11, verbose=0, validation_data=X, callbacks=[KLWarmUp(3)])
    made.calibrate(X, threshold=1.0)
    return made, history.history


@pytest.mark.parametrize("kind", NAMES)
def test_metrics_and_scores_are_those_that_have_a_meaning(kind):
    made = model(kind)
    made.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    assert {metric.name for metric in made.metrics} == {"loss", *NAMES[kind]}
    assert set(made.train_on_batch(X, return_dict=True)) == {"loss", *NAMES[kind]}
    assert set(made.score(X)) == NAMES[kind]
    assert not made.has_bound
    assert set(made.undefined) == {"elbo", "kl"} - NAMES[kind]


def test_a_point_is_what_the_encoder_gives(trained):
    made, history = trained
    assert set(history) == {prefix + name for prefix in ("", "val_") for name in ("loss", *NAMES["point"])}
    loc = made.encode(X)["loc"]
    features = made.encoder.predict(X, verbose=0)
    np.testing.assert_allclose(loc, features @ made.posterior.loc_head.kernel + made.posterior.loc_head.bias, rtol=1e-5)
    distribution = made.posterior.distribution({"loc": loc})
    for z in (distribution.sample(seed=(1, 2)), distribution.mean(), made.posterior.center({"loc": loc})):
        np.testing.assert_array_equal(z, loc)
    expected = -0.5 * np.sum((X - made.decode(loc)) ** 2 + np.log(2 * np.pi), axis=1)
    np.testing.assert_allclose(made.score(X)["reconstruction_log_likelihood"], expected, rtol=1e-5)
    metrics = made.evaluate(X, verbose=0, return_dict=True)
    assert metrics["reconstruction_log_likelihood"] == pytest.approx(expected.mean(), rel=1e-5)
    assert metrics["loss"] == pytest.approx(np.mean(0.05 * np.sum(loc**2, axis=1) - expected), rel=1e-5)


def test_detection_scores_the_reconstruction(trained):
    found = trained[0].detect(X)
    assert set(found) == {"score", "is_anomaly", "contributions"}
    np.testing.assert_allclose(found["score"], found["contributions"].sum(axis=1), atol=1e-5)
    assert abs(found["score"].mean()) < 1e-5


MEASURES = {
    "log_likelihood": lambda made: made.log_likelihood(X, 5),
    "importance_sampling": lambda made: evaluation.importance_sampling(made, X, 5),
    "rate_distortion": lambda made: evaluation.rate_distortion(made, X),
    "amortization_gap": lambda made: evaluation.amortization_gap(made, X),
}
OF_DENSITY = {
    "kl_per_dimension": lambda made: evaluation.kl_per_dimension(made, X),
    "mutual_information": lambda made: evaluation.mutual_information(made, X),
    "annealing from q": lambda made: evaluation.annealed_importance_sampling(made, X, 2, 1, start="posterior"),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("kind", ["point", "features"])
def test_measures_of_a_bound_are_refused_with_the_reason(name, kind, trained):
    made = trained[0] if kind == "point" else model("features")
    why = "a point with Deterministic, without a density" if kind == "point" else "Perceptual is a likelihood of feat"
    with pytest.raises(ValueError, match=rf"needs a lower bound on log p\(x\).*{why}.* or take a .*Received: VAE\("):
        MEASURES[name](made)


@pytest.mark.parametrize("name", OF_DENSITY)
def test_measures_of_a_density_are_refused_for_a_point(name, trained):
    with pytest.raises(ValueError, match=r"(?s)without a density|which has no density"):
        OF_DENSITY[name](trained[0])


@pytest.mark.slow
def test_log_p_of_x_by_annealing_from_the_prior_needs_no_encoder(trained):
    found = evaluation.annealed_importance_sampling(trained[0], X[:2], 2, 2, num_leapfrog_steps=1, seed=0)
    assert np.isfinite(found.log_likelihood).all()
    with pytest.raises(ValueError, match=r"^`annealed_importance_sampling` needs a lower bound.*Perceptual"):
        evaluation.annealed_importance_sampling(model("both"), X[:2], 2, 1)


@pytest.mark.parametrize(
    "objective",
    [
        None,
        objectives.IWAE(2),
        objectives.BetaTCVAE(21),
        objectives.DIPVAE(),
        objectives.FreeBits(),
        objectives.Capacity(),
        objectives.MMD(1.0, 0.5),
        objectives.ELBO(0.0),
    ],
    ids=str,
)
def test_objectives_of_a_density_are_refused_when_the_model_is_made(objective):
    with pytest.raises(ValueError, match=r"^`objective` must not need log q\(z\|x\).*Received: objective="):
        model("point", objective=objective)


def test_a_point_is_no_component_of_a_prior_and_no_prior():
    with pytest.raises(NotImplementedError, match=r"Received: Deterministic, which has no density$"):
        model("point", prior=priors.VampPrior())
    networks = dense_encoder((4,), (8,), condition_dim=3), dense_decoder(2, (4,), (8,), condition_dim=3)
    with pytest.raises(NotImplementedError, match=r"^`prior` must .*Received: Deterministic, which has no density$"):
        tfvae.ConditionalVAE(*networks, 2, 3, prior=posteriors.Deterministic())


def test_models_that_need_the_bound_refuse_its_parts():
    def semi_supervised(**arguments):
        networks = dense_encoder((4,), (8,), condition_dim=3), dense_decoder(2, (4,), (8,), condition_dim=3)
        return tfvae.SemiSupervisedVAE(*networks, dense_decoder(4, (3,), (8,)), 2, 3, **arguments)

    point = {"posterior": posteriors.Deterministic(), "objective": RAE}
    with pytest.raises(ValueError, match=r"^`posterior` must leave a SemiSupervisedVAE its lower bound.*Received: "):
        semi_supervised(**point)
    with pytest.raises(ValueError, match=r"^`likelihood` must leave a SemiSupervisedVAE its lower bound.*Received: "):
        semi_supervised(likelihood=likelihoods.Perceptual(network()))
    encoders = [dense_encoder((4,), (8,)), dense_encoder((3,), (8,))]
    decoders = [dense_decoder(3, (4,), (8,)), dense_encoder((2,), (8,))]
    points = [posteriors.Deterministic(), posteriors.DiagonalNormal()]
    with pytest.raises(ValueError, match=r"^`posterior` must leave a HierarchicalVAE its lower bound.*Received: "):
        tfvae.HierarchicalVAE(encoders, decoders, (3, 2), posteriors=points, objective=RAE)


def test_what_weighs_draws_is_refused():
    vae = model("point", likelihood=likelihoods.Missing(likelihoods.Normal()))
    with pytest.raises(ValueError, match=r"^`impute` weighs draws of z, which needs a lower bound.*Received: VAE\("):
        tfvae.impute(vae, X)


@pytest.mark.parametrize("kind", ["point", "features", pytest.param("both", marks=pytest.mark.slow)])
def test_a_report_measures_what_there_is(kind, trained):
    made = trained[0] if kind == "point" else model(kind)
    measured = measures.measure(made, X, 10, 0)
    assert set(measured.named()) == NAMES[kind]
    expected = ["reconstruction log-likelihood", "KL"] if kind == "features" else ["reconstruction log-likelihood"]
    assert list(measured.labelled()) == expected
    if kind == "point":
        score = made.score(X)["reconstruction_log_likelihood"]
        np.testing.assert_allclose(measured.reconstruction_log_likelihood, score, rtol=1e-5)


def test_exported_functions_and_their_descriptions_have_no_bound(trained):
    made, _ = trained
    signatures = made.export_signatures()
    assert set(signatures["score"].terms) == NAMES["point"]
    assert signatures["score"].meaning.startswith("log p(x|z) in nats")
    assert not {"elbo", "kl"} & {*made.export_meanings(), *signatures["detect"].terms}
    assert "ELBO" not in made.export_limits
    assert "kl" not in made.export_meanings()["contributions"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_exports_are_the_model(kind, tmp_path):
    made = model(kind)
    made.fit(X, verbose=0)
    if kind == "point":
        made.calibrate(X, threshold=0.5)
    epsilon = np.random.default_rng(1).normal(size=(21, 2)).astype("float32")
    for file in (export.tflite(made, tmp_path / "m.tflite", x=X), export.saved_model(made, tmp_path / "saved", x=X)):
        exported = export.load(file)
        pairs = [
            (exported.encode(X), made.encode(X)),
            (exported.score(X, epsilon), made.score(X, epsilon)),
            (exported.run("serving_default", x=X), {"mean": made.reconstruct(X), **made.score(X)}),
        ]
        pairs += [(exported.detect(X), made.detect(X))] if kind == "point" else []
        for received, expected in pairs:
            assert set(received) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(received[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    rows = export.verify(made, tflite=tmp_path / "m.tflite", x=X, timed_calls=0).to_dict()["costs"]
    assert all(row["elbo_difference"] is None for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("mode", [{}, {"jit_compile": True}, {"steps_per_execution": 3}], ids=str)
def test_a_training_resumes_exactly_and_a_file_gives_the_same_model(kind, mode, tmp_path):
    def fit(made, *callbacks, epochs=3):
        made.compile(keras.optimizers.Adam(0.01), **mode)
        made.fit(X, epochs=epochs, batch_size=5, verbose=0, callbacks=list(callbacks))
        return made

    def start():
        keras.utils.set_random_seed(0)
        return model(kind)

    whole = fit(start())
    fit(start(), Checkpoints(tmp_path / "checkpoints"), epochs=1)
    other = model(kind)
    resumed = fit(other, Checkpoints(tmp_path / "checkpoints"))
    for weight, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    for name, value in whole.score(X).items():
        np.testing.assert_array_equal(loaded.score(X)[name], value)
    assert loaded.undefined == whole.undefined


REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from tests.models import test_without_bound
    test_without_bound.compare_replicas()
"""


def compare_replicas():
    """Trains on two replicas and on one device, and prints the largest difference of each model."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = (tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), tf.distribute.OneDeviceStrategy("/cpu:0"))
    differences = {}
    # Without a point each replica draws its own noise.
    for kind in ("point", "both", "spectral"):
        found = []
        for strategy in strategies:
            keras.utils.set_random_seed(0)
            with strategy.scope():
                made = spectral() if kind == "spectral" else model(kind)
                made.compile(keras.optimizers.SGD(0.01, momentum=0.9))
            # Batches of 5 are split into 3 + 2, and the last one into 1 + 0.
            made.fit(X, epochs=2, batch_size=5, verbose=0)
            found.append([*made.get_weights()[:-1], *made.evaluate(X, batch_size=5, verbose=0)])
        differences[kind] = max(float(np.max(np.abs(a - b))) for a, b in zip(*found, strict=True))
    print(json.dumps(differences))


def spectral():
    """A regularised autoencoder whose decoder has the spectral norm of 1 in each layer."""

    def normalized(layer):
        made = type(layer).from_config(layer.get_config())
        return keras.layers.SpectralNormalization(made) if isinstance(made, keras.layers.Dense) else made

    decoder = keras.models.clone_model(dense_decoder(2, (4,), hidden=(8,)), clone_function=normalized)
    encoder = dense_encoder((4,), hidden=(8,))
    made = tfvae.VAE(encoder, decoder, 2, posterior=posteriors.Deterministic(), objective=RAE)
    made.compile(keras.optimizers.Adam(0.01))
    return made


@pytest.mark.slow
def test_two_replicas_take_the_steps_of_one_device(run_python):
    differences = json.loads(run_python(REPLICAS, pathlib.Path(__file__).parents[2]).splitlines()[-1])
    assert set(differences) == {"point", "both", "spectral"}
    assert all(difference < 1e-4 for difference in differences.values()), differences


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{"jit_compile": False}, {"jit_compile": True}], ids=str)
def test_spectral_normalisation_holds_in_training_and_in_exports(mode, tmp_path):
    made = spectral()
    made.compile(keras.optimizers.Adam(0.01), **mode)
    made.fit(X, epochs=20, batch_size=7, verbose=0)
    made.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.reconstruct(X), made.reconstruct(X))
    for layer in made.decoder.layers:
        if isinstance(layer, keras.layers.SpectralNormalization):
            # One step of the power method, and then one of the optimizer.
            assert np.linalg.norm(layer.layer.kernel, 2) == pytest.approx(1.0, abs=0.15)
    exported = export.load(export.tflite(loaded, tmp_path / "model.tflite", x=X))
    np.testing.assert_allclose(exported.reconstruct(X), made.reconstruct(X), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_decoder_with_l2_has_the_losses_of_its_layers():
    inputs = [keras.Input((2,)), keras.layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.3))]
    decoder = keras.Sequential([*inputs, keras.layers.Dense(4)])
    made = tfvae.VAE(dense_encoder((4,), hidden=(8,)), decoder, 2, posterior=posteriors.Deterministic(), objective=RAE)
    made.compile(keras.optimizers.Adam(0.01))
    loc, score = made.encode(X)["loc"], made.score(X)["reconstruction_log_likelihood"]
    expected = np.mean(0.05 * np.sum(loc**2, axis=1) - score) + 0.3 * np.sum(np.square(decoder.layers[0].kernel))
    assert made.evaluate(X, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "monitor", ["val_elbo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("elbo", "val_kl"))]
)
def test_what_monitors_a_number_that_is_not_there_is_refused_with_the_reason(monitor):
    made, callback = model("point"), keras.callbacks.EarlyStopping(monitor)
    message = r"^`monitor` of EarlyStopping must be one of .*loss, .*: q\(z\|x\) is a point.*Received: monitor="
    with pytest.raises(ValueError, match=message + repr(monitor)):
        made.fit(X, validation_data=X, callbacks=[callback], verbose=0)
    density = tfvae.Density(priors.Normal())
    density.compile("sgd")
    with pytest.raises(ValueError, match=r"^`monitor` of ReduceLROnPlateau must be one of .*loss, log_prob.*Received"):
        density.fit(X, callbacks=[keras.callbacks.ReduceLROnPlateau(monitor)], verbose=0)
