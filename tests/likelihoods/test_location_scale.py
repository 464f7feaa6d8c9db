"""Likelihoods with a location and a scale: densities against SciPy, and the source of each scale."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, stats

import tfvae
from tfvae import likelihoods as lk
from tfvae import networks

DF = 3.4
EVENT_SHAPES = [(3,), (2, 3, 2)]
SCALES = [0.7, "learned", "per_channel", "per_dimension", "predicted"]
CASES = {
    "Normal": (lk.Normal, stats.norm.logpdf),
    "Laplace": (lk.Laplace, stats.laplace.logpdf),
    "StudentT": (lambda scale: lk.StudentT(DF, scale), lambda x, loc, scale: stats.t.logpdf(x, DF, loc, scale)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def speed(scale):
    """How many times a weight the logarithm of the scale is."""
    return 10 if scale == "per_channel" else 1


def built(likelihood, event_shape):
    likelihood.build((None, *likelihood.parameter_shape(event_shape)))
    rng = np.random.default_rng(7)
    for weight in likelihood.trainable_variables:
        weight.assign((0.3 * rng.normal(size=weight.shape) - 0.5) / speed(likelihood.get_config()["scale"]))
    return likelihood


def data(likelihood, event_shape):
    """Parameters [4, 5, ...], and x [5, ...]."""
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(4, 5, *likelihood.parameter_shape(event_shape))).astype("float32")
    return parameters, (3 * rng.normal(size=(5, *event_shape))).astype("float32")


def loc_and_scale(likelihood, parameters, event_shape):
    """The location and scale in float64, computed from the weights."""
    scale = likelihood.get_config()["scale"]
    each = np.float64(parameters)
    if scale == "predicted":
        each = each.reshape(*each.shape[: -len(event_shape)], *event_shape, 2)
        return each[..., 0], np.logaddexp(0, each[..., 1] + np.log(np.e - 1)) + 0.001
    if isinstance(scale, float):
        return each, scale
    (log_scale,) = likelihood.trainable_variables
    shapes = {"learned": (), "per_channel": event_shape[-1:], "per_dimension": event_shape}
    assert tuple(log_scale.shape) == shapes[scale]
    return each, np.exp(np.float64(log_scale) * speed(scale))


@pytest.mark.parametrize("event_shape", EVENT_SHAPES)
@pytest.mark.parametrize("scale", SCALES)
def test_log_prob_and_mean_are_scipys(case, scale, event_shape):
    make, logpdf = case
    likelihood = built(make(scale), event_shape)
    parameters, x = data(likelihood, event_shape)
    loc, exact_scale = loc_and_scale(likelihood, parameters, event_shape)
    expected = logpdf(np.float64(x), loc, exact_scale).reshape(4, 5, -1).sum(-1)
    np.testing.assert_allclose(likelihood.log_prob(x, parameters), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(likelihood.log_prob(x, parameters, training=True), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(likelihood.distribution(parameters).log_prob(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(likelihood.mean(parameters), loc, rtol=1e-6)
    if scale == "predicted":
        with pytest.raises(ValueError, match=r'Received: a likelihood with scale="predicted"$'):
            _ = likelihood.scale
    else:
        np.testing.assert_allclose(likelihood.scale, exact_scale, rtol=1e-6)


def test_samples_have_the_mean_and_the_quartiles(case):
    likelihood = built(case[0]("predicted"), (2,))
    parameters, _ = data(likelihood, (2,))
    samples = likelihood.distribution(parameters[0]).sample(20000, seed=[1, 2]).numpy()
    assert samples.shape == (20000, 5, 2)
    shares = np.mean(samples < likelihood.mean(parameters[0]), axis=0)
    assert np.all(np.abs(shares - 0.5) < 5 * 0.5 / np.sqrt(20000))


@pytest.mark.slow
def test_a_number_of_degrees_of_freedom_can_be_learned():
    likelihood = lk.StudentT()
    likelihood.build((None, 1))
    assert float(likelihood.df) == pytest.approx(5)
    x = stats.t.rvs(3.0, scale=2.0, size=20000, random_state=0).astype("float32")[:, None]
    optimizer = keras.optimizers.Adam(0.1)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(likelihood.log_prob(x, tf.zeros((1, 20000, 1))))
        optimizer.apply(tape.gradient(loss, likelihood.trainable_variables), likelihood.trainable_variables)

    optimizer.build(likelihood.trainable_variables)
    for _ in range(200):
        step()

    def loss(parameters):
        return -np.mean(stats.t.logpdf(x, parameters[0], scale=parameters[1]))

    best = optimize.minimize(loss, [5.0, 1.0], method="Nelder-Mead").x
    np.testing.assert_allclose([likelihood.df, likelihood.scale], best, rtol=0.01)


@pytest.mark.parametrize("df", [0, -1.0, float("inf"), float("nan"), "x", True, None])
def test_degrees_of_freedom_are_above_0(df):
    message = f'`df` must be a finite number above 0, or "learned". Received: df={df!r}'
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lk.StudentT(df)


@pytest.mark.parametrize("make", [lk.Laplace, lk.StudentT])
def test_integers_are_refused_under_the_name_of_the_likelihood(make):
    with pytest.raises(ValueError, match=f"under the {make.__name__} likelihood: scale integer data first"):
        make().check(np.ones((2, 3), "uint8"))
    with pytest.raises(ValueError, match=r"Received: scale='optimal'$"):
        make(scale="optimal")


# The optimal scale


def test_the_optimal_scale_is_that_of_the_batch_in_training():
    likelihood = built(lk.Normal("optimal"), (3,))
    parameters, x = data(likelihood, (3,))
    assert float(likelihood.scale) == 1
    log_prob = likelihood.log_prob(x, parameters, training=True)
    mean_square = np.mean((np.float64(x) - parameters) ** 2)
    each = stats.norm.logpdf(np.float64(x), parameters, np.sqrt(mean_square))
    np.testing.assert_allclose(log_prob, each.sum(-1), rtol=1e-5)
    # No other scale makes the batch more likely.
    for scale in (0.9, 1.1):
        assert stats.norm.logpdf(x, parameters, scale * np.sqrt(mean_square)).sum() < each.sum()
    # After one step the moving average is the value of that step, with no bias from its start.
    np.testing.assert_allclose(likelihood.scale, np.sqrt(mean_square), rtol=1e-5)
    np.testing.assert_allclose(likelihood.log_prob(x, parameters), log_prob, rtol=1e-5)
    likelihood.log_prob(3 * x, 3 * parameters, training=True)
    np.testing.assert_allclose(likelihood.scale, np.sqrt(mean_square * (0.99 + 9) / 1.99), rtol=1e-5)
    assert likelihood.trainable_variables == []


def test_the_optimal_scale_has_a_floor_and_stays_when_it_is_frozen():
    likelihood = built(lk.Normal("optimal"), (3,))
    x = np.ones((5, 3), np.float32)
    expected = 3 * stats.norm.logpdf(0, scale=1e-3)
    np.testing.assert_allclose(likelihood.log_prob(x, x[None], training=True), np.full((1, 5), expected), rtol=1e-5)
    likelihood.trainable = False
    likelihood.log_prob(x, 0 * x[None], training=True)
    assert float(likelihood.scale) == pytest.approx(1e-3)


def test_missing_values_do_not_count_for_the_optimal_scale():
    likelihood = built(lk.Missing(lk.Columns([(lk.Normal("optimal"), 2), (lk.Normal(), 1)])), (3,))
    parameters, x = data(likelihood, (3,))
    x[np.random.default_rng(1).uniform(size=x.shape) < 0.4] = np.nan
    log_prob = likelihood.log_prob(x, parameters, training=True)
    optimal = likelihood.likelihood.likelihoods[0]
    scale = np.sqrt(np.nanmean((np.float64(x) - parameters)[..., :2] ** 2))
    np.testing.assert_allclose(optimal.scale, scale, rtol=1e-5)
    expected = np.nansum(stats.norm.logpdf(np.float64(x), parameters, [scale, scale, 1]), axis=-1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    before = optimal.scale.numpy()
    likelihood.log_prob(np.full_like(x, np.nan), parameters, training=True)
    assert optimal.scale.numpy() == before


# That the optimal scale follows the error is tested by default in models/test_every_model.py.
@pytest.mark.slow
def test_training_with_the_optimal_scale_ends_where_the_learned_one_does():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(256, 1)) * [1.0, -1.0, 0.5] + 0.2 * rng.normal(size=(256, 3))).astype("float32")
    scales = []
    for scale in ("optimal", "learned"):
        keras.utils.set_random_seed(0)
        encoder, decoder = networks.dense_encoder((3,), hidden=()), networks.dense_decoder(1, (3,), hidden=())
        vae = tfvae.VAE(encoder, decoder, 1, likelihood=lk.Normal(scale))
        vae.compile(keras.optimizers.Adam(0.02), steps_per_execution=100, jit_compile=False)
        batches = tf.data.Dataset.from_tensors(x).repeat()
        losses = [vae.fit(batches, epochs=1, steps_per_epoch=700, shuffle=False, verbose=0).history["loss"][-1]]
        scales.append(float(vae.likelihood.scale))
        losses.append(vae.evaluate(x, batch_size=256, verbose=0, return_dict=True)["loss"])
        assert np.isfinite(losses).all()
    assert scales[0] == pytest.approx(scales[1], rel=0.05)
    assert scales[0] == pytest.approx(0.2, rel=0.15)


REPLICAS = """
    import keras, numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import tfvae
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    for mode in ({}, {"jit_compile": True, "steps_per_execution": 2}):
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            decoder = tfvae.networks.dense_decoder(2, (4,), hidden=())
            likelihood = tfvae.likelihoods.Normal("optimal")
            vae = tfvae.VAE(tfvae.networks.dense_encoder((4,), hidden=()), decoder, 2, likelihood=likelihood)
            vae.compile(keras.optimizers.SGD(0.0), **mode)
        decoder.set_weights([np.zeros((2, 4)), np.zeros(4)])
        loss = vae.fit(x, batch_size=5, epochs=2, verbose=0).history["loss"]
        assert np.isfinite(loss).all() and np.isfinite(vae.evaluate(x, verbose=0)).all()
        first, second = (v.numpy() for v in likelihood.non_trainable_variables[0].value.values)
        print(*(first / first[1])[:1], *(second / second[1])[:1], np.mean(np.square(x)))
"""


@pytest.mark.slow
def test_replicas_share_the_moving_average_of_the_optimal_scale(run_python):
    # The replicas have 3 and 2 examples, and the decoder gives 0, so that the average is that of the mean of x^2.
    for line in run_python(REPLICAS).splitlines()[-2:]:
        first, second, expected = map(float, line.split())
        assert first == second
        assert first == pytest.approx(expected, rel=1e-5)
