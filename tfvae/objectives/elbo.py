"""The evidence lower bound, and bounds that keep its KL divergence where it is wanted."""

import dataclasses

import keras
import tensorflow as tf

from tfvae import checks
from tfvae.elbo import ElboTerms
from tfvae.objectives.objective import PACKAGE, Objective


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class ELBO(Objective):
    """The evidence lower bound, with a weight on the KL divergence.

    mean over S of log p(x|z) - beta * KL(q(z|x) || p(z))

    It is a lower bound on log p(x) for beta >= 1.

    Args:
        beta: weight of the KL divergence, >= 0: 1 for the bound itself, above 1 for the beta-VAE.
        num_samples: S, the number of draws of z for each example.
        analytic_kl: use the closed form of the KL divergence where TFP has one.
        sticking_the_landing: take the gradient through z alone, which has no noise where q(z|x) = p(z|x); it is that
            of the Monte Carlo form of the KL divergence, so `analytic_kl` becomes False.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Kingma & Welling 2013, equation 7 with the closed form and equation 6 without; Higgins et al. 2017,
    beta-VAE, equation 4; Roeder et al. 2017, Sticking the Landing, equation 6.
    """

    beta: float = 1.0
    # Chosen here, and a constant of the class in other objectives.
    analytic_kl: bool = dataclasses.field(default=True, kw_only=True)  # type: ignore[misc]
    sticking_the_landing: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", checks.number("beta", self.beta, 0))
        if self.sticking_the_landing:
            object.__setattr__(self, "analytic_kl", False)

    @property
    def path_gradient(self) -> bool:
        """Whether the gradient reaches q(z|x) through z alone."""
        return self.sticking_the_landing

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return tf.reduce_mean(terms.log_likelihood, axis=0) - self.beta * terms.kl


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class FreeBits(Objective):
    """The evidence lower bound, with no gain from a KL divergence below some nats: a latent variable may have these.

    mean over S of log p(x|z) - sum over l of max(nats, mean over B of KL_l),  KL_l the divergence of dimension l

    It keeps dimensions from collapsing to the prior. The mean is that of the batch, on each replica that of its part.

    Args:
        nats: what is free, >= 0.
        per_dimension: whether each dimension has its own free nats, for which q(z|x) and p(z) must be independent over
            dimensions; otherwise the whole of z has them.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range; or, where the objective is evaluated, a distribution is not
            independent over dimensions.

    Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, equation 15.
    """

    nats: float = 0.5
    per_dimension: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "nats", checks.number("nats", self.nats, 0))

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        kl = terms.kl_by_dimension() if self.per_dimension else terms.kl[:, tf.newaxis]
        is_free = tf.reduce_mean(kl, axis=0, keepdims=True) < self.nats
        paid = tf.reduce_sum(tf.where(is_free, self.nats, kl), axis=1)
        return tf.reduce_mean(terms.log_likelihood, axis=0) - paid


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Capacity(Objective):
    """The log-likelihood, with a KL divergence that is held at a capacity.

    mean over S of log p(x|z) - gamma * |KL(q(z|x) || p(z)) - capacity|

    With `tfvae.callbacks.KLWarmUp` the capacity rises from 0 as the training goes, as in the paper.

    Args:
        capacity: what the KL divergence is held at, >= 0, in nats.
        gamma: weight of the distance from it, >= 0.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Burgess et al. 2018, Understanding Disentangling in beta-VAE, equation 8.
    """

    capacity: float = 25.0
    gamma: float = dataclasses.field(default=1000.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("capacity", "gamma"):
            object.__setattr__(self, name, checks.number(name, getattr(self, name), 0))

    def tempered(self, terms: ElboTerms, weight: tf.Tensor) -> ElboTerms:
        """The terms, with the weight for the capacity and not for the KL divergence."""
        return terms._replace(weight=weight)

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective [B], in nats per example."""
        distance = tf.abs(terms.kl - self.capacity * terms.weight)
        return tf.reduce_mean(terms.log_likelihood, axis=0) - self.gamma * distance
