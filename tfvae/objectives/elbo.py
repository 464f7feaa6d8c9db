"""The evidence lower bound, and variants that steer its KL divergence."""

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
        sticking_the_landing: let the gradient reach q(z|x) through z alone; it then has no noise where q(z|x) = p(z|x).
            It needs the Monte Carlo form of the KL divergence, so `analytic_kl` becomes False.

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
        return tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0) - self.beta * terms.kl


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class FreeBits(Objective):
    """The evidence lower bound, in which a KL divergence up to some nats costs no more than these nats.

    mean over S of log p(x|z) - sum over l of max(nats, mean over B of KL_l),  KL_l the divergence of dimension l

    It keeps dimensions from collapsing to the prior. Each replica takes the mean over its own part of the batch. With
    sample weights it is the weighted mean.

    Args:
        nats: the number of nats, >= 0.
        per_dimension: whether the nats are for each dimension of z, which requires that q(z|x) and p(z) are independent
            over dimensions; otherwise they are for each layer of a hierarchy from the top down, or for z as a whole.
        num_samples: S, the number of draws of z for each example.

    Raises:
        ValueError: an argument is out of its range; or, when a model is made, a distribution is not independent over
            dimensions.

    Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, equation 15.
    """

    nats: float = 0.5
    per_dimension: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "nats", checks.number("nats", self.nats, 0))

    @property
    def needs_draws(self) -> bool:
        """Whether it needs z in one vector for each example."""
        return self.per_dimension

    @property
    def needs_independent(self) -> tuple[str, ...]:
        """The distributions of which it needs independent dimensions."""
        return ("posterior", "prior") if self.per_dimension else ()

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        kl = terms.kl_by_dimension() if self.per_dimension else terms.kl_by_layer
        kl = terms.kl[:, tf.newaxis] if kl is None else kl
        weights = 1.0 if terms.example_weights is None else terms.example_weights[:, tf.newaxis]
        is_free = tf.reduce_mean(weights * kl, axis=0, keepdims=True) < self.nats
        paid = tf.reduce_sum(tf.where(is_free, self.nats, kl), axis=1)
        return tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0) - paid


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Capacity(Objective):
    """The log-likelihood, with a penalty that holds the KL divergence at a capacity.

    mean over S of log p(x|z) - gamma * |KL(q(z|x) || p(z)) - capacity|

    With `tfvae.callbacks.KLWarmUp` the capacity rises from 0 during training, as in the paper.

    Args:
        capacity: the value at which the KL divergence is held, >= 0, in nats.
        gamma: weight of the distance from the capacity, >= 0.
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
        """The terms with the weight set but not applied: `__call__` multiplies the capacity by it."""
        return terms._replace(weight=weight)

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective [B], in nats per example."""
        distance = tf.abs(terms.kl - self.capacity * terms.weight)
        return tf.reduce_mean(terms.reconstruction_log_likelihood, axis=0) - self.gamma * distance
