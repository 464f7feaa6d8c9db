"""The linear VAE, whose log p(x) and posterior are known exactly: see models/test_probabilistic_pca.py."""

import dataclasses

import keras
import numpy as np
from scipy import stats

from tfvae import VAE, likelihoods
from tfvae.networks import dense_decoder, dense_encoder

# The scale head is shifted by this, so that the scale is 1 where the head gives 0.
SHIFT = np.log(np.e - 1)


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The exact answers for the weights of a linear VAE; `loadings` is W [D, L]."""

    loadings: np.ndarray
    loc: np.ndarray
    variance: float

    @classmethod
    def of(cls, vae):
        kernel, bias = (np.float64(weight) for weight in vae.decoder.get_weights())
        return cls(kernel.T, bias, float(vae.likelihood.scale) ** 2)

    def log_prob(self, x):
        covariance = self.loadings @ self.loadings.T + self.variance * np.eye(len(self.loc))
        return stats.multivariate_normal(self.loc, covariance).logpdf(np.float64(x))

    def posterior(self, x):
        """The mean [N, L] and the covariance [L, L] of p(z|x)."""
        precision = self.loadings.T @ self.loadings + self.variance * np.eye(self.loadings.shape[1])
        mean = np.linalg.solve(precision, self.loadings.T @ (np.float64(x) - self.loc).T).T
        return mean, self.variance * np.linalg.inv(precision)


def linear_vae(num_columns, latent_dim):
    keras.utils.set_random_seed(0)
    return VAE(
        dense_encoder((num_columns,), hidden=()),
        dense_decoder(latent_dim, (num_columns,), hidden=()),
        latent_dim,
        likelihood=likelihoods.Normal(scale="learned"),
    )


def small_data(num_examples=40):
    generator = np.random.default_rng(0)
    return (generator.normal(size=(num_examples, 2)) @ generator.normal(size=(2, 5)) + 1).astype("float32")


def set_optimum(vae, x, loc_shift=0.0, scale_factor=1.0):
    """Sets the decoder to the maximum of log p(x) (Tipping & Bishop, equations 7 and 8), and q(z|x) to its posterior.

    `loc_shift` and `scale_factor` move q(z|x) away from the exact posterior, which is diagonal even though the variance
    is at least 0.01.
    """
    loc = x.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, ddof=0))
    latent_dim = vae.latent_dim
    variance = max(values[:-latent_dim].mean(), 0.01)
    oracle = Oracle(vectors[:, -latent_dim:] * np.sqrt(values[-latent_dim:] - variance), loc, variance)
    _, covariance = oracle.posterior(x)
    vae.decoder.set_weights([oracle.loadings.T, loc])
    vae.likelihood.set_weights([0.5 * np.log(variance)])
    set_posterior(vae, oracle, np.sqrt(np.diag(covariance)) * scale_factor, loc_shift)


def correlated_vae(num_columns=5, latent_dim=2, scale=0.7):
    """A linear VAE whose exact posterior is wide and correlated, and whose q(z|x) is the best diagonal one."""
    vae = linear_vae(num_columns, latent_dim)
    loadings = np.random.default_rng(1).normal(size=(num_columns, latent_dim)) * 0.7 + 0.3
    oracle = Oracle(loadings, np.linspace(-1, 1, num_columns), scale**2)
    vae.decoder.set_weights([loadings.T, oracle.loc])
    vae.likelihood.set_weights([np.log(scale)])
    _, covariance = oracle.posterior(np.zeros((1, num_columns)))
    set_posterior(vae, oracle, np.diag(np.linalg.inv(covariance)) ** -0.5)
    return vae


def set_posterior(vae, oracle, scale, loc_shift=0.0):
    """Sets the mean of q(z|x) to that of the exact posterior plus `loc_shift`, and its scale to `scale`."""
    _, covariance = oracle.posterior(np.zeros((1, len(oracle.loc))))
    kernel = oracle.loadings @ covariance / oracle.variance
    vae.posterior.loc_head.set_weights([kernel, loc_shift - oracle.loc @ kernel])
    vae.posterior.scale_head.set_weights([np.zeros_like(kernel), np.log(np.expm1(scale - 1e-6)) - SHIFT])


def draws_of(vae, num_examples, seed=0):
    """Examples [N, D] from the model's own distribution."""
    oracle, generator = Oracle.of(vae), np.random.default_rng(seed)
    z = generator.normal(size=(num_examples, vae.latent_dim))
    noise = np.sqrt(oracle.variance) * generator.normal(size=(num_examples, len(oracle.loc)))
    return (z @ oracle.loadings.T + oracle.loc + noise).astype("float32")
