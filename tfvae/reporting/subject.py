"""What a report is about: a trained model, data that it was not trained on, and what is known of the training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfvae.models.vae import VAE

# As many held-out examples are reported on at most, and as many training examples searched for the nearest.
MOST_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the sections are made of.

    Args:
        model: the model.
        x: held-out data [N, ...], as the model takes them.
        rows: the same as rows, a `pandas.DataFrame`, for a model of a table; or None.
        train: data that the model was trained on [M, ...], or None.
        labels: the class of each held-out example [N], or None.
        history: see `tfvae.plots.history`; empty if it is not known.
        verification: what `tfvae.export.verify` found, or its `to_dict()`; or None.
        facts: further facts for the head of the report, by name.
        warnings: warnings that were given.
        num_samples: draws of z for each example for log p(x).
        seed: of all draws.
    """

    model: VAE
    x: np.ndarray
    rows: Any
    train: np.ndarray | None
    labels: np.ndarray | None
    history: Mapping[str, Sequence[float]]
    verification: Mapping[str, Any] | None
    facts: Mapping[str, str]
    warnings: Sequence[str]
    num_samples: int
    seed: int

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value of the data, which become black and white in pictures."""
        return float(self.x.min()), float(self.x.max())
