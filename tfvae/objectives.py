"""What is maximised: a function of the terms of the bound, one value for each example.

An objective is immutable: training compiles it into a graph, where a later change would have no effect.
"""

import abc
import dataclasses
import math
import numbers
from typing import Any, ClassVar, Self

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

    Attributes:
        analytic_kl: whether the objective can use the closed form of the KL divergence where TFP has one.
        path_gradient: whether the gradient reaches q(z|x) through z alone: see `tfvae.elbo.draw`.

    Raises:
        ValueError: an argument is out of its range.
    """

    num_samples: int = 1
    analytic_kl: ClassVar[bool] = True
    path_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", positive_integer("num_samples", self.num_samples))
        for field in dataclasses.fields(self):
            if field.type is bool and not isinstance(value := getattr(self, field.name), bool):
                raise ValueError(f"`{field.name}` must be True or False. Received: {field.name}={value!r}")

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


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class IWAE(Objective):
    """The importance weighted bound.

    log 1/S sum over S of w,  w = p(x|z) p(z) / q(z|x)

    It is at least the ELBO, and tends to log p(x) as S grows; with S = 1 it is the ELBO.

    Args:
        num_samples: S, the number of draws of z for each example.
        doubly_reparameterized: take the gradient of q(z|x) through z alone, with the squares of the normalised weights:
            unbiased too, and its signal does not drown in noise as S grows.

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

    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the bound [B], in nats per example."""
        if terms.path is not None:
            # The share v of the gradient that is left out comes back as -weight * v (1 - v) of that through z.
            normalized = tf.nn.softmax(terms.log_weights, axis=0)
            terms.path.weights = tf.stop_gradient(1 - terms.weight * (1 - normalized))
        return tf.reduce_logsumexp(terms.log_weights, axis=0) - math.log(self.num_samples)
