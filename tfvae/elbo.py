"""The evidence lower bound: the one place where z is drawn and the three log-densities are evaluated.

For any q(z|x), Jensen's inequality gives

    log p(x) >= ELBO(x) = E_q[log p(x|z)] - KL(q(z|x) || p(z)).

Everything that tfvae maximises is computed from the terms that are estimated here. Letters in shapes: S samples,
B batch, L latent dimension.

Reference: Kingma & Welling 2013, Auto-Encoding Variational Bayes, equations 2, 3 and 7.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class ElboTerms(NamedTuple):
    """The terms of the bound, in nats, each evaluated at z ~ q(z|x).

    Attributes:
        log_likelihood: log p(x|z) [S, B].
        log_prior: log p(z) [S, B].
        log_posterior: log q(z|x) [S, B].
        kl: KL(q(z|x) || p(z)) [B], in closed form or as the mean of log q(z|x) - log p(z) over the samples.
    """

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_posterior: tf.Tensor
    kl: tf.Tensor

    @property
    def log_weights(self) -> tf.Tensor:
        """Log importance weights log p(x|z) + log p(z) - log q(z|x) [S, B], in nats."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def elbo(self) -> tf.Tensor:
        """The evidence lower bound [B], in nats per example: mean over S of log p(x|z), minus the KL divergence."""
        return tf.reduce_mean(self.log_likelihood, axis=0) - self.kl

    def tempered(self, weight: tf.Tensor) -> "ElboTerms":
        """The terms with log p(z), log q(z|x) and the KL divergence multiplied by a weight, a scalar."""
        return ElboTerms(self.log_likelihood, weight * self.log_prior, weight * self.log_posterior, weight * self.kl)


def estimate(
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    log_likelihood: Callable[[tf.Tensor], tf.Tensor],
    *,
    num_samples: int,
    seed: tf.Tensor,
    analytic_kl: bool = True,
) -> ElboTerms:
    """Draws z ~ q(z|x), reparameterised, and evaluates the terms of the bound.

    Args:
        posterior: q(z|x), with batch shape [B] and event shape [L].
        prior: p(z), with event shape [L] and a batch shape that broadcasts against [B].
        log_likelihood: maps z [S, B, L] to log p(x|z) [S, B].
        num_samples: S, the number of draws for each example.
        seed: int32 [2], a stateless seed: the same seed gives the same draws.
        analytic_kl: use the closed form of the KL divergence where TFP has one; the Monte Carlo form otherwise.

    Returns:
        The terms, in nats per example.
    """
    z, log_posterior = posterior.experimental_sample_and_log_prob(num_samples, seed=seed)
    return terms_at(z, log_posterior, posterior, prior, log_likelihood, analytic_kl=analytic_kl)


def terms_at(
    z: tf.Tensor,
    log_posterior: tf.Tensor,
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    log_likelihood: Callable[[tf.Tensor], tf.Tensor],
    *,
    analytic_kl: bool = True,
) -> ElboTerms:
    """Evaluates the terms of the bound at given z.

    Args:
        z: the latent variables [S, B, L].
        log_posterior: log q(z|x) [S, B].
        posterior: see `estimate`.
        prior: see `estimate`.
        log_likelihood: see `estimate`.
        analytic_kl: see `estimate`.

    Returns:
        The terms, in nats per example.
    """
    log_prior = prior.log_prob(z)
    kl = _closed_form_kl(posterior, prior) if analytic_kl else None
    if kl is None:
        kl = tf.reduce_mean(log_posterior - log_prior, axis=0)
    return ElboTerms(log_likelihood(z), log_prior, log_posterior, kl)


def _closed_form_kl(posterior: tfd.Distribution, prior: tfd.Distribution) -> tf.Tensor | None:
    """KL(posterior || prior) [B] in nats, or None where TFP has no closed form."""
    try:
        return posterior.kl_divergence(prior)
    except NotImplementedError:
        return None
