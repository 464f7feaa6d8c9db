"""Bayesian logistic regression with a million rows, in batches of 1024.

    python examples/logistic_regression.py [--rows N]

The rows are drawn from known coefficients, so that the posterior can be compared with them.
"""

import argparse

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae

tfd = tfp.distributions


def log_joint(latents: dict[str, tf.Tensor], data: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Evaluates log p(beta) [S], and log p(y | x, beta) [S, B] with one column for each row."""
    x, y = data
    log_prior = tfd.Sample(tfd.Normal(0.0, 1.0), x.shape[1]).log_prob(latents["beta"])
    return log_prior, predictive(latents, x).log_prob(y)


def predictive(latents: dict[str, tf.Tensor], x: tf.Tensor) -> tfd.Distribution:
    """The predictive distribution of y for rows x [B, D], with batch shape [S, B]."""
    return tfd.Bernoulli(logits=tf.matmul(latents["beta"], x, transpose_b=True))


def main() -> None:
    """Makes the data, fits the model, and prints the posterior beside the true coefficients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    rng = np.random.default_rng(0)
    truth = rng.normal(size=10)
    x = rng.normal(size=(rows, 10)).astype(np.float32)
    y = rng.binomial(1, 1.0 / (1.0 + np.exp(-x @ truth)))

    inference = tfvae.VariationalInference(log_joint, {"beta": (10,)}, predictive=predictive)
    inference.fit(x, y)
    draws = inference.draw(1000, seed=0)
    print(draws.summary().assign(truth=truth).round(4))
    print("p(y = 1) of the first rows:", inference.predict(x[:5], verbose=0).round(3))


if __name__ == "__main__":
    main()
