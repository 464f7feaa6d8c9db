"""Simulation-based calibration of variational inference: a regression, and the eight schools.

    python examples/calibration.py [--model regression | mean-field | eight-schools] [--datasets N] [--corrected]

Latent variables are drawn from the prior, and data from them; where these lie among the draws of q says whether q is
the posterior. Most of the p-values should be above 0.05. The data sets are fitted together.
"""

import argparse
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae

tfd = tfp.distributions


def regression(posterior: tfvae.posteriors.Posterior | None = None) -> tfvae.VariationalInference:
    """A linear regression with two covariates that are almost the same."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    joint = tfd.JointDistributionNamed(
        {
            "beta": tfd.Sample(tfd.Normal(0.0, 2.0), 3),
            "y": lambda beta: tfd.Independent(tfd.Normal(tf.linalg.matvec(x, beta), 1.0), 1),
        }
    )
    # The observations only say what is observed: each data set has its own.
    return tfvae.VariationalInference(joint.experimental_pin(y=np.zeros(40, np.float32)), posterior=posterior)


def eight_schools() -> tfvae.VariationalInference:
    """The effects of coaching in eight schools (Rubin 1981), not centred."""
    sd = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)
    joint = tfd.JointDistributionNamed(
        {
            "mu": tfd.Normal(0.0, 5.0),
            "tau": tfd.HalfNormal(5.0),
            "eta": tfd.Sample(tfd.Normal(0.0, 1.0), 8),
            "y": lambda mu, tau, eta: tfd.Independent(tfd.Normal(mu[..., None] + tau[..., None] * eta, sd), 1),
        }
    )
    return tfvae.VariationalInference(joint.experimental_pin(y=np.zeros(8, np.float32)))


MODELS = {
    "regression": regression,
    "mean-field": lambda: regression(tfvae.posteriors.DiagonalNormal()),
    "eight-schools": eight_schools,
}


def main() -> None:
    """Prints the table, and draws calibration.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="regression")
    parser.add_argument("--datasets", type=int, default=100)
    parser.add_argument("--corrected", action="store_true", help="rank among draws weighted by importance")
    given = parser.parse_args()
    start = time.process_time()
    found = tfvae.evaluation.calibration(MODELS[given.model](), num_datasets=given.datasets, corrected=given.corrected)
    print(f"{found}\n{time.process_time() - start:.1f} s of CPU")
    print(found.summary().round(4).to_string())
    tfvae.plots.calibration(found).savefig("calibration.png")


if __name__ == "__main__":
    main()
