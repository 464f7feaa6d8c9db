"""Anomaly detection on streams, one step at a time, by models of windows of series."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks, streams
from tfvae.data.series import Cut, Series
from tfvae.detection.decision import Decision
from tfvae.detection.step_decision import StepDecision
from tfvae.detection.thresholds import Threshold
from tfvae.exportable import Signature
from tfvae.models.anomalies import AnomalyDetector
from tfvae.numerics import is_number
from tfvae.training.batch import batches

# What the outputs of `detect` mean, and the inputs of `step`.
_DETECTION = {
    "score": "how unusual x is, in nats: 0 for typical data, and high for anomalies",
    "is_anomaly": "1 if the score is above the threshold, otherwise 0",
    "contributions": "what each element of x adds to the score, in nats; beside them, kl is the rest of the score",
}
_WITHOUT_KL = {"contributions": "what each element of x adds to the score, in nats, of which the score is the sum"}
_STEPS = {
    "x_t": "the present step of a series",
    "state": "the steps before, in the model's units: NaN at the start, and then the output of the call before",
}

_BEFORE_THE_WINDOW = """

Until {steps} steps were given, {unknown} are NaN, and `is_anomaly` is 0."""


def _called(function: Callable[..., Any], *tensors: tf.Tensor) -> Any:
    return function(*tensors)


class StreamDetector(AnomalyDetector):
    """The methods of an autoencoder of windows x [N, T, C] that detects anomalies in series as their steps come in."""

    _meaning_of_step = "detect for the window that ends with the step x_t of a series; the state for the next step"

    def calibrate_steps(self, cut: Cut, batch_size: int = 256, **rate: float) -> Threshold:
        """Finds how steps of series are judged by the windows that hold them, after `calibrate`.

        `tfvae.data.Series.detected` then gives each step a score and a decision by `decision.of_steps`, which exports
        have too. `calibrate`, as a training does, undoes it.

        Args:
            cut: windows of series that the model was not trained on, one from each step on, from
                `tfvae.data.Series.windows`.
            batch_size: how many windows are computed at a time.
            rate: exactly one of `contamination`, `false_alarm_rate` and `tail`, as for `calibrate`, of the steps.

        Returns:
            The threshold of the scores of steps, with what it rests on.

        Raises:
            ValueError: the model is not calibrated, or an argument is invalid.

        Warns:
            UserWarning: there are too few steps for the rate.
        """
        decision = self._calibrated("calibrate_steps")
        contributions, around = Series.judged(self.detect(cut.x, batch_size), cut)
        of_steps = StepDecision.learn(contributions.sum(axis=1), around, **rate)
        self.decision = dataclasses.replace(decision, of_steps=of_steps)
        return of_steps.threshold

    def initial_state(self, n: int = 1) -> np.ndarray:
        """The state of `step` before the first step of a series: NaN.

        Args:
            n: the number of streams.

        Returns:
            The state [n, T - 1, C], float32.

        Raises:
            ValueError: n is not a positive integer, or the model is not built or not of windows [T, C].
        """
        return streams.initial_state(n, self._window_shapes()[1])

    def step(self, x_t: Any, state: Any, batch_size: int = 256, **given: Any) -> dict[str, np.ndarray]:
        """Decides about the window of T steps that ends now: what `detect` returns for it, from one step and a state.

        The state is the T - 1 steps before, so each call costs as much as `detect` on one window. Before the start of a
        series, its steps are missing, and NaN. A model that takes missing values (`likelihoods.Missing`) answers from
        the first step on. Any other answers when it has T steps; until then `score`, `contributions` and `kl` are NaN,
        and `is_anomaly` is False.

        Args:
            x_t: the present step of each of n streams [n, C].
            state: the state [n, T - 1, C] that the step before returned; at first `initial_state(n)`.
            batch_size: how many streams are computed at a time.
            given: what else the model is given beside x, by name, as `condition` [n, K] of a `tfvae.ConditionalVAE`.

        Returns:
            `score` [n] in nats; `is_anomaly`, bool [n]; `contributions` [n, T, C], of which `[:, -1]` are those of the
            present step, and `kl` [n], if any, in nats, which sum to the score: see `detect`. And `state`
            [n, T - 1, C], for the next call.

        Raises:
            ValueError: the model is not calibrated or not of windows [T, C], or an argument is invalid.
        """
        step_shape, state_shape = self._window_shapes()
        decision = self._calibrated("step")
        x_t, state = checks.to_numpy(x_t, "x_t"), checks.to_numpy(state, "state")
        checks.check_shape(x_t, step_shape, "x_t")
        checks.check_shape(state, state_shape, "state")
        advice = "; if NaN marks missing values, wrap the likelihood in tfvae.likelihoods.Missing"
        # Whole numbers in a list, such as [[1, 2]], are no pixels.
        x_t, state = x_t.astype(np.float32), state.astype(np.float32)
        checks.check_finite(x_t, "x_t", allow_nan=self.likelihood.allows_missing, advice=advice)
        self._check_state(state)
        if set(given) != set(self._given_shapes):
            names = " and ".join(f"`{name}`" for name in self._given_shapes) or "nothing"
            raise ValueError(f"Beside x_t and state, `step` of this model takes {names}. Received: {list(given)}")
        given = {name: checks.to_numpy(given[name], name) for name in self._given_shapes}
        checks.check_same_length(x_t=x_t, state=state, **given)
        # As a window of nothing but this step, because the likelihood checks whole examples.
        number, *sizes = self.event_shape
        repeated = np.broadcast_to(x_t[:, np.newaxis], [len(x_t), number or 1, *sizes])
        try:
            self.check_data(self._together(repeated, *given.values()), self.denoises)
        except ValueError as error:
            raise ValueError(f"`x_t` is a step of x, in which it is wrong: {error}") from error
        parts = [
            self._stepped(decision, self._run, *part.values())
            for part in batches({"x_t": x_t, "state": state, **given}, batch_size)
        ]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {**outputs, "is_anomaly": outputs["is_anomaly"] > 0.5}

    def _check_state(self, state: np.ndarray) -> None:
        """Raises ValueError if an array of the right shape cannot be states."""
        checks.check_finite(state, "state", allow_nan=True)

    def stream(self, n: int = 1) -> streams.Stream:
        """Streams of which each call takes one step, and which keep the state of `step` between the calls.

        Args:
            n: the number of streams that run side by side.

        Returns:
            A function of x_t [n, C], and of what else the model is given by name, to what `step` returns.

        Raises:
            ValueError: n is not a positive integer, or the model is not calibrated or not of windows [T, C].
        """
        state = self.initial_state(n)
        self._calibrated("stream")
        return streams.Stream(self.step, state)

    @property
    def _waits(self) -> bool:
        """Whether `step` answers only when the window is full."""
        return not self.likelihood.allows_missing

    @property
    def _takes_steps(self) -> bool:
        """Whether the data are windows of series, [T, C] with at least two steps."""
        # None is the number of steps of models of sequences of any length, which are no windows.
        return len(self.event_shape) == 2 and (self.event_shape[0] or 0) > 1

    @property
    def _takes_shorter(self) -> bool:
        """Whether the steps after the end of a sequence may be missing."""
        return self._takes_steps and bool(self.likelihood.allows_missing)

    @property
    def _detects_steps(self) -> bool:
        """Whether exports have the signature `step`."""
        return self.decision is not None and self._takes_steps

    def _window_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of a step [C] and of the state [T - 1, C]."""
        self._check_built("step")
        if not self._takes_steps:
            sizes = ", ".join("T" if size is None else str(size) for size in self.event_shape)
            raise ValueError(
                "The model must be of windows x [N, T, C], with at least two steps, to be given one step at a time. "
                f"Received: a model of x [N, {sizes}]"
            )
        steps, channels = self.event_shape
        return (channels,), (steps - 1, channels)

    def _stepped(
        self,
        decision: Decision,
        run: Callable[..., Any],
        x_t: tf.Tensor,
        state: tf.Tensor,
        *given: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The outputs of `step`, as tensors.

        Args:
            decision: the calibration.
            run: calls a function with tensors, as it is or compiled.
            x_t: the present step [B, C].
            state: the steps before [B, T - 1, C].
            given: what else the model is given.
        """
        window = tf.concat([state, tf.expand_dims(x_t, 1)], axis=1)
        if not self._waits:
            outputs = decision.outputs(*run(self._terms_by_element, self._together(window, *given)))
        else:
            is_there = is_number(window)
            # Networks turn NaN into numbers, as relu does in LiteRT, so it is put where it belongs after them.
            filled = self._together(tf.where(is_there, window, 0.0), *given)
            outputs = decision.outputs(*run(self._terms_by_element, filled))
            is_there = tf.reduce_all(is_there, axis=[1, 2])
            unknown: dict[str, tf.Tensor] = {
                name: tf.where(is_there, outputs[name], np.nan) for name in ("score", "kl") if name in outputs
            }
            contributions = tf.where(tf.reshape(is_there, [-1, 1, 1]), outputs["contributions"], np.nan)
            is_anomaly = tf.where(is_there, outputs["is_anomaly"], 0.0)
            outputs = {**unknown, "contributions": contributions, "is_anomaly": is_anomaly}
        return {**outputs, "state": window[:, 1:]}

    def _meanings_of_detection(self) -> dict[str, str]:
        """What the inputs and outputs of `detect` and `step` mean, as far as exports have them."""
        of_detection = {} if self.decision is None else _DETECTION | (_WITHOUT_KL if "kl" in self.undefined else {})
        return {**of_detection, **(_STEPS if self._detects_steps else {})}

    def _readme_of_steps(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The section of the README on the signature `step`, if there is one: see `Exportable.export_readme`."""
        if "step" not in signatures:
            return []
        state_shape = list(self._window_shapes()[1])
        unknown = "`score` and `contributions`" if "kl" in self.undefined else "`score`, `contributions` and `kl`"
        before = _BEFORE_THE_WINDOW.format(steps=self.event_shape[0], unknown=unknown) if self._waits else ""
        return [
            (
                "stream.md",
                {
                    "state_shape": ", ".join(map(str, state_shape)),
                    "step": signatures["step"].inputs[0].shape[1],
                    "before": before,
                },
            )
        ]

    def _signature_of_steps(self, decision: Decision, detect: Signature) -> dict[str, Signature]:
        """The signature `step`.

        Args:
            decision: the calibration.
            detect: the signature `detect`, whose outputs it has.
        """
        step_shape, state_shape = self._window_shapes()
        given = detect.inputs[1:]
        inputs = (
            tf.TensorSpec([None, *step_shape], tf.float32, "x_t"),
            tf.TensorSpec([None, *state_shape], tf.float32, "state"),
            *given,
        )

        def expected(x_t: np.ndarray, state: np.ndarray, **given: Any) -> dict[str, np.ndarray]:
            outputs = self.step(x_t, state, **given)
            return {**outputs, "is_anomaly": outputs["is_anomaly"].astype(np.float32)}

        of_start = ("score", "contributions", "kl") if self._waits else ()
        return {
            "step": Signature(
                functools.partial(self._stepped, decision, _called),
                inputs,
                expected,
                detect.terms,
                request={
                    "x_t": np.zeros(step_shape).tolist(),
                    "state": np.full(state_shape, np.nan).tolist(),
                    **{spec.name: np.zeros(spec.shape[1:]).tolist() for spec in given},
                },
                meaning=self._meaning_of_step,
                jumps=detect.jumps,
                with_nan=("state", *of_start),
            )
        }

    def _example_steps(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of `step` for data by name, of which some have only just begun."""
        others = {name: array for name, array in data.items() if name != "x"}
        state = data["x"][:, :-1].copy()
        # Not the first row, on which each runtime is tried alone.
        state[1::4, : -(-len(state[0]) // 2)] = np.nan
        return {"x_t": data["x"][:, -1], "state": state, **others}
