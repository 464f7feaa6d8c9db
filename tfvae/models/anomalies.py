"""Anomaly detection by autoencoders: a score, a decision, and how much each element of x adds to the score."""

import abc
import dataclasses
import itertools
import math
from collections.abc import Iterator, MutableMapping
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfvae.detection.decision import Decision, Typical
from tfvae.detection.thresholds import Threshold, chosen, threshold
from tfvae.exportable import Signature
from tfvae.numerics import is_number


class AnomalyDetector(keras.Model, abc.ABC):
    """The methods of an autoencoder that is calibrated for anomaly detection.

    Attributes:
        decision: what `calibrate` found, which is saved with the weights; None before it, and after a training.
    """

    decision: Decision | None
    # The reason why models of this class cannot detect anomalies; None if they can.
    _no_detection: ClassVar[str | None] = None

    def calibrate(
        self,
        x: Any,
        *,
        contamination: float | None = None,
        false_alarm_rate: float | None = None,
        tail: float | None = None,
        threshold: float | None = None,
        batch_size: int = 256,
    ) -> Threshold:
        """Finds what is typical of data, and the threshold above which `detect` calls an example an anomaly.

        Exactly one of the rates, or the threshold itself, is given; `tfvae.detection.threshold` says which suits what.
        Training undoes the calibration. Exports of a calibrated model have the signature `detect`.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset, which is read two or, with `contamination`, four
                times. For `false_alarm_rate` and `tail` they are data without anomalies that the model was not trained
                on. With `contamination` the rows above the threshold do not count for what is typical.
            contamination: the share of anomalies in x.
            false_alarm_rate: the share of data without anomalies that may be above the threshold.
            tail: as `false_alarm_rate`, for rates below 1 / N.
            threshold: the threshold, in nats above the typical score.
            batch_size: how many examples are computed at a time.

        Returns:
            The threshold, with what it rests on.

        Raises:
            ValueError: an argument is invalid, or the model gives x a score that is not finite.
            NotImplementedError: the score is not a sum over the elements of x.

        Warns:
            UserWarning: x has too few rows for the rate.
        """
        name, value = chosen(
            contamination=contamination, false_alarm_rate=false_alarm_rate, tail=tail, threshold=threshold
        )
        self._check_detects()
        above_all = Threshold(math.inf, "given", None, 0)
        # Until its end a calibration leaves the earlier one as it is.
        decision = self._typical(x, batch_size).decision(above_all)
        scores = self._anomaly_scores(x, decision, batch_size)
        if name == "contamination":
            limit = _threshold(name, value, scores)
            kept = dataclasses.replace(decision, threshold=limit)
            decision = self._typical(x, batch_size, kept).decision(above_all)
            scores = self._anomaly_scores(x, decision, batch_size)
        found = Threshold(value, "given", None, len(scores)) if name == "threshold" else _threshold(name, value, scores)
        self.decision = dataclasses.replace(decision, threshold=found)
        return found

    def detect(self, x: Any, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Decides which examples are anomalies, and says how much each element of x adds to the score.

        contributions_d = -log p(x_d|z) - its mean,  kl = KL(q(z|x) || p(z)) - its mean,
        score = sum over d of contributions_d + kl

        z is the mean, or the `center`, of q(z|x), so that the same x always has the same score. The means are those of
        the data of `calibrate`. So the score is the negative ELBO at this z minus its typical value: 0 for a typical
        example, and high for an anomaly. A model without a lower bound on log p(x), whose ELBO would be one, has the
        same score if it has the KL divergence. Without a density of q(z|x) there is none: the score is the sum of the
        contributions, the reconstruction alone, and there is no `kl`.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            `score` [N] in nats; `is_anomaly`, bool [N]; `contributions` [N, ...] and, where there is one, `kl` [N], in
            nats, which sum to the score. A missing element contributes 0.

        Raises:
            ValueError: the model is not calibrated, or x is invalid.
        """
        decision = self._calibrated("detect")
        parts = [
            {name: output.numpy() for name, output in self._decided(decision, *terms).items()}
            for terms in self._terms_of(x, batch_size)
        ]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {**outputs, "is_anomaly": outputs["is_anomaly"] > 0.5}

    def _calibrated(self, method: str) -> Decision:
        """The calibration, which a method needs."""
        self._check_has_detection()
        if self.decision is None:
            raise ValueError(
                f"The model must be calibrated before `{method}()`: model.calibrate(x, false_alarm_rate=0.01), with "
                "data that it was not trained on. Received: a model that was not, or was trained after it"
            )
        return self.decision

    def _typical(self, x: Any, batch_size: int, kept: Decision | None = None) -> Typical:
        """The sums over the data, or over those rows that a decision does not take for anomalies."""
        sums = Typical()
        for nats, kl, is_observed in itertools.starmap(self._judged, self._terms_of(x, batch_size)):
            rows = np.ones(len(nats), bool) if kept is None else kept.outputs(nats, kl, is_observed)["is_anomaly"] == 0
            sums.add(*(None if each is None else each[rows] for each in (nats, kl, is_observed)))
        return sums

    def _anomaly_scores(self, x: Any, decision: Decision, batch_size: int) -> np.ndarray:
        terms = itertools.starmap(self._judged, self._terms_of(x, batch_size))
        parts = [decision.outputs(*each)["score"].numpy() for each in terms]
        scores = np.concatenate(parts)
        wrong = ~np.isfinite(scores)
        if wrong.any():
            raise ValueError(
                "`x` must have finite scores under the model. Received: x with a score that is not, at index "
                f"{int(np.argmax(wrong))}, and {np.count_nonzero(wrong)} such in all"
            )
        return scores

    def _judged(
        self, nats: tf.Tensor, kl: tf.Tensor | None, is_observed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
        """The terms of what decisions are about, in rows [R, ...]: the examples themselves."""
        return nats, kl, is_observed

    def _decided(
        self, decision: Decision, nats: tf.Tensor, kl: tf.Tensor | None, is_observed: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """The outputs of `detect` for one batch of terms."""
        return decision.outputs(nats, kl, is_observed)

    def _terms_of(self, x: Any, batch_size: int) -> Iterator[tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]]:
        """The terms of the bound for each batch: see `Decision.outputs`."""
        for batch in self._checked_batches(x, batch_size, self.denoises):
            yield self._run(self._terms_by_element, batch)

    @abc.abstractmethod
    def _checked_batches(self, x: Any, batch_size: int, is_encoded_only: bool = False) -> Iterator[Any]:
        """Float32 batches [B, ...] of arrays or of a dataset, each checked before it is yielded."""

    def _terms_by_element(self, x: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
        scores, parameters = self._scored(x)
        event = tf.cast(x["x"] if isinstance(x, dict) else x, tf.float32)
        nats = -self.likelihood.element_log_prob(event, tf.cast(parameters, tf.float32))
        return nats, scores.get("kl"), is_number(event) if self.likelihood.allows_missing else None

    def _detected(self, x: Any) -> dict[str, tf.Tensor]:
        return self._decided(self.decision, *self._terms_by_element(x))  # type: ignore[arg-type]

    def _check_has_detection(self) -> None:
        if self._no_detection:
            raise NotImplementedError(f"{type(self).__name__} does not detect anomalies: {self._no_detection}")

    def _check_detects(self) -> None:
        self._check_has_detection()
        if not self.likelihood.factorises:
            raise NotImplementedError(
                "`likelihood` must be a product over the elements of x, whose contributions then sum to the score, and "
                "a subclass that is one and has a `log_prob` of its own says so by `factorises = True`. Received: a "
                f"{type(self.likelihood).__name__}"
            )

    def _signature_of_detection(
        self, decision: Decision, inputs: tuple[tf.TensorSpec, ...], request: Any
    ) -> dict[str, Signature]:
        """The signature `detect`.

        Args:
            decision: the calibration.
            inputs: the specifications of x and of what else is given.
            request: see `Signature`.
        """
        # What is subtracted is of the size of what is rounded.
        sizes = np.abs(decision.expected_contributions)
        of_kl = {} if decision.expected_kl is None else {"kl": 1 + abs(decision.expected_kl)}
        of_score = sizes.size + float(sizes.sum()) + abs(decision.expected_kl or 0.0)

        def expected(**data: np.ndarray) -> dict[str, np.ndarray]:
            outputs = self.detect(data if len(data) > 1 else data["x"])
            return {**outputs, "is_anomaly": outputs["is_anomaly"].astype(np.float32)}

        return {
            "detect": Signature(
                lambda *data: self._detected(self._together(*data)),
                inputs,
                expected,
                {"score": of_score, "contributions": 1 + float(sizes.max()), **of_kl},
                request=request,
                meaning="whether x is an anomaly, and how much each element adds to its score, at the mean of q(z|x)",
                jumps={"is_anomaly": ("score", float(np.float32(decision.threshold.value)))},
            )
        }

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Saves the model's own weights, and the calibration."""
        super().save_own_variables(store)
        if self.decision is not None:
            self.decision.save(store)

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Loads what `save_own_variables` saved; without a calibration the model is not calibrated."""
        super().load_own_variables(store)
        self.decision = Decision.load(store)


def _threshold(name: str, value: float, scores: np.ndarray) -> Threshold:
    return threshold(scores, **{name: value})
