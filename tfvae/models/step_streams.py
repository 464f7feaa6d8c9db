"""Streams of models with latent variables at each step, of which the state is a row of numbers."""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tensorflow as tf

from tfvae.detection.decision import Decision
from tfvae.exportable import Arrays, Signature
from tfvae.models.sequential_export import SequentialExport
from tfvae.models.state_space import State
from tfvae.networks.stepwise import NotStepwiseError, stepwise
from tfvae.numerics import is_number


class StepStreams(SequentialExport):
    """The streams of a `tfvae.SequentialVAE` with a causal encoder, and the signature `step` of its exports.

    The state [n, S] holds the latent variables of the step before, the memory, and the states of the encoder, side by
    side. `step` gives what `detect` gives for the step: `score`, `is_anomaly` and `kl` [n] and `contributions`
    [n, ...]. What is padding to `detect` is a gap to a stream, which cannot know that nothing follows.
    """

    _meaning_of_step = "detect for the step x_t of a sequence, given those before; the state for the next step"
    _waits = False
    _takes_shorter = False

    @property
    def _takes_steps(self) -> bool:
        """Whether the encoder is causal, and of layers whose states are known."""
        try:
            self._encoder_of_steps()
        except NotStepwiseError:
            return False
        return True

    def _encoder_of_steps(self) -> Any:
        """The encoder for one step at a time."""
        if "_stepwise" not in self.__dict__:
            # Keras must not track it, because its layers are those of the encoder.
            self.__dict__["_stepwise"] = stepwise(self.encoder)
        return self.__dict__["_stepwise"]

    def _starts(self) -> tuple[State, list[tf.Tensor]]:
        """The states of the model and of the encoder before the first step, of one row."""
        return self.initial(1), self._encoder_of_steps().initial_state(1)

    def _window_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of a step and of the state."""
        self._check_built("step")
        starts = tf.nest.flatten(self._starts())
        return tuple(self.event_shape[1:]), (sum(math.prod(start.shape[1:]) for start in starts),)

    def _check_state(self, state: np.ndarray) -> None:
        super()._check_state(state)
        is_missing = np.isnan(state)
        wrong = is_missing.any(axis=1) & ~is_missing.all(axis=1)
        if wrong.any():
            raise ValueError(
                "`state` must have rows that are finite, or all NaN before the first step. Received: a row in which "
                f"some numbers are NaN, at index {int(np.argmax(wrong))}"
            )

    def _unpacked(self, state: tf.Tensor) -> tuple[State, list[tf.Tensor]]:
        """The states of the model and of the encoder from rows [B, S], of which those with NaN are before the start."""
        starts = self._starts()
        flat = tf.nest.flatten(starts)
        parts = tf.split(state, [math.prod(start.shape[1:]) for start in flat], axis=1)
        states = []
        for part, start in zip(parts, flat, strict=True):
            filled = tf.where(is_number(part), part, tf.cast(tf.reshape(start, [1, -1]), tf.float32))
            states.append(tf.cast(tf.reshape(filled, [-1, *start.shape[1:]]), start.dtype))
        return cast("tuple[State, list[tf.Tensor]]", tf.nest.pack_sequence_as(starts, states))

    def _terms_of_stream(self, x_t: tf.Tensor, state: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """The terms of a step, and the new state [B, S]."""
        of_model, of_encoder = self._unpacked(state)
        features, of_encoder = self._encoder_of_steps()(self.likelihood.encoder_input(x_t), of_encoder)
        terms, of_model = self.terms_of_step(features, x_t, of_model, tf.logical_not(is_number(state[:, 0])))
        rows = [
            tf.reshape(tf.cast(each, tf.float32), [-1, math.prod(each.shape[1:])])
            for each in tf.nest.flatten((of_model, of_encoder))
        ]
        return terms, tf.concat(rows, axis=1)

    def _stepped(
        self, decision: Decision, run: Callable[..., Any], x_t: tf.Tensor, state: tf.Tensor, *given: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        terms, after = run(self._terms_of_stream, x_t, state)
        return {**decision.outputs(*terms), "state": after}

    def _example_steps(self, data: Arrays) -> Arrays:
        """The inputs of `step` for data by name: the last step, after all before it; some have only just begun."""
        x = data["x"]
        state = tf.constant(self.initial_state(len(x)))
        for t in range(x.shape[1] - 1):
            state = self._run(self._terms_of_stream, tf.constant(x[:, t]), state)[1]
        # Not the first row, on which each runtime is tried alone.
        has_begun = (np.arange(len(x)) % 4 != 1)[:, np.newaxis]
        return {"x_t": x[:, -1], "state": np.where(has_begun, state.numpy(), np.float32(np.nan))}

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported, and warns if it will not have `step`: see `Exportable`."""
        super().check_exportable()
        if self.decision is None:
            return
        try:
            self._encoder_of_steps()
        except NotStepwiseError as error:
            warnings.warn(
                f"The export has no signature `step`, because the encoder has no form for one step at a time: {error}",
                stacklevel=2,
            )

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`."""
        signatures = super().export_signatures(x)
        if self.decision is not None and self._detects_steps:
            signatures |= self._signature_of_steps(self.decision, signatures["detect"])
        return signatures

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`."""
        examples = super().export_examples(x, calibrating)
        return {**examples, **({"step": self._example_steps({"x": x})} if self._detects_steps else {})}
