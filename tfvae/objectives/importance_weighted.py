"""Bounds made of importance weights, which are tighter than the evidence lower bound."""

import dataclasses
import math

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.elbo import ElboTerms
from tfvae.objectives.objective import PACKAGE, Objective


@dataclasses.dataclass(frozen=True)
class _Grouped(Objective):
    """A bound that divides the draws into groups.

    Args:
        num_samples: S, the number of draws of z for each example.
        groups: M, the number of groups, which divides S.
        doubly_reparameterized: see `IWAE`.
    """

    num_samples: int = 10
    groups: int = 2
    doubly_reparameterized: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "groups", checks.positive_integer("groups", self.groups))
        if self.num_samples % self.groups:
            raise ValueError(f"`groups` must divide num_samples={self.num_samples}. Received: groups={self.groups}")

    @property
    def path_gradient(self) -> bool:
        """Whether the gradient reaches q(z|x) through z alone."""
        return self.doubly_reparameterized


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class IWAE(Objective):
    """The importance weighted bound.

    log 1/S sum over S of w,  w = p(x|z) p(z) / q(z|x)

    It is at least the ELBO, and tends to log p(x) as S grows; with S = 1 it is the ELBO.

    Args:
        num_samples: S, the number of draws of z for each example.
        doubly_reparameterized: let the gradient reach q(z|x) through z alone, by the squares of the normalised weights.
            It is unbiased too, and does not drown in noise as S grows.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Burda et al. 2016, Importance Weighted Autoencoders, equation 8; Tucker et al. 2019, Doubly
    Reparameterized Gradient Estimators for Monte Carlo Objectives, equation 8.
    """

    num_samples: int = 5
    doubly_reparameterized: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def path_gradient(self) -> bool:
        """Whether the gradient reaches q(z|x) through z alone."""
        return self.doubly_reparameterized

    def path_weights(self, terms: ElboTerms) -> tf.Tensor:
        """The factors [S, B] of the gradient at z: see `Objective.path_weights`."""
        return _doubly_reparameterized_weights(terms, self.num_samples)

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return _mean_log_mean(terms, self.num_samples)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class MIWAE(_Grouped):
    """The mean of M importance weighted bounds, of S / M draws each.

    1/M sum over M of log M/S sum over S/M of w,  w = p(x|z) p(z) / q(z|x)

    More draws in a group make the bound tighter, but the gradient of q(z|x) weaker relative to its noise; more groups
    make it less noisy. M = 1 is `IWAE`, M = S the ELBO in its Monte Carlo form.

    Args:
        num_samples: S, the number of draws of z for each example.
        groups: M, the number of groups, which divides S.
        doubly_reparameterized: see `IWAE`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, equation 20.
    """

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return _mean_log_mean(terms, self.num_samples // self.groups)

    def path_weights(self, terms: ElboTerms) -> tf.Tensor:
        """The factors [S, B] of the gradient at z: see `Objective.path_weights`."""
        return _doubly_reparameterized_weights(terms, self.num_samples // self.groups)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class PIWAE(_Grouped):
    """The tighter bound for the likelihood and the prior, and the one with the less noisy gradient for the posterior.

    The parameters of p(x|z) and of p(z) maximise `IWAE` of all S draws; those of q(z|x) maximise `MIWAE` of M groups.

    Args:
        num_samples: S, the number of draws of z for each example.
        groups: M, the number of groups, which divides S.
        doubly_reparameterized: see `IWAE`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, section 6.3.
    """

    @property
    def for_posterior(self) -> Objective:
        """The objective that the parameters of q(z|x) maximise."""
        return MIWAE(self.num_samples, self.groups, doubly_reparameterized=self.doubly_reparameterized)

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return _mean_log_mean(terms, self.num_samples)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class CIWAE(Objective):
    """A bound between the evidence lower bound and the importance weighted one.

    share * ELBO + (1 - share) * IWAE

    Args:
        num_samples: S, the number of draws of z for each example.
        share: the share of the evidence lower bound, from 0 to 1; beta in the paper.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, equation 21.
    """

    num_samples: int = 5
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "share", checks.number("share", self.share, 0))
        if self.share > 1:
            raise ValueError(f"`share` must be from 0 to 1. Received: share={self.share}")

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return self.share * terms.elbo + (1 - self.share) * _mean_log_mean(terms, self.num_samples)


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Renyi(Objective):
    """The variational Renyi bound.

    1/(1 - alpha) log 1/S sum over S of w^(1 - alpha),  w = p(x|z) p(z) / q(z|x)

    It decreases in alpha: alpha = 0 gives `IWAE`, and the limit alpha -> 1 the ELBO. As S grows it tends to a lower
    bound on log p(x) for alpha > 0, and to an upper bound for alpha < 0.

    Args:
        num_samples: S, the number of draws of z for each example.
        alpha: the order, any number but 1.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Li & Turner 2016, Renyi Divergence Variational Inference, equation 6.
    """

    num_samples: int = 5
    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", checks.number("alpha", self.alpha))
        if self.alpha == 1:
            raise ValueError("`alpha` must not be 1, where the bound is the ELBO: use `ELBO`. Received: alpha=1.0")

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        order = 1 - self.alpha
        return (tf.reduce_logsumexp(order * terms.log_weights, axis=0) - math.log(self.num_samples)) / order


def _mean_log_mean(terms: ElboTerms, size: int) -> tf.Tensor:
    """The mean over groups of draws of the logarithm of the mean weight [B].

    Args:
        terms: the terms of the bound.
        size: the number of draws in a group.
    """
    log_weights = _in_groups(terms, size)
    return tf.reduce_mean(tf.reduce_logsumexp(log_weights, axis=1), axis=0) - math.log(size)


def _doubly_reparameterized_weights(terms: ElboTerms, size: int) -> tf.Tensor:
    """The factors [S, B] of the gradient at z, for the bound that `_mean_log_mean` evaluates."""
    # The gradient through z has the normalised weight v as a factor. The term that a path leaves out of it, by way of
    # log q at a fixed z, has the same mean as -weight * v (1 - v) in place of v.
    normalized = tf.nn.softmax(_in_groups(terms, size), axis=1)
    weights = tf.stop_gradient(1 - terms.weight * (1 - normalized))
    return tf.reshape(weights, tf.shape(terms.log_weights))


def _in_groups(terms: ElboTerms, size: int) -> tf.Tensor:
    """The log importance weights [S / size, size, B]."""
    return tf.reshape(terms.log_weights, [-1, size, tf.shape(terms.log_weights)[1]])
