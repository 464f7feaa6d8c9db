"""What a report is about: a trained model, data that it was not trained on, and what is known of the training."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfvae.data import tables
from tfvae.evaluation import active_units
from tfvae.evaluation.latent_space import ACTIVE
from tfvae.reporting.measures import Measures, measure

# As many held-out examples are reported on at most, and as many training examples searched for the nearest.
MOST_EXAMPLES = 10_000


def classes(labels: Any, rows: Any, count: int) -> np.ndarray | None:
    """The class of each example [N], or a number for each; None if they are not known.

    Args:
        labels: them, or the name of a column of `rows`, or None.
        rows: the examples as rows, a `pandas.DataFrame`; None for arrays.
        count: N.

    Raises:
        ValueError: there is no such column, it has too many classes, or there is not one label for each example.
    """
    if labels is None:
        return None
    if isinstance(labels, str):
        if rows is None:
            raise ValueError(f"`labels` must be an array, because `x` has no columns. Received: labels={labels!r}")
        labels = tables.classes(rows, labels, "labels")
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(f"`labels` must have the shape [{count}]. Received: shape {list(labels.shape)}")
    return labels


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the sections are made of.

    Args:
        model: the model, a `tfvae.VAE` or a `tfvae.SequentialVAE`.
        x: held-out data [N, ...], as the model takes them; of texts their codes.
        given: what they are given, by name: the conditions [N, C] or the labels [N]; empty for a model without them.
        rows: the same as rows, a `pandas.DataFrame`, for a model of a table; or None.
        train: data that the model was trained on [M, ...], or None.
        labels: the class of each held-out example [N], or None.
        history: see `tfvae.plots.history`; empty if it is not known.
        verification: what `tfvae.export.verify` found, or its `to_dict()`; or None.
        facts: further facts by name.
        warnings: warnings that were given.
        num_samples: draws of z for each example for log p(x).
        seed: of all draws.
        measured: what was measured of the held-out data before, if it was.
    """

    model: Any
    x: np.ndarray
    given: Mapping[str, np.ndarray]
    rows: Any
    train: np.ndarray | None
    labels: np.ndarray | None
    history: Mapping[str, Sequence[float]]
    verification: Mapping[str, Any] | None
    facts: Mapping[str, str]
    warnings: Sequence[str]
    num_samples: int
    seed: int
    measured: Measures | None = None

    def data(self, rows: Any = slice(None)) -> Any:
        """The held-out examples of some rows, in the form that the methods of the model take."""
        if not self.given:
            return self.x[rows]
        return {"x": self.x[rows], **{name: values[rows] for name, values in self.given.items()}}

    @functools.cached_property
    def active(self) -> int:
        """How many latent dimensions are active, of 2 examples at least."""
        return active_units(self.model, self.data(), ACTIVE, seed=self.seed).count

    @functools.cached_property
    def measures(self) -> Measures:
        """The bound, log p(x) and the KL divergence of each held-out example."""
        if self.measured is not None:
            return self.measured
        return measure(self.model, self.data(), self.num_samples, self.seed)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value of the data, which become black and white in pictures."""
        return float(self.x.min()), float(self.x.max())
