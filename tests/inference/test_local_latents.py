"""Local latent variables with an encoder: a random effect for each row, whose best approximation is known."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfvae import Latent, LocalLatents, VariationalInference, posteriors

tfb = tfp.bijectors
tfd = tfp.distributions

# mu ~ N(0, 2), z_n ~ N(mu, 1), y_n ~ N(z_n, sigma).
N = 20
GENERATOR = np.random.default_rng(0)
Z = 1.5 + GENERATOR.normal(size=N)
NOISE = GENERATOR.normal(size=N)


def data(sigma):
    return (Z + sigma * NOISE).astype("float32")[:, np.newaxis]


def log_joint(sigma, latents, y):
    mu, z = latents["mu"], latents["z"]
    log_rows = tfd.Normal(mu[:, tf.newaxis], 1.0).log_prob(z) + tfd.Normal(z, sigma).log_prob(y[:, 0])
    return tfd.Normal(0.0, 2.0).log_prob(mu), log_rows


def log_joint_of_positive(sigma, latents, y):
    """`log_joint` for exp(z_n), whose density includes the Jacobian of the logarithm."""
    z = tf.math.log(latents["z"])
    log_prior, log_rows = log_joint(sigma, {**latents, "z": z}, y)
    return log_prior, log_rows - z


def local(latent=(), **arguments):
    return LocalLatents({"z": latent}, keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]), **arguments)


def best_elbo(sigma):
    """The highest ELBO if mu and the z_n are independent under q, and log p(data).

    Everything is Gaussian: the gap is half of log(product of the diagonal of the precision / its determinant).
    """
    covariance = (1 + sigma**2) * np.eye(N) + 4.0
    log_evidence = stats.multivariate_normal(np.zeros(N), covariance).logpdf(data(sigma)[:, 0])
    of_mu, of_z = 1 / 4 + N, 1 + 1 / sigma**2
    return log_evidence - 0.5 * math.log(of_mu / (of_mu - N / of_z)), log_evidence


def mean_and_sd_of_mu(sigma):
    """The posterior mean of mu, which is also that of the best q, and the standard deviation of mu under the best q."""
    precision = 1 / 4 + N / (1 + sigma**2)
    return data(sigma).sum() / (1 + sigma**2) / precision, (1 / 4 + N) ** -0.5


# By default, random effects are fitted by batches, below.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "function", "latent"),
    [
        (0.2, log_joint, ()),
        (0.7, log_joint, ()),
        (0.7, log_joint_of_positive, Latent((), tfb.Exp())),
    ],
)
def test_random_effects(sigma, function, latent):
    best, log_evidence = best_elbo(sigma)
    model = VariationalInference(functools.partial(function, sigma), {"mu": ()}, local=local(latent))
    model.fit(data(sigma), epochs=12, verbose=0)
    draws = model.draw(4000, seed=0)
    assert draws.elbo == pytest.approx(best, abs=0.05 + 4 * draws.elbo_standard_error)
    assert draws.elbo < log_evidence + 4 * draws.elbo_standard_error
    assert (log_evidence - best < 0.05) == (sigma == 0.2)
    mean, sd = mean_and_sd_of_mu(sigma)
    assert abs(draws["mu"].mean() - mean) < 0.25 * sd
    assert draws["mu"].std() == pytest.approx(sd, rel=0.1)


@pytest.mark.slow
def test_random_effects_by_batches_and_from_a_file(tmp_path):
    sigma = 0.7
    function = functools.partial(log_joint, sigma)
    model = VariationalInference(function, {"mu": ()}, num_data=N, local=local())
    dataset = tf.data.Dataset.from_tensor_slices(data(sigma)).shuffle(N, seed=0).batch(8).repeat(40)
    model.compile(keras.optimizers.Adam(0.05), steps_per_execution=10)
    model.fit(dataset, epochs=3, verbose=0)
    draws = model.draw(1000, data(sigma), seed=0)
    # Adam with a constant learning rate does not quite reach the optimum.
    assert draws.elbo == pytest.approx(best_elbo(sigma)[0], abs=0.5)
    model.save(tmp_path / "q.keras")
    own = {"model": function, "latents": {"mu": ()}, "local": local()}
    loaded = keras.saving.load_model(tmp_path / "q.keras", custom_objects=own)
    again = loaded.draw(1000, data(sigma), seed=0)
    np.testing.assert_array_equal(again["mu"], draws["mu"])
    np.testing.assert_allclose(again.log_weights, draws.log_weights, rtol=1e-5)


@pytest.mark.slow
def test_weights_are_not_loaded_into_an_encoder_without_shapes(tmp_path):
    models = [
        VariationalInference(
            functools.partial(log_joint, 0.7),
            {"mu": ()},
            local=LocalLatents({"z": ()}, keras.Sequential([keras.layers.Dense(2)])),
        )
        for _ in range(2)
    ]
    models[0].fit(data(0.7), epochs=1, verbose=0)
    models[0].save_weights(tmp_path / "q.weights.h5")
    with pytest.raises(ValueError, match=r"`local` must have an encoder that knows the shape.*Received: "):
        models[1].load_weights(tmp_path / "q.weights.h5")


def test_the_posterior_of_each_row_is_that_of_the_encoder():
    latents = LocalLatents({"a": (), "b": (2,)}, keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    assert latents.built
    distribution = latents.distribution(tf.ones([5, 4]))
    assert distribution.batch_shape == (5,)
    assert distribution.event_shape == (3,)
    assert len(latents.trainable_variables) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_data_of_several_parts():
    y = data(0.7)
    inputs = {"y": keras.Input((1,)), "k": keras.Input((), dtype="int64")}
    encoder = keras.Model(inputs, keras.layers.Dense(2)(inputs["y"]))

    def model(latents, parts):
        assert parts["k"].dtype == tf.int64
        return log_joint(0.7, latents, parts["y"])

    model = VariationalInference(model, {"mu": ()}, local=LocalLatents({"z": ()}, encoder))
    history = model.fit({"y": y, "k": np.arange(N)}, epochs=2, verbose=0).history
    assert history["elbo"][-1] > history["elbo"][0]


ARGUMENTS = {
    "latents": ({"latents": {}}, "`latents` must be a dictionary"),
    "encoder": ({"encoder": lambda x: x}, "`encoder` must be a Keras model"),
    "features": (
        {"encoder": keras.Sequential([keras.Input((3, 4)), keras.layers.Dense(2)])},
        r"`encoder` must give features \[B, F\]",
    ),
    "posterior": ({"posterior": "normal"}, "`posterior` must be a Posterior"),
    "latent_dim": ({"posterior": posteriors.DiagonalNormal(3)}, "`posterior` must have latent_dim=1"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_checked(case):
    arguments, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=rf"(?s)^{message}.*Received: "):
        LocalLatents(**{"latents": {"z": ()}, "encoder": keras.layers.Dense(2), **arguments})


def test_a_name_that_is_global_too_is_refused():
    with pytest.raises(ValueError, match=r"^`local` must be a tfvae.LocalLatents, with other names.*Received: \['z'\]"):
        VariationalInference(functools.partial(log_joint, 0.7), {"z": ()}, local=local())


def test_a_log_joint_in_one_piece_is_refused():
    model = VariationalInference(
        lambda latents, y: tf.add(*[tf.reduce_sum(part) for part in log_joint(0.7, latents, y)]) * tf.ones(3),
        {"mu": ()},
        local=local(),
    )
    with pytest.raises(ValueError, match=r"^`model` must give the pair .* rows have latent variables.*Received: "):
        model.fit(data(0.7), epochs=1, verbose=0)


def test_local_latents_without_data_are_refused():
    pinned = tfd.JointDistributionNamed({"mu": tfd.Normal(0.0, 1.0), "y": lambda mu: tfd.Normal(mu, 1.0)})
    model = VariationalInference(pinned.experimental_pin(y=0.0), local=local())
    with pytest.raises(ValueError, match=r"^`x` must be.*Received: x=None"):
        model.fit(epochs=1, verbose=0)
