"""The base class of all objectives."""

import abc
import dataclasses
from typing import Any, ClassVar, Self

import tensorflow as tf

from tfvae.checks import boolean, positive_integer
from tfvae.elbo import ElboTerms

PACKAGE = "tfvae.objectives"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A bound to maximise.

    Args:
        num_samples: S, the number of draws of z for each example.

    Attributes:
        analytic_kl: whether the objective can use the closed form of the KL divergence where TFP has one.
        needs_density: whether it needs log q(z|x) or the KL divergence, which a point does not have.
        needs_draws: whether it needs the draws of z, with q(z|x) and p(z), which some models do not have in one vector
            for each example.
        needs_independent: of which of "posterior" and "prior" it needs dimensions that are independent of each other.
        path_gradient: whether the gradient reaches q(z|x) through z alone: see `tfvae.elbo.draw`.
        for_posterior: the objective that the parameters of q(z|x) maximise, if it is not this one; otherwise None.
        critic: a network that is trained beside the model, see `CriticObjective`; otherwise None.
        metric_names: the names of further metrics, where there is a critic.

    Raises:
        ValueError: an argument is out of its range.
    """

    num_samples: int = 1
    analytic_kl: ClassVar[bool] = True
    needs_density: ClassVar[bool] = True
    needs_draws: ClassVar[bool] = False
    needs_independent: ClassVar[tuple[str, ...]] = ()
    path_gradient: ClassVar[bool] = False
    for_posterior: ClassVar["Objective | None"] = None
    critic: ClassVar[Any] = None
    metric_names: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", positive_integer("num_samples", self.num_samples))
        for field in dataclasses.fields(self):
            if field.type is bool:
                boolean(field.name, getattr(self, field.name))

    @abc.abstractmethod
    def __call__(self, terms: ElboTerms) -> tf.Tensor:
        """Evaluates the objective.

        Args:
            terms: the terms of the bound, [S, B] and [B].

        Returns:
            The value to maximise [B], in nats per example.
        """

    def path_weights(self, terms: ElboTerms) -> tf.Tensor | None:
        """The factors [S, B] by which the gradient at z is multiplied, where `path_gradient` is True; None for 1.

        Args:
            terms: the terms at which the objective is evaluated.
        """
        return None

    def tempered(self, terms: ElboTerms, weight: tf.Tensor) -> ElboTerms:
        """The terms at which the objective is evaluated in a training step during a warm-up.

        Args:
            terms: the terms of the bound.
            weight: the weight of the KL divergence, a scalar: see `tfvae.callbacks.KLWarmUp`.
        """
        return terms.tempered(weight)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The objective that `get_config` described."""
        return cls(**config)
