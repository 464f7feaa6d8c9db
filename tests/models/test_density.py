"""Densities of vectors: log p(x) against closed forms, training, files, replicas and exports."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfvae
from tfvae import export, posteriors, priors

RNG = np.random.default_rng(0)
LOC, SCALE = np.array([1.0, -2.0]), np.array([0.5, 2.0])
X = (LOC + SCALE * RNG.normal(size=(200, 2))).astype("float32")


def mixture():
    """A mixture that is known, of two components that lie apart, and its log-density."""
    model = tfvae.Density(priors.NormalMixture(2, num_components=2))
    raw = np.log(np.expm1(np.array([[0.5, 1.0], [0.3, 0.8]]) - 1e-6)) - np.log(np.e - 1)
    model.prior.set_weights([np.log([0.25, 0.75]), np.array([[-3.0, 0.0], [2.0, 1.0]]), raw])

    def log_prob(x):
        normal = stats.multivariate_normal
        first, second = normal([-3, 0], np.diag([0.25, 1.0])), normal([2, 1], np.diag([0.09, 0.64]))
        return np.log(0.25 * first.pdf(x) + 0.75 * second.pdf(x))

    return model, log_prob


def test_log_prob_evaluate_and_predict_are_those_of_a_known_mixture():
    model, log_prob = mixture()
    x = 2 * RNG.normal(size=(21, 2)).astype("float32")
    expected = log_prob(x)
    np.testing.assert_allclose(model.log_prob(x, batch_size=8), expected, rtol=1e-4, atol=1e-4)
    model.compile("adam")
    metrics = model.evaluate(x, batch_size=8, verbose=0, return_dict=True)
    assert set(metrics) == {"loss", "log_prob"}
    assert metrics["log_prob"] == -metrics["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)


def test_the_mean_density_of_draws_is_the_entropy():
    model = tfvae.Density(priors.Normal(2))
    model.prior.set_weights([LOC, np.log(np.expm1(SCALE)) - np.log(np.e - 1)])
    draws = model.sample(5000, seed=1)
    np.testing.assert_array_equal(draws, model.sample(5000, seed=1))
    assert not np.array_equal(model.sample(3), model.sample(3))
    entropy = np.log(2 * np.pi * np.e) + np.log(SCALE).sum()
    # The variance of log p(x) is 1/2 in each dimension.
    assert -model.log_prob(draws).mean() == pytest.approx(entropy, abs=4 / np.sqrt(5000))


def test_a_normal_fits_the_maximum_of_the_likelihood():
    model = tfvae.Density(priors.Normal())
    assert "not built" in repr(model)
    model.compile(keras.optimizers.Adam(0.1))
    weights = np.where(np.arange(200) < 100, 1.0, 0.0)
    history = model.fit(X, sample_weight=weights, epochs=60, batch_size=200, verbose=0).history
    assert set(history) == {"loss", "log_prob"}
    fitted = X[:100]
    expected = stats.norm.logpdf(fitted, fitted.mean(0), fitted.std(0)).sum(-1).mean()
    assert model.log_prob(fitted).mean() == pytest.approx(expected, abs=0.02)
    assert "4 trainable weights" in repr(model)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"^`prior` must be a Prior. Received: 'flow'$"):
        tfvae.Density("flow")
    with pytest.raises(ValueError, match=r"^`prior` must be a Prior. Received: <Diag"):
        tfvae.Density(posteriors.DiagonalNormal())
    with pytest.raises(ValueError, match=r"^`prior` must be a density of all real.*Received: <VampPrior"):
        tfvae.Density(priors.VampPrior())
    with pytest.raises(ValueError, match=r"^`prior` must be a density of all real.*Received: <Hyper"):
        tfvae.Density(priors.HypersphericalUniform())
    model = tfvae.Density(priors.Normal())
    with pytest.raises(ValueError, match=r"^`model` must be built.*Received: a new model$"):
        model.sample(1)
    with pytest.raises(ValueError, match=r"^`x` must have the shape \[N, D\]. Received: x of shape \[4\]$"):
        model.log_prob(np.zeros(4))
    model = tfvae.Density(priors.Normal(2))
    with pytest.raises(ValueError, match=r"^`x` must have the shape \[N, 2\]"):
        model.log_prob(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"^`x` must be finite"):
        model.log_prob(np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match=r"^`x` must be finite in float32"):
        model.log_prob(np.full((4, 2), 1e39))
    with pytest.raises(ValueError, match=r"`x` must have the shape \[B, 2\]. Received: x of shape \(4, 1\)"):
        model(np.zeros((4, 1)))
    np.testing.assert_array_equal(model(np.ones((4, 2), int)), model.log_prob(np.ones((4, 2))))
    with pytest.raises(ValueError, match=r"^`n` must"):
        model.sample(0)
    with pytest.raises(NotImplementedError, match="SecondStage has no export"):
        tfvae.Density(priors.SecondStage(2, hidden=4)).check_exportable()


def test_the_signatures_of_an_export_are_the_methods():
    model, _ = mixture()
    signatures = model.export_signatures()
    examples = model.export_examples(model.export_data(None, 5))
    for name, signature in signatures.items():
        inputs = examples[name]
        outputs = signature.function(*(tf.constant(inputs[spec.name]) for spec in signature.inputs))
        for key, expected in signature.of_model(inputs).items():
            np.testing.assert_allclose(outputs[key], expected, rtol=1e-5, atol=1e-5)
    assert examples["sample"]["epsilon"].shape == (5, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [priors.NormalMixture, lambda dim: priors.SplineFlow(dim, 2, hidden=8)], ids=["mixture", "flow"]
)
def test_exports_agree(make, tmp_path):
    model = tfvae.Density(make(2))
    # Each export compares itself with the model.
    for path in (export.tflite(model, tmp_path / "model.tflite"), export.saved_model(model, tmp_path / "model", x=X)):
        exported = export.load(path)
        np.testing.assert_allclose(exported.run("log_prob", x=X)["log_prob"], model.log_prob(X), rtol=1e-4, atol=1e-4)
        assert exported.run("sample", epsilon=X)["sample"].shape == X.shape


@pytest.mark.slow
def test_a_spline_flow_comes_near_the_entropy_of_a_mixture():
    known, log_prob = mixture()
    x, held_out = known.sample(6000, seed=1), known.sample(4000, seed=2)
    model = tfvae.Density(priors.SplineFlow(num_couplings=4, hidden=32))
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, 60 * 30)
    model.compile(keras.optimizers.Adam(schedule))
    model.fit(x, epochs=30, batch_size=100, verbose=0)
    gap = log_prob(held_out) - model.log_prob(held_out)
    error = gap.std() / np.sqrt(len(gap))
    # The divergence from the true density: not negative, and small where a normal distribution has 0.6.
    assert -4 * error < gap.mean() < 0.1


@pytest.mark.slow
def test_a_file_gives_the_same_model_and_training_goes_on_exactly(tmp_path):
    model = tfvae.Density(priors.SplineFlow(num_couplings=2, hidden=8))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(X, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.log_prob(X), model.log_prob(X))
    np.testing.assert_array_equal(loaded.sample(5, seed=1), model.sample(5, seed=1))
    for each in (model, loaded):
        each.fit(X, epochs=3, initial_epoch=2, verbose=0)
    for weight, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from tests.models import test_density
    test_density.compare_replicas()
"""


def compare_replicas():
    """Trains on two replicas and on one device, and prints the largest difference of a weight."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    weights = []
    for strategy in (tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), tf.distribute.OneDeviceStrategy("/cpu:0")):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = tfvae.Density(priors.Normal())
            model.compile(keras.optimizers.SGD(0.1))
        # The last batch of 1 is split into 1 and 0.
        model.fit(X[:21], epochs=2, batch_size=5, verbose=0)
        weights.append(model.prior.get_weights())
    print(max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True)))


@pytest.mark.slow
def test_two_replicas_take_the_steps_of_one_device(run_python):
    printed = run_python(REPLICAS, pathlib.Path(__file__).parents[2])
    assert float(printed.splitlines()[-1]) < 1e-5
