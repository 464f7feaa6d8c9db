"""Linear-Gaussian state space models, which a linear `SequentialVAE` is, and their exact answers by the Kalman filter.

z_t ~ N(A z_{t-1} + b, diag(q)^2) with z_0 = 0, and x_t ~ N(C z_t + d, r^2 I)
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfvae
from tests.helpers.linear_gaussian import SHIFT
from tfvae.likelihoods import Missing, Normal

tfd = tfp.distributions


@dataclasses.dataclass(frozen=True)
class Linear:
    """A model: `transition` A [L, L], `loc` b [L], `scale` q [L], `loadings` C [D, L], `offset` d [D], `noise` r."""

    transition: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    loadings: np.ndarray
    offset: np.ndarray
    noise: float

    @classmethod
    def of(cls, model):
        """The model that the weights of a linear `SequentialVAE` are."""
        kernel, loc = (np.float64(each) for each in model.conditional.loc_head.get_weights())
        scale = np.log1p(np.exp(np.float64(model.conditional.scale_head.get_weights()[-1]) + SHIFT)) + 1e-6
        loadings, offset = (np.float64(each) for each in model.decoder.get_weights())
        likelihood = getattr(model.likelihood, "likelihood", model.likelihood)
        return cls(kernel.T, loc, scale, loadings.T, offset, float(likelihood.scale))

    def kalman(self, number):
        return tfd.LinearGaussianStateSpaceModel(
            num_timesteps=number,
            transition_matrix=self.transition,
            transition_noise=tfd.MultivariateNormalDiag(self.loc, self.scale),
            observation_matrix=self.loadings,
            observation_noise=tfd.MultivariateNormalDiag(self.offset, np.full(len(self.offset), self.noise)),
            initial_state_prior=tfd.MultivariateNormalDiag(self.loc, self.scale),
        )

    def filtered(self, x):
        """log p(x_t|x_1, ..., x_{t-1}) [N, T], and the means and standard deviations of z_t [N, T, L].

        A step is missing where it has NaN.
        """
        mask = np.isnan(x).any(axis=-1)
        log_likelihoods, means, covariances, *_ = self.kalman(x.shape[1]).forward_filter(
            np.nan_to_num(np.float64(x)), mask=mask
        )
        return log_likelihoods.numpy(), means.numpy(), np.sqrt(tf.linalg.diag_part(covariances).numpy())

    def joint(self, number):
        """The mean and the covariance of (z_1, ..., z_T, x_1, ..., x_T)."""
        dim, channels = len(self.loc), len(self.offset)
        mean, covariance = np.zeros(number * dim), np.zeros((number * dim, number * dim))
        mean[:dim], covariance[:dim, :dim] = self.loc, np.diag(self.scale**2)
        for t in range(1, number):
            at, before = slice(t * dim, (t + 1) * dim), slice((t - 1) * dim, t * dim)
            mean[at] = self.transition @ mean[before] + self.loc
            covariance[at, : t * dim] = self.transition @ covariance[before, : t * dim]
            covariance[: t * dim, at] = covariance[at, : t * dim].T
            covariance[at, at] = self.transition @ covariance[before, before] @ self.transition.T
            covariance[at, at] += np.diag(self.scale**2)
        loadings = np.kron(np.eye(number), self.loadings)
        of_x = loadings @ covariance @ loadings.T + self.noise**2 * np.eye(number * channels)
        cross = covariance @ loadings.T
        return (
            np.concatenate([mean, loadings @ mean + np.tile(self.offset, number)]),
            np.block([[covariance, cross], [cross.T, of_x]]),
        )

    def draw(self, rows, number, seed=0):
        """Sequences [rows, number, D]."""
        return self.kalman(number).sample(rows, seed=(seed, 1)).numpy().astype(np.float32)


TWO = Linear(
    np.array([[0.9, 0.2], [-0.2, 0.8]]),
    np.array([0.1, -0.1]),
    np.array([0.5, 0.3]),
    np.array([[1.0, 0.3], [-0.5, 1.0], [0.2, 0.4]]),
    np.array([0.3, 0.0, -0.5]),
    0.4,
)


def ar1(coefficient=0.8, scale=0.6, noise=0.01):
    """An autoregressive process of order 1, observed with hardly any noise."""
    return Linear(np.array([[coefficient]]), np.zeros(1), np.array([scale]), np.ones((1, 1)), np.zeros(1), noise)


def model_of(linear, missing=False, encoder=None, combiner=None, **arguments):
    """The `SequentialVAE` with the weights of a linear model; by default with a q that reads x_t and z_{t-1}."""
    channels, dim = linear.loadings.shape
    if encoder is None:
        x = keras.Input((None, channels))
        encoder = keras.Model(x, tfvae.networks.MissingMask()(x) if missing else x)
        width = channels * (2 if missing else 1)
    if combiner is None:
        given = [keras.Input((dim,)), keras.Input((width,))]
        combiner = keras.Model(given, keras.layers.Concatenate()(given))
    model = tfvae.SequentialVAE(
        encoder,
        keras.Sequential([keras.Input((dim,)), keras.layers.Dense(channels)]),
        dim,
        combiner=combiner,
        prior=tfvae.priors.Normal(),
        likelihood=Missing(Normal("learned"), fill=False) if missing else Normal("learned"),
        **arguments,
    )
    model.conditional.loc_head.set_weights([linear.transition.T, linear.loc])
    model.conditional.scale_head.set_weights([np.zeros([dim, dim]), raw_of(linear.scale)])
    model.prior.set_weights([linear.loc, raw_of(linear.scale)])
    model.decoder.set_weights([linear.loadings.T, linear.offset])
    likelihood = model.likelihood.likelihood if missing else model.likelihood
    likelihood.set_weights([np.log(linear.noise)])
    return model


def raw_of(scale):
    """The bias of a head that gives a scale."""
    return np.log(np.expm1(scale - 1e-6)) - SHIFT


def propose_one_step(model, linear):
    """Sets q(z_t|z_{t-1}, x_t) to p(z_t|z_{t-1}, x_t), the best proposal of a filter; in gaps it is as wide as p."""
    precision = np.diag(linear.scale**-2) + linear.loadings.T @ linear.loadings / linear.noise**2
    covariance = np.linalg.inv(precision)
    from_z = covariance @ np.diag(linear.scale**-2)
    from_x = covariance @ linear.loadings.T / linear.noise**2
    kernel = np.concatenate([(from_z @ linear.transition).T, from_x.T])
    # The last rows are of the mask, which is 0 for what is missing.
    rows, dim = model.posterior.loc_head.get_weights()[0].shape
    channels = rows - len(kernel)
    kernel = np.concatenate([kernel, np.zeros((channels, dim))])
    model.posterior.loc_head.set_weights([kernel, from_z @ linear.loc - from_x @ linear.offset])
    wide, narrow = raw_of(linear.scale), raw_of(np.sqrt(np.diag(covariance)))
    of_scale = np.zeros_like(kernel)
    if channels:
        of_scale[-channels:] = (narrow - wide) / channels
    model.posterior.scale_head.set_weights([of_scale, wide if channels else narrow])
