"""The evidence lower bound."""

import dataclasses
import math
import numbers

import keras
import tensorflow as tf

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
    analytic_kl: bool = dataclasses.field(default=True, kw_only=True)
    sticking_the_landing: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_number = isinstance(self.beta, numbers.Real) and not isinstance(self.beta, bool)
        if not (is_number and 0 <= self.beta < math.inf):
            raise ValueError(f"`beta` must be a finite number of at least 0. Received: beta={self.beta!r}")
        object.__setattr__(self, "beta", float(self.beta))
        if self.sticking_the_landing:
            object.__setattr__(self, "analytic_kl", False)

    @property
    def path_gradient(self) -> bool:
        """Whether the gradient reaches q(z|x) through z alone."""
        return self.sticking_the_landing

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return tf.reduce_mean(terms.log_likelihood, axis=0) - self.beta * terms.kl
