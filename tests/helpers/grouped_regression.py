"""A Gaussian regression with an effect for each group, and its exact posterior.

y ~ N(a[group] + x b, SIGMA), a and b ~ N(0, PRIOR_SD); without the groups, a is 0.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

SIGMA, PRIOR_SD, N, GROUPS = 0.5, 3.0, 12, 3
GENERATOR = np.random.default_rng(0)
# In double precision and integers, the default types of NumPy.
X = GENERATOR.normal(size=[N, 2])
GROUP = np.arange(N) % GROUPS
Y = (X @ [1.0, -2.0] + np.array([0.0, 1.0, 2.0])[GROUP] + SIGMA * GENERATOR.normal(size=N)).astype("float32")


def location(latents, x):
    """The location [S, B] for an array, or for a dictionary with groups."""
    if not isinstance(x, dict):
        return tf.einsum("sk,bk->sb", latents["b"], x)
    assert x["group"].dtype in (tf.int32, tf.int64)
    return location(latents, x["x"]) + tf.gather(latents["a"], x["group"], axis=1)


def log_joint(latents, data):
    x, y = data
    log_prior = [tf.reduce_sum(tfd.Normal(0.0, PRIOR_SD).log_prob(value), axis=1) for value in latents.values()]
    return tf.add_n(log_prior), tfd.Normal(location(latents, x), SIGMA).log_prob(y)


def predictive(latents, x):
    return tfd.Normal(location(latents, x), SIGMA)


def new_data(form, rows=5):
    """Data near the centre, where most of the variance is noise, and far from it, where most is from the posterior."""
    generator = np.random.default_rng(rows)
    x = generator.normal(size=[rows, 2]) * np.resize([[0.1], [8.0]], [rows, 1])
    return x if form == "array" else {"x": x, "group": generator.integers(0, GROUPS, rows)}


def columns(x):
    """The inputs as a client sends them."""
    return {key: np.asarray(value, np.float32) for key, value in (x if isinstance(x, dict) else {"x": x}).items()}


def as_tensors(arrays):
    return {key: tf.constant(array) for key, array in arrays.items()}


def design(x):
    """The design matrix of `location`, by hand."""
    return np.concatenate([np.eye(GROUPS)[x["group"]], x["x"]], axis=1) if isinstance(x, dict) else x


def exact_posterior(x):
    columns = design(x)
    covariance = np.linalg.inv(columns.T @ columns / SIGMA**2 + np.eye(columns.shape[1]) / PRIOR_SD**2)
    return covariance @ columns.T @ Y.astype(float) / SIGMA**2, covariance


LATENTS_OF = {"array": {"b": (2,)}, "dictionary": {"a": (GROUPS,), "b": (2,)}}
DATA = {"array": X, "dictionary": {"x": X, "group": GROUP}}
