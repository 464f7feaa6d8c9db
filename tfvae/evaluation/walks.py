"""Walks through the latent space: along its dimensions, and between pairs of examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfvae import checks
from tfvae.evaluation.batches import check_model, seeded
from tfvae.evaluation.latent_space import ACTIVE, active_units, kl_per_dimension
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE

# In standard deviations.
_VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


class Traversals(NamedTuple):
    """What is decoded along some latent dimensions.

    Attributes:
        x: the means of p(x|z) `[D, V, ...]`, at V points along each of D dimensions.
        dimensions: the index of each dimension [D].
        kl: the KL divergence of each dimension [D], in nats; NaN if the dimensions are not independent.
        values: the coordinate of each point [V], in standard deviations of z.
    """

    x: np.ndarray
    dimensions: np.ndarray
    kl: np.ndarray
    values: np.ndarray

    @property
    def labels(self) -> list[str]:
        """A text for each dimension, with its KL divergence."""
        return [
            f"z[{dimension}]" + ("" if np.isnan(kl) else f"\n{kl:.2f} nats")
            for dimension, kl in zip(self.dimensions, self.kl, strict=True)
        ]


def traversals(
    model: VAE,
    x: Any,
    dimensions: Sequence[int] | None = None,
    values: Sequence[float] = _VALUES,
    *,
    batch_size: int = 256,
    seed: int | None = None,
) -> Traversals:
    """Decodes points along each latent dimension, while the others stay at their mean.

    z = mean + value * sd * e_l, with the mean and the standard deviation of z over the data

    Args:
        model: the model, without conditions, whose z are real vectors.
        x: data as for the model's `fit`: arrays with N rows, or a dataset; at least 2 examples.
        dimensions: which dimensions; None takes those that are active, from the one of highest KL divergence, or of
            highest variance if the dimensions are not independent.
        values: the coordinates of the points, in standard deviations.
        batch_size: how many examples are computed at a time.
        seed: the seed of the draws, if any are needed.

    Returns:
        What is decoded. `tfvae.plots.traversals(found.x, found.labels, found.values)` draws it.

    Raises:
        ValueError: an argument is invalid, or no dimension is active.
    """
    _check_decodes(model)
    if model.posterior.support != "real":
        raise ValueError(
            "`model` must have a posterior of real vectors, whose dimensions are free. Received: "
            f"{type(model.posterior).__name__}, on a {model.posterior.support}; tfvae.evaluation.interpolations "
            "works for it"
        )
    points = np.asarray(values, float)
    if points.ndim != 1 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"`values` must be finite numbers, at least one. Received: {checks.shown(values)}")
    active, variances = active_units(model, x, batch_size=batch_size, seed=seed)
    try:
        kl = kl_per_dimension(model, x, batch_size=batch_size, seed=seed)
    except ValueError:  # Of dimensions that depend on one another.
        kl = np.full(model.latent_dim, np.nan)
    if dimensions is None:
        if not active:
            raise ValueError(
                "`model` must have an active latent dimension; `dimensions` chooses those that are not. Received: "
                f"posterior means whose variances over the examples are at most {variances.max():.2g}, where those of "
                f"active dimensions are above {ACTIVE:g}"
            )
        order = np.argsort(-(variances if np.isnan(kl).any() else kl), kind="stable")
        chosen = order[np.isin(order, np.argsort(-variances, kind="stable")[:active])]
    else:
        chosen = np.asarray(dimensions)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not np.isin(chosen, np.arange(model.latent_dim)).all():
            raise ValueError(
                f"`dimensions` must be numbers from 0 to {model.latent_dim - 1}. Received: {checks.shown(dimensions)}"
            )
    z = np.concatenate(
        [model._posterior_of(batch).sample(seed=each) for batch, each in seeded(model, x, batch_size, seed)]
    )
    moves = points[:, np.newaxis] * np.eye(model.latent_dim)[chosen][:, np.newaxis]
    walks = z.mean(axis=0) + moves * z.std(axis=0)
    return Traversals(_decoded(model, walks, batch_size), chosen, kl[chosen], points)


def interpolations(model: VAE, first: Any, last: Any, steps: int = 9, *, batch_size: int = 256) -> np.ndarray:
    """Decodes the ways between pairs of examples.

    z = (1 - t) center(q(z|first)) + t center(q(z|last)),  t = 0, ..., 1; along a great circle if z lies on a sphere

    Args:
        model: the model, without conditions.
        first: examples [R, ...] at which the ways begin.
        last: examples [R, ...] at which they end.
        steps: V, how many points each way has, at least 2, with both ends.
        batch_size: how many examples are computed at a time.

    Returns:
        The means of p(x|z) `[R, V, ...]`. `tfvae.plots.interpolations` draws them.

    Raises:
        ValueError: an argument is invalid.
    """
    _check_decodes(model)
    if checks.positive_integer("steps", steps) < 2:
        raise ValueError(f"`steps` must be at least 2, both ends. Received: steps={steps}")
    ends = [np.asarray(model.posterior.center(model.encode(x, batch_size))) for x in (first, last)]
    if len(ends[0]) != len(ends[1]):
        raise ValueError(
            f"`first` and `last` must have one number of examples. Received: {len(ends[0])} and {len(ends[1])}"
        )
    share = np.linspace(0.0, 1.0, steps)[:, np.newaxis]
    begin, end = (each[:, np.newaxis] for each in ends)
    if model.posterior.support == "sphere":
        angle = np.arccos(np.clip(np.sum(begin * end, axis=-1, keepdims=True), -1.0, 1.0))
        # Where the ends are one point, or nearly, the circle is a line.
        is_far = np.sin(angle) > 1e-4
        safe = np.where(is_far, angle, 1.0)
        weights = [np.where(is_far, np.sin(t * safe) / np.sin(safe), t) for t in (1.0 - share, share)]
    else:
        weights = [1.0 - share, share]
    return _decoded(model, weights[0] * begin + weights[1] * end, batch_size)


def _check_decodes(model: Any) -> None:
    check_model(model)
    if isinstance(model, ConditionalVAE | SemiSupervisedVAE):
        raise ValueError(
            f"`model` must decode z alone. Received: a tfvae.{type(model).__name__}, which needs conditions or labels; "
            "call its `decode` at the points of a walk"
        )


def _decoded(model: VAE, walks: np.ndarray, batch_size: int) -> np.ndarray:
    """The means of p(x|z) at points `[R, V, L]`."""
    rows = walks.reshape(-1, walks.shape[-1]).astype(np.float32)
    x = np.asarray(model.decode(rows, batch_size=batch_size))
    return x.reshape(*walks.shape[:2], *x.shape[1:])
