"""What every kind of model must support: files, XLA, half precision, training that resumes, and replicas."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.helpers import texts
from tfvae import networks
from tfvae.elbo import Sampling
from tfvae.likelihoods import Missing, Normal
from tfvae.objectives import IWAE, FreeBits
from tfvae.posteriors import DiagonalNormal

# A hierarchy does not use all its layers after a few steps.
pytestmark = pytest.mark.filterwarnings(r"ignore:The posterior has collapsed.*\d of its layers:UserWarning")

D = 4
X = np.random.default_rng(0).normal(size=(21, D)).astype("float32")
SEQUENCES = np.random.default_rng(3).normal(size=(21, 6, D)).astype("float32")
PICTURES = np.random.default_rng(4).normal(size=(21, 4, 4, 1)).astype("float32")
CONDITION = np.random.default_rng(1).normal(size=(21, 3)).astype("float32")
LABEL = np.random.default_rng(2).integers(-1, 3, size=21)


def conditional(**arguments):
    decoder = arguments.pop("decoder", None) or networks.dense_decoder(2, (D,), (8,), condition_dim=3)
    return tfvae.ConditionalVAE(
        networks.dense_encoder((D,), (8,), condition_dim=3),
        decoder,
        2,
        3,
        prior=DiagonalNormal(),
        prior_network=networks.dense_encoder((3,), (4,)),
        **arguments,
    )


def semi_supervised(**arguments):
    decoder = arguments.pop("decoder", None) or networks.dense_decoder(2, (D,), (8,), condition_dim=3)
    return tfvae.SemiSupervisedVAE(
        networks.dense_encoder((D,), (8,), condition_dim=3),
        decoder,
        networks.dense_decoder(D, (3,), (8,), name="classifier"),
        2,
        3,
        alpha=2.0,
        label_prior=(0.2, 0.3, 0.5),
        **arguments,
    )


def hierarchical(ladder=False, **arguments):
    encoders = [networks.dense_encoder((D,), (8,)), networks.dense_encoder((8 if ladder else 3,), (8,))]
    decoders = [networks.dense_decoder(3, (D,), (8,)), networks.dense_encoder((2,), (8,))]
    return tfvae.HierarchicalVAE(encoders, decoders, (3, 2), ladder=ladder, **arguments)


def ladder(**arguments):
    return hierarchical(True, **arguments)


def deep(**arguments):
    likelihood = arguments.pop("likelihood", None) or Normal()
    made = networks.ladder(PICTURES.shape[1:], likelihood.parameter_shape(PICTURES.shape[1:]), (4,), (2,), 1)
    return tfvae.DeepHierarchicalVAE(*made, likelihood=likelihood, **arguments)


def vq(**arguments):
    encoder = networks.dense_decoder(D, (3, 2), (8,), name="encoder")
    decoder = keras.Sequential(
        [keras.Input((3, 2)), keras.layers.Flatten(), keras.layers.Dense(8), keras.layers.Dense(D)]
    )
    return tfvae.VQVAE(encoder, decoder, 5, commitment=0.3, **arguments)


def sequential(memory=None, **arguments):
    """A model of sequences, in which q(z_t|...) depends on z_{t-1}."""
    x, z, features = keras.Input((None, D)), keras.Input((2,)), keras.Input((5,))
    remembered = [] if memory is None else [keras.Input((memory.state_size,))]
    encoder = keras.Model(x, keras.layers.GRU(5, return_sequences=True)(x))

    def network(inputs, units):
        joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        hidden = keras.layers.Dense(8, activation="tanh")(joined)
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], keras.layers.Dense(units)(hidden))

    return tfvae.SequentialVAE(
        encoder,
        network([z, *remembered], D),
        2,
        transition=network([z, *remembered], 3),
        combiner=network([z, features, *remembered], 4),
        memory=memory,
        **arguments,
    )


def remembering(**arguments):
    return sequential(keras.layers.GRUCell(3), **arguments)


def autoregressive(**arguments):
    decoder = arguments.pop("decoder", None) or texts.series_decoder(D, D)
    return tfvae.AutoregressiveVAE(texts.series_encoder(D), decoder, 2, length=3, **arguments)


# Each model with its data.
MODELS = {
    "conditional": (conditional, {"x": X, "condition": CONDITION}),
    "semi-supervised": (semi_supervised, {"x": X, "label": LABEL}),
    "hierarchical": (hierarchical, X),
    "ladder": (ladder, X),
    "deep": (deep, PICTURES),
    "vq": (vq, X),
    "sequential": (sequential, SEQUENCES),
    "remembering": (remembering, SEQUENCES),
    "autoregressive": (autoregressive, np.stack([X, X[::-1], X - 1], axis=1)),
}


# For missing values, the default test of one model covers the code that all of them inherit. A memory reads which
# values are missing; of texts they are the padding, which the encoder must see.
SLOW_GAPS = [name for name in MODELS if name not in ("ladder", "remembering", "autoregressive")]
# Models that differ little from another one.
SLOW = (
    "autoregressive",
    "conditional",
    "deep",
    "hierarchical",
    "ladder",
    "semi-supervised",
    "sequential",
    "remembering",
)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MODELS])
def case(request):
    return MODELS[request.param]


def compiled(build, objective=None, **mode):
    keras.utils.set_random_seed(0)
    model = build(likelihood=Normal("learned"), objective=objective)
    model.compile(keras.optimizers.Adam(0.01), **mode)
    return model


def assert_same_weights(model, other):
    assert len(model.variables) == len(other.variables)
    for variable, expected in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected.numpy(), err_msg=variable.path)


@pytest.mark.parametrize("name", ["ladder", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_GAPS)])
def test_missing_values_reach_no_network(name):
    build, data = MODELS[name]
    keras.utils.set_random_seed(0)
    model = build(likelihood=Missing(Normal("learned")))
    model.compile(keras.optimizers.Adam(0.01))
    x = data["x"] if isinstance(data, dict) else data
    x = np.where(np.arange(x.size).reshape(x.shape) % 3 == 0, np.nan, x).astype("float32")
    gaps, filled = ({**data, "x": part} if isinstance(data, dict) else part for part in (x, np.nan_to_num(x)))
    history = model.fit(gaps, epochs=2, batch_size=7, verbose=0, validation_data=gaps).history
    assert all(np.isfinite(values).all() for values in history.values())
    np.testing.assert_array_equal(model.reconstruct(gaps), model.reconstruct(filled))
    score, of_filled = model.score(gaps), model.score(filled)
    np.testing.assert_allclose(score["kl"], of_filled["kl"], rtol=1e-5)
    assert (score["reconstruction_log_likelihood"] > of_filled["reconstruction_log_likelihood"]).all()


@pytest.mark.parametrize("name", ["ladder", "deep"])
def test_each_layer_of_a_hierarchy_has_its_free_nats(name):
    build, x = MODELS[name]
    model = build()
    terms = model.elbo_terms(tf.constant(x), Sampling(2, tf.constant([1, 2]))).tempered(tf.constant(0.5))
    layers = np.stack([0.5 * terms.metrics[each.name] for each in model.metrics if each.name.startswith("kl_")], axis=1)
    first, second = np.sort(layers.mean(axis=0))
    nats = (first + second) / 2
    paid = np.where(layers.mean(axis=0) < nats, nats, layers).sum(axis=1)
    expected = np.mean(terms.reconstruction_log_likelihood, axis=0) - paid
    np.testing.assert_allclose(FreeBits(nats, per_dimension=False)(terms), expected, rtol=1e-5)


def test_a_hierarchy_from_the_bottom_up_has_free_nats_as_a_whole():
    build, x = MODELS["hierarchical"]
    terms = build().elbo_terms(tf.constant(x), Sampling(2, tf.constant([1, 2])))
    expected = np.mean(terms.reconstruction_log_likelihood, axis=0) - 1e3
    np.testing.assert_allclose(FreeBits(1e3, per_dimension=False)(terms), expected, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_summary_knows_the_shape_of_each_part(name):
    lines = []
    MODELS[name][0]().summary(print_fn=lines.append)
    assert "(None, 4" in "".join(lines)
    assert "?" not in "".join(lines)


def test_the_optimal_scale_follows_the_error_of_training(case):
    build, data = case
    if build is semi_supervised:
        # The optimal scale would be learned from labels that the examples do not have.
        with pytest.raises(ValueError, match=r"`likelihood` must .*Received: "):
            build(likelihood=Normal("optimal"))
        return
    model = build(likelihood=Normal("optimal"))
    model.compile(keras.optimizers.Adam(1e-6))
    for start in (0, 7, 14) * 3:
        rows = slice(start, start + 7)
        batch = {name: array[rows] for name, array in data.items()} if isinstance(data, dict) else data[rows]
        model.train_on_batch({**batch, "x": 100 * batch["x"]} if isinstance(data, dict) else 100 * batch)
    assert 50 < model.likelihood.scale < 1000


def test_a_file_gives_the_same_model_in_safe_mode_and_training_goes_on_exactly(case, tmp_path):
    build, data = case
    model = compiled(build, IWAE(3))
    model.fit(data, epochs=2, batch_size=5, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is type(model)
    for name in ("alpha", "label_prior", "condition_dim", "num_classes", "latent_dims", "ladder", "commitment"):
        assert loaded.get_config().get(name) == model.get_config().get(name)
    assert_same_weights(loaded, model)
    np.testing.assert_array_equal(loaded.reconstruct(data), model.reconstruct(data))
    np.testing.assert_array_equal(loaded.log_likelihood(data, 20, seed=1), model.log_likelihood(data, 20, seed=1))
    for each in (loaded, model):
        each.fit(data, epochs=3, initial_epoch=2, batch_size=5, verbose=0)
    assert_same_weights(loaded, model)
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.reconstruct(data), model.reconstruct(data))


@pytest.mark.parametrize(
    "mode",
    [{"steps_per_execution": 3}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=str,
)
@pytest.mark.slow
def test_every_weight_is_trained_in_every_mode(case, mode):
    build, data = case
    model = compiled(build, IWAE(3), **mode)
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(data, epochs=2, batch_size=7, verbose=0, validation_data=data).history
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(history["val_elbo"]).all()
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = weight.numpy()
        assert np.isfinite(new).all(), weight.path
        assert np.any(new != old), weight.path


@pytest.mark.slow
def test_xla_gives_the_terms_of_the_graph(case):
    build, data = case
    model = compiled(build)
    batch = tf.nest.map_structure(lambda array: tf.constant(array, tf.float32), data)

    def function(batch):
        terms = model.elbo_terms(batch, Sampling(num_samples=300, seed=tf.constant([0, 1])))
        return terms.log_weights, terms.elbo

    graph, xla = (tf.function(function, jit_compile=jit)(batch) for jit in (False, True))
    # XLA draws different random numbers. The weights of a hierarchy have heavy tails, so that the draws of one side
    # alone would give too small an error.
    error = np.sqrt((np.var(graph[0], axis=0) + np.var(xla[0], axis=0)) / 300)
    assert np.all(np.abs(graph[1] - xla[1]) < 6 * error + 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_gives_nearly_the_terms_of_float32(case, policy, dtype_policy):
    build, data = case
    single = compiled(build)
    dtype_policy(policy)
    mixed = compiled(build)
    mixed.set_weights(single.get_weights())
    batch = tf.nest.map_structure(lambda array: tf.constant(array, tf.float32), data)
    terms = [model.elbo_terms(batch, Sampling(num_samples=4, seed=tf.constant([1, 2]))) for model in (mixed, single)]
    for name in ("reconstruction_log_likelihood", "log_prior", "log_posterior", "kl"):
        assert getattr(terms[0], name).dtype == tf.float32, name
    if build is not vq:  # Rounding can change which code is nearest, and then everything differs.
        np.testing.assert_allclose(terms[0].elbo, terms[1].elbo, rtol=0.05, atol=0.2)
    mixed.fit(data, verbose=0)
    assert all(np.isfinite(weight).all() for weight in mixed.get_weights())


def deaf_decoder():
    """A decoder that multiplies z by 0, so that the noise has no effect."""
    z, condition = keras.Input((2,)), keras.Input((3,))
    deaf = keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)(z)
    return keras.Model([z, condition], keras.layers.Dense(D)(keras.layers.Concatenate()([deaf, condition])))


def deaf_series_decoder():
    z, before = keras.Input((2,)), keras.Input((None, D))
    deaf = keras.layers.Dense(D, kernel_initializer="zeros", trainable=False)(z)[:, None]
    shown = keras.ops.where(keras.ops.absolute(before) > -1, before, keras.ops.zeros_like(before))
    return keras.Model([z, before], keras.layers.Dense(D)(shown + deaf))


def precise(build):
    """A model of layers or steps, on which the noise has hardly an effect, because each q keeps a scale of 1e-5."""
    model = build()
    for posterior in getattr(model, "posteriors", None) or [model.posterior]:
        head = posterior.scale_head
        head.set_weights([np.zeros_like(head.kernel), np.full_like(head.bias, np.log(1e-5))])
        head.trainable = False
    return model


def deaf_deep():
    """A deep hierarchy whose decoders multiply z by 0."""
    model = deep()
    for layer in (layer for decoder in model.decoders for layer in decoder.layers):
        if getattr(layer, "kernel_size", None) == (1, 1):
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
            layer.trainable = False
    return model


# The models, made so that the steps do not depend on the noise, which each replica draws for itself.
QUIET = {
    "conditional": lambda: conditional(decoder=deaf_decoder()),
    "semi-supervised": lambda: semi_supervised(decoder=deaf_decoder()),
    "hierarchical": lambda: precise(hierarchical),
    "ladder": lambda: precise(ladder),
    "deep": deaf_deep,
    "vq": vq,
    "sequential": lambda: precise(sequential),
    "remembering": lambda: precise(remembering),
    "autoregressive": lambda: autoregressive(decoder=deaf_series_decoder()),
}
# From the bottom up, the KL of z_1 has no closed form; log q(z_1|x), of three dimensions, has the variance 3 / 2.
# The tolerance is five standard deviations of the difference of two means of 21 examples.
NOISY = dict.fromkeys(("loss", "elbo", "kl", "kl_1"), 5 * np.sqrt(2 * 1.5 / 21))

REPLICAS = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from tests.models import test_every_model
    test_every_model.compare_replicas()
"""


def compare_replicas():
    """Trains on two replicas and on one device, and prints what differs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # Each is made only once, because collective operations would mistake a second strategy's devices for the first's.
    strategies = (tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), tf.distribute.OneDeviceStrategy("/cpu:0"))
    differences = {}
    for name, (_, data) in MODELS.items():
        results = []
        for strategy in strategies:
            keras.utils.set_random_seed(0)
            with strategy.scope():
                model = QUIET[name]()
                model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0))
            # Batches of 5 are split into 3 + 2, and the last one into 1 + 0.
            history = model.fit(data, epochs=2, batch_size=5, verbose=0).history
            metrics = model.evaluate(data, batch_size=5, verbose=0, return_dict=True)
            results.append((history, metrics, model.get_weights()))
        (history, metrics, weights), (history_of_one, metrics_of_one, weights_of_one) = results
        differences[name] = {
            "weights": max(float(np.abs(a - b).max()) for a, b in zip(weights[:-1], weights_of_one[:-1], strict=True)),
            "loss": history["loss"][-1] - history_of_one["loss"][-1],
            **{key: float(metrics[key] - metrics_of_one[key]) for key in metrics},
        }
    print(json.dumps(differences))


@pytest.mark.slow
def test_two_replicas_take_the_steps_of_one_device(run_python):
    differences = json.loads(run_python(REPLICAS, pathlib.Path(__file__).parents[2]).splitlines()[-1])
    assert set(differences) == set(MODELS)
    for name, values in differences.items():
        for key, difference in values.items():
            # Rounding of log q(z_1|x), whose scale is so small, is in the gradients too.
            tolerance = NOISY.get(key, 1e-3) if name == "hierarchical" else 1e-4
            assert abs(difference) < tolerance, (name, key, difference)
