"""What a model stores to decide whether an example is an anomaly, and how it decides."""

import dataclasses
import json
from collections.abc import Mapping, MutableMapping
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfvae.detection.step_decision import StepDecision
from tfvae.detection.thresholds import Threshold

# The names under which a file of weights has the fields. What is no array is JSON, as bytes.
_CONTRIBUTIONS, _KL, _THRESHOLD = "expected_contributions", "expected_kl", "threshold"
_OF_STEPS = "decision_of_steps"


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """What is typical of the terms of the bound, and above which score an example is an anomaly.

    Args:
        expected_contributions: the mean of -log p(x_d|z) over reference data, for each element d of x [...], in nats.
        expected_kl: the mean of the KL divergence over the same data, in nats; None for a model that has none.
        threshold: the threshold of the score.
        of_steps: for windows of time series, how their steps are judged, from `tfvae.VAE.calibrate_steps`; None if
            that is not known.
    """

    expected_contributions: np.ndarray
    expected_kl: float | None
    threshold: Threshold
    of_steps: StepDecision | None = None

    def outputs(
        self, nats: tf.Tensor, kl: tf.Tensor | None, is_observed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Decides about examples.

        contributions_d = -log p(x_d|z) - its mean,  score = sum over d of contributions_d + KL - its mean

        Args:
            nats: -log p(x_d|z) for each element of x [B, ...].
            kl: the KL divergence [B]; None for a model that has none, whose score is of the reconstruction alone.
            is_observed: which elements are observed, bool [B, ...]; None if all are. The contribution of a missing one
                is 0.

        Returns:
            `score` [B]; `is_anomaly` [B], 1 if the score is above the threshold and otherwise 0; `contributions`
            [B, ...] and, where there is one, `kl` [B], of which the score is the sum. All are float32, and nats but for
            `is_anomaly`.
        """
        contributions = nats - np.float32(self.expected_contributions)
        if is_observed is not None:
            contributions = tf.where(is_observed, contributions, 0.0)
        score = tf.reduce_sum(contributions, axis=list(range(1, len(contributions.shape))))
        of_kl = {}
        if kl is not None:
            of_kl = {"kl": kl - np.float32(self.expected_kl)}
            score += of_kl["kl"]
        is_anomaly = tf.cast(score > np.float32(self.threshold.value), tf.float32)
        return {"score": score, "is_anomaly": is_anomaly, "contributions": contributions, **of_kl}

    def save(self, store: MutableMapping[str, Any]) -> None:
        """Adds the decision to the mapping in which Keras collects a model's own weights."""
        store[_CONTRIBUTIONS] = self.expected_contributions
        if self.expected_kl is not None:
            store[_KL] = np.array(self.expected_kl)
        store[_THRESHOLD] = _packed(self.threshold)
        if self.of_steps is not None:
            store[_OF_STEPS] = _packed(self.of_steps)

    @classmethod
    def load(cls, store: Mapping[str, Any]) -> Self | None:
        """The decision that `save` added to a mapping; None if it has none."""
        # `keys()`, because the object that Keras passes cannot be searched directly.
        if _THRESHOLD not in store.keys():  # noqa: SIM118
            return None
        of_steps = StepDecision(**_unpacked(store[_OF_STEPS])) if _OF_STEPS in store.keys() else None  # noqa: SIM118
        threshold = Threshold(**_unpacked(store[_THRESHOLD]))
        kl = float(np.array(store[_KL])) if _KL in store.keys() else None  # noqa: SIM118
        return cls(np.array(store[_CONTRIBUTIONS]), kl, threshold, of_steps)


def _packed(stored: Threshold | StepDecision) -> np.ndarray:
    return np.frombuffer(json.dumps(stored.to_dict()).encode(), np.uint8)


def _unpacked(stored: Any) -> dict[str, Any]:
    return json.loads(np.array(stored).tobytes())


class Typical:
    """Running sums of the terms of the bound, of which the means are typical of the data."""

    def __init__(self) -> None:
        self._nats: Any = 0.0
        self._observed: Any = 0
        self._kl: float | None = 0.0
        self._rows = 0

    def add(self, nats: tf.Tensor, kl: tf.Tensor | None, is_observed: tf.Tensor | None) -> None:
        """Adds terms: see `Decision.outputs`."""
        nats = np.asarray(nats)
        self._nats += nats.sum(axis=0, dtype=np.float64)
        self._observed += len(nats) if is_observed is None else np.count_nonzero(is_observed, axis=0)
        self._kl = None if kl is None or self._kl is None else self._kl + np.asarray(kl).sum(dtype=np.float64)
        self._rows += len(nats)

    def decision(self, threshold: Threshold) -> Decision:
        """The decision with the means and a threshold. What is never observed has a mean of 0."""
        means = self._nats / np.maximum(self._observed, 1)
        kl = None if self._kl is None else float(self._kl / max(self._rows, 1))
        return Decision(np.asarray(means, np.float32), kl, threshold)
