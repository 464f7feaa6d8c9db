"""What is maximised: a function of the terms of the bound, one value for each example.

An objective is immutable: training compiles it into a graph, where a later change would have no effect.
"""

import abc
import dataclasses
import math
import numbers
from typing import Any, Self

import keras
import tensorflow as tf

from tfvae.checks import positive_integer
from tfvae.elbo import ElboTerms

PACKAGE = "tfvae.objectives"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A bound to maximise.

    Args:
        num_samples: S, the number of draws of z for each example.
        analytic_kl: use the closed form of the KL divergence where TFP has one.

    Raises:
        ValueError: an argument is out of its range.
    """

    num_samples: int = 1
    analytic_kl: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", positive_integer("num_samples", self.num_samples))
        if not isinstance(self.analytic_kl, bool):
            raise ValueError(f"`analytic_kl` must be True or False. Received: analytic_kl={self.analytic_kl!r}")

    @abc.abstractmethod
    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective.

        Args:
            terms: the terms of the bound, [S, B] and [B].

        Returns:
            The value to maximise [B], in nats per example.
        """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The objective that `get_config` described."""
        return cls(**config)


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

    Raises:
        ValueError: an argument is out of its range.

    Reference: Kingma & Welling 2013, equation 7 with the closed form and equation 6 without; Higgins et al. 2017,
    beta-VAE, equation 4.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        is_number = isinstance(self.beta, numbers.Real) and not isinstance(self.beta, bool)
        if not (is_number and 0 <= self.beta < math.inf):
            raise ValueError(f"`beta` must be a finite number of at least 0. Received: beta={self.beta!r}")
        object.__setattr__(self, "beta", float(self.beta))

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        return tf.reduce_mean(terms.log_likelihood, axis=0) - self.beta * terms.kl
