"""Missing values, and tables with several kinds of columns: densities, training and errors."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats

import tfvae
from tfvae import likelihoods as lk
from tfvae import networks, objectives

NAN = np.float32(np.nan)


def built(likelihood, event_shape):
    likelihood.build((None, *likelihood.parameter_shape(event_shape)))
    return likelihood


def with_gaps(x, seed=0):
    """A copy with 40% of the values missing, and all of the first row."""
    x = np.array(x, np.float32)
    x[np.random.default_rng(seed).uniform(size=x.shape) < 0.4] = np.nan
    x[0] = np.nan
    return x


def vae_of(likelihood, num_columns=4, objective=None, **arguments):
    keras.utils.set_random_seed(0)
    masked = not getattr(likelihood, "fill", True)
    vae = tfvae.VAE(
        networks.dense_encoder((num_columns,), hidden=(8,), missing_mask=masked),
        networks.dense_decoder(2, likelihood.parameter_shape((num_columns,)), hidden=(8,)),
        2,
        likelihood=likelihood,
        objective=objective,
    )
    vae.compile(keras.optimizers.Adam(0.01), **arguments)
    return vae


@pytest.mark.parametrize("event_shape", [(4,), (2, 2, 3)])
def test_the_density_is_that_of_what_is_observed(event_shape):
    likelihood = built(lk.Missing(lk.Normal(0.5)), event_shape)
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(3, 6, *event_shape)).astype("float32")
    x = with_gaps(rng.normal(size=(6, *event_shape)))
    expected = np.nansum(stats.norm.logpdf(np.float64(x), parameters, 0.5).reshape(3, 6, -1), axis=-1)
    assert np.all(expected[:, 0] == 0)
    np.testing.assert_allclose(likelihood.log_prob(x, parameters), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(likelihood.mean(parameters), parameters)


@pytest.mark.parametrize(
    "likelihood", [lk.Normal, lk.Laplace, lk.StudentT, lk.Bernoulli, lk.Poisson, lk.DiscretizedLogistic], ids=str
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_are_finite_and_those_of_what_is_observed(likelihood, jit_compile):
    inner = likelihood()
    missing, complete = built(lk.Missing(inner), (4,)), built(likelihood(), (4,))
    x = with_gaps(np.random.default_rng(0).integers(0, 2, size=(5, 4)))
    parameters = tf.constant(np.random.default_rng(1).normal(size=(1, 5, inner.parameter_shape((4,))[-1])), tf.float32)

    @tf.function(jit_compile=jit_compile)
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            log_prob = missing.log_prob(x, parameters)
        return tape.gradient(log_prob, parameters)

    with tf.GradientTape() as tape:
        tape.watch(parameters)
        elements = complete.element_log_prob(tf.constant(np.nan_to_num(x)), parameters)
        log_prob = tf.reduce_sum(elements * np.float32(np.isfinite(x)))
    np.testing.assert_allclose(gradient(), tape.gradient(log_prob, parameters), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "inner", [lk.Normal("predicted"), lk.Categorical(3), lk.Columns([(lk.Poisson(), 1), (lk.Categorical(3), 2)])]
)
def test_the_shape_of_x_is_that_of_the_likelihood_of_complete_data(inner):
    likelihood = lk.Missing(inner)
    likelihood.build((None, *likelihood.parameter_shape((3,))))
    assert likelihood.distribution(tf.zeros([2, *likelihood.parameter_shape((3,))])).event_shape == (3,)
    assert likelihood.to_event(tf.zeros([2, 3])).shape == (2, 3)


def test_a_likelihood_of_which_0_is_no_value_says_what_takes_the_place_of_missing_ones():
    class LogNormal(lk.Likelihood):
        placeholder = 1.0

        def element_distribution(self, parameters):
            return tfp.distributions.LogNormal(parameters, 1.0)

    likelihood = built(lk.Missing(lk.Columns([(lk.Normal(), 1), (LogNormal(), 2)])), (3,))
    parameters, x = tf.zeros((1, 1, 3)), tf.constant([[NAN, NAN, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        log_prob = likelihood.log_prob(x, parameters)
    np.testing.assert_allclose(log_prob, [[stats.lognorm(1).logpdf(2)]], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(log_prob, parameters), [[[0, 0, np.log(2)]]], rtol=1e-6)


@pytest.mark.parametrize("fill", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_method_takes_missing_values(fill):
    x = with_gaps(np.random.default_rng(0).normal(size=(40, 4)))
    vae = vae_of(lk.Missing(lk.Normal("learned"), fill=fill), objective=objectives.IWAE(5, doubly_reparameterized=True))
    history = vae.fit(x, validation_data=(with_gaps(x, 1),), epochs=3, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(vae.evaluate(x, verbose=0)).all()
    for value in (*vae.encode(x).values(), vae.reconstruct(x), vae.predict(x, verbose=0), *vae.score(x).values()):
        assert np.isfinite(value).all()
    log_likelihood = vae.log_likelihood(x, num_samples=2000, seed=0)
    # log p(x) is log 1 for a row with no observed values.
    np.testing.assert_allclose(log_likelihood[0], 0, atol=0.1)
    filled = np.where(np.isnan(x), 0, x)
    if fill:
        np.testing.assert_array_equal(vae.encode(x)["loc"], vae.encode(filled)["loc"])
    else:
        assert np.abs(vae.encode(x)["loc"] - vae.encode(filled)["loc"])[1:].max() > 1e-3


def test_the_mask_layer_shows_what_is_missing():
    layer = networks.MissingMask()
    x = np.float32([[[1, NAN], [NAN, -2]]])
    np.testing.assert_array_equal(layer(x), [[[1, 0, 1, 0], [0, -2, 0, 1]]])
    assert layer.compute_output_shape((None, 2, 2)) == (None, 2, 4)


@pytest.mark.slow
def test_a_model_of_missing_values_is_the_same_from_a_file(tmp_path):
    x = with_gaps(np.random.default_rng(0).normal(size=(20, 4)))
    columns = {"a": (lk.Normal("per_dimension"), 2), "b": (lk.StudentT(), 2)}
    vae = vae_of(lk.Missing(lk.Columns(columns), fill=False), jit_compile=False)
    vae.fit(x, epochs=1, verbose=0)
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.score(x)["elbo"], vae.score(x)["elbo"])


def test_nan_is_refused_where_it_has_no_meaning_and_infinity_everywhere():
    x = np.float32([[0, 1, NAN, 3]])
    with pytest.raises(ValueError, match=r"must be finite; .*likelihoods\.Missing\. Received: 1 values that are NaN"):
        vae_of(lk.Normal()).fit(x)
    vae = vae_of(lk.Missing(lk.Normal()))
    with pytest.raises(
        ValueError, match=r"finite or NaN, which marks a missing value\. Received: 1 values that are infinite"
    ):
        vae.fit(np.float32([[0, NAN, np.inf, 1]]))


def test_what_is_observed_is_checked():
    missing = lk.Missing(lk.Bernoulli())
    missing.check(np.float32([[0, NAN], [1, NAN]]))
    with pytest.raises(ValueError, match=r"must hold only 0 and 1 .* the value 0\.5 at index \[1, 0\]$"):
        missing.check(np.float32([[0, NAN], [0.5, NAN]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "Normal"}, "`likelihood` must be a Likelihood. Received: likelihood='Normal'"),
        ({"likelihood": lk.Missing(lk.Normal())}, "`likelihood` must be a likelihood of complete data. Received: "),
        ({"likelihood": lk.Normal(), "fill": 0}, "`fill` must be True or False. Received: fill=0"),
    ],
)
def test_arguments_of_missing_are_checked(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        lk.Missing(**arguments)


def test_what_is_taken_element_by_element_must_be_a_product_over_elements():
    class Joint(lk.Bernoulli):
        def log_prob(self, x, parameters, training=False):
            return super().log_prob(x, parameters, training) / 2

    class Named(Joint):
        factorises = True

    for wrapper in (lk.Missing, lambda likelihood: lk.Columns([(likelihood, 1)])):
        with pytest.raises(ValueError, match="must be a product over the elements of x"):
            wrapper(Joint())
        assert wrapper(Named()).factorises


# Columns


def table(n, rng):
    """Real numbers in columns 0 and 1, codes of three classes in 2, counts in 3, bits in 4."""
    numbers, codes = rng.normal(size=(n, 2)), rng.integers(0, 3, size=(n, 1))
    return np.float32(np.hstack([numbers, codes, rng.poisson(2.0, size=(n, 1)), rng.integers(0, 2, size=(n, 1))]))


def mixed():
    return lk.Columns(
        {"size": (lk.Normal(0.5), 2), "kind": (lk.Categorical(3), 1), "n": (lk.Poisson(), 1), "is": (lk.Bernoulli(), 1)}
    )


def test_columns_have_the_densities_of_their_likelihoods():
    likelihood = built(mixed(), (5,))
    assert likelihood.parameter_shape((5,)) == (2 + 3 + 1 + 1,)
    rng = np.random.default_rng(0)
    x, parameters = table(6, rng), rng.normal(size=(4, 6, 7)).astype("float32")
    p = np.float64(parameters)
    probabilities = special.softmax(p[..., 2:5], axis=-1)
    expected = (
        stats.norm.logpdf(x[:, :2], p[..., :2], 0.5).sum(-1)
        + np.log(np.take_along_axis(probabilities, np.tile(x[:, 2:3].astype(int), (4, 1, 1)), axis=-1))[..., 0]
        + stats.poisson.logpmf(x[:, 3], np.exp(p[..., 5]))
        + stats.bernoulli.logpmf(x[:, 4], special.expit(p[..., 6]))
    )
    np.testing.assert_allclose(likelihood.log_prob(x, parameters), expected, rtol=1e-5)
    np.testing.assert_allclose(likelihood.distribution(parameters).log_prob(x), expected, rtol=1e-5)
    mean = likelihood.mean(parameters)
    assert mean.shape == (4, 6, *likelihood.mean_shape((5,)))
    means = [p[..., :2], probabilities, np.exp(p[..., 5:6]), special.expit(p[..., 6:])]
    np.testing.assert_allclose(mean, np.concatenate(means, axis=-1), rtol=1e-5)
    points = likelihood.to_data(mean.numpy())
    assert points.shape == (4, 6, 5)
    np.testing.assert_array_equal(points[..., 2], probabilities.argmax(-1))
    np.testing.assert_array_equal(points[..., 3:], mean[..., 5:])


def test_columns_draw_data_that_they_accept():
    likelihood = built(mixed(), (5,))
    parameters = np.random.default_rng(0).normal(size=(3, 7)).astype("float32")
    samples = likelihood.distribution(parameters).sample(4000, seed=[1, 2]).numpy()
    assert samples.shape == (4000, 3, 5)
    likelihood.check(samples.reshape(-1, 5))
    mean = np.delete(likelihood.mean(parameters), [2, 3, 4], axis=-1)
    seen = np.delete(samples, 2, axis=-1)
    assert np.all(np.abs(seen.mean(0) - mean) < 5 * seen.std(0) / np.sqrt(4000))


def test_a_column_that_is_refused_is_named():
    x = table(6, np.random.default_rng(0))
    mixed().check(x)
    for column, value, message in (
        (2, 3, r'Column 2 of x of "kind": `x` must hold the codes 0 to 2'),
        (3, -1, r'Column 3 of x of "n": `x` must hold counts'),
        (4, 0.5, r'Column 4 of x of "is": `x` must hold only 0 and 1'),
    ):
        wrong = x.copy()
        wrong[1, column] = value
        with pytest.raises(ValueError, match=f"^{message}"):
            mixed().check(wrong)
    with pytest.raises(ValueError, match=r"^Column 1 of x: `x` must hold only 0 and 1"):
        lk.Columns([(lk.Bernoulli(), 3)]).check(np.float32([[0, 2, 3]]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], "`columns` must be pairs of a likelihood and a number of columns"),
        ([lk.Normal()], "`columns` must be pairs"),
        ([(lk.Normal(), 0)], "`columns` must be an integer of at least 1. Received: columns=0"),
        ([("Normal", 1)], "`columns` must be a Likelihood. Received: columns='Normal'"),
        ([(lk.Normal("per_dimension"), 1)] * 2, "`columns` must have a separate likelihood for each group"),
        ([(lk.Missing(lk.Normal()), 1)], "`columns` must hold neither a Columns nor a likelihood that allows missing"),
    ],
)
def test_arguments_of_columns_are_checked(columns, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        lk.Columns(columns)


def test_columns_must_be_those_of_x():
    with pytest.raises(ValueError, match=r"must describe the 4 columns of x .* Received: groups with 3 columns"):
        lk.Columns([(lk.Normal(), 3)]).parameter_shape((4,))


def test_columns_have_names_of_their_own():
    columns = lk.Columns([(lk.Normal(), 2), (lk.Bernoulli(), 1)], names=["height", "width", "is_round"])
    assert columns.column_names == ("height", "width", "is_round")
    again = lk.Columns.from_config(columns.get_config())
    assert again.column_names == columns.column_names
    with pytest.raises(ValueError, match='Column 2 of x of "is_round": '):
        columns.check(np.array([[0.0, 1.0, 2.0]]))
    shown = [group.name for group in built(columns, (3,)).groups(np.zeros([2, 3]), np.zeros([2, 3]))]
    assert shown == ["Columns 0 to 1 of x (height, width): ", "Column 2 of x (is_round): "]
    with pytest.raises(ValueError, match=r"`names` must be those of 3 columns. Received: names=\['a'\]"):
        lk.Columns([(lk.Normal(), 2), (lk.Bernoulli(), 1)], names=["a"])
