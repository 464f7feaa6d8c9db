"""How autoregressive models of sequences are exported: their signatures take and give sequences, or texts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae.exportable import Arrays, Signature
from tfvae.models import text_inputs
from tfvae.models.generation import StepByStep

# How many sequences an export is compared with, where no data are given.
_DRAWN_ROWS = 64
# Where an export is compared, z that move by the first must not change a sequence by more than the second.
_STEP, _LARGEST_CHANGE = np.float32(1e-4), 1e-2
_MOST_REDRAWS = 20
_END = " After its end a sequence goes on with the code of the end."


class AutoregressiveExport(StepByStep):
    """The signatures of a `tfvae.AutoregressiveVAE`: see `tfvae.export.Endpoints`."""

    export_formats = ("SavedModel", "TFLite")
    export_tags = (*StepByStep.export_tags, "text-generation")
    timed_signature = "score"

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported: see `Exportable`."""
        super().check_exportable()
        if self.length is None:
            raise ValueError(
                "`model` must have a `length`, that of exported sequences: train it, or give its constructor one. "
                "Received: length=None"
            )

    @property
    def export_length(self) -> int | None:
        """The number of steps in formats whose inputs have fixed sizes: see `Exportable`."""
        return self.length

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`.

        Args:
            x: has no effect.
        """
        assert self.length is not None
        channels = self.event_shape[1]
        of_x, z, epsilon = (
            tf.TensorSpec([None, *shape], tf.float32, name)
            for name, shape in (("x", self.event_shape), ("z", (self._z_dim,)), ("epsilon", (self._z_dim,)))
        )
        uniform = tf.TensorSpec([None, self.length, *self.likelihood.noise_shape((channels,))], tf.float32, "uniform")
        elements = self.length * channels
        terms = self._defined({"elbo": elements, "reconstruction_log_likelihood": elements, "kl": self._z_dim})
        # The shortest text, because JSON has no NaN for padding.
        row = np.zeros((self.length, channels)).tolist() if self.vocabulary is None else [[1.0], [0.0]]
        signatures = {
            "encode": Signature(self._encode, (of_x,), self.encode, meaning="the parameters of q(z|x)"),
            "decode": Signature(
                self._decoded_best,
                (z,),
                lambda z: {"sequence": self._exported(self._best(z))},
                meaning="the best guess of each step of x given z, one after the other",
            ),
            "reconstruct": Signature(
                lambda x: self._decoded_best(self.posterior.center(self._encode(x))),
                (of_x,),
                lambda x: {"sequence": self._exported(np.asarray(self._run(self.call, tf.constant(x))))},
                meaning="the outputs of decode at the mean of q(z|x)",
            ),
            "generate": Signature(
                lambda epsilon: self._decoded_best(self._from_prior(epsilon)),
                (epsilon,),
                lambda epsilon: {"sequence": self._exported(self._best(self._prior_draws(epsilon, {})))},
                meaning="the outputs of decode at z drawn from the prior by noise epsilon from N(0, I)",
            ),
            "score": Signature(
                self._score,
                (of_x, epsilon),
                lambda x, epsilon: self.score(x, epsilon),
                terms,
                request={"x": row, "epsilon": np.zeros(self._z_dim).tolist()},
                meaning=f"{self._scores_in_words}, and log p(x_t|x_<t, z) of each step, in nats, at z drawn from "
                "q(z|x) by noise epsilon from N(0, I)",
            ),
            "serving_default": Signature(
                self._reconstruct_and_score,
                (of_x,),
                lambda x: {
                    "sequence": self._exported(np.asarray(self._run(self.call, tf.constant(x)))),
                    **self.score(x),
                },
                terms,
                request=row,
                meaning="the outputs of reconstruct, and those of score at the mean of q(z|x)",
            ),
        }
        if self.likelihood.samples_from_noise:
            signatures["generate_sample"] = Signature(
                self._sampled,
                (epsilon, uniform),
                meaning="a draw of x: z from the prior, then each step given those before it, by noise epsilon from "
                "N(0, I) and uniform noise",
                draws=True,
            )
        shape = self.likelihood.mean_shape((channels,))
        if len(shape) == 1:
            return signatures
        columns = None if self.vocabulary is None else text_inputs.columns(self.vocabulary, self.length)
        return {name: text_inputs.of_codes(each, shape[-1], columns) for name, each in signatures.items()}

    def _best(self, z: np.ndarray) -> np.ndarray:
        return self._drawn_sequences(z, 0.0, None, tf.constant([0, 0]), _DRAWN_ROWS)

    def _decoded_best(self, z: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"sequence": self._sequences(z, self._checked_length(None), self._greedy)}

    def _reconstruct_and_score(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {**self._decoded_best(self.posterior.center(self._encode(x))), **self._score_at_mean(x)}

    def _sampled(self, epsilon: tf.Tensor, uniform: tf.Tensor) -> dict[str, tf.Tensor]:
        def drawn(parameters: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
            return self.likelihood.sample_from(parameters, tf.gather(uniform, t, axis=1))

        return {"sequence": self._sequences(self._from_prior(epsilon), self._checked_length(None), drawn)}

    def _exported(self, sequences: np.ndarray) -> np.ndarray:
        """Sequences as exports give them, which have no NaN."""
        return sequences if self.vocabulary is None else np.where(np.isnan(sequences), self.vocabulary.end, sequences)

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data with which an export is compared: sequences of `length` steps. See `Exportable`.

        Args:
            x: data as for `fit`: texts, or an array [N, T, C], T at most `length`. None lets the model generate.
            rows: how many rows to take or, without x, to generate.
        """
        assert self.length is not None
        if x is None:
            z = np.random.default_rng(0).standard_normal([rows or _DRAWN_ROWS, self._z_dim], np.float32)
            x = self._drawn_sequences(z, 1.0, self.length, tf.constant([0, 0]), _DRAWN_ROWS)
            if self.vocabulary is not None:
                # Without an end it would not be a text, and neither is an empty one.
                texts = [text or self.vocabulary.symbols[0] for text in self.vocabulary.decode(x[:, :-1])]
                x = self.vocabulary.encode(texts)
        x = np.asarray(self._arrays(x), np.float32)[:rows]
        self.check_data(x)
        if self.vocabulary is not None:
            x = self.vocabulary.encode(self.vocabulary.decode(x))
        if x.shape[1] > self.length or (x.shape[1] < self.length and not self.likelihood.allows_missing):
            most = "at most " if self.likelihood.allows_missing else ""
            raise ValueError(
                f"`x` must have {most}{self.length} steps, the `length` of the model, to compare an export with. "
                f"Received: x of shape {list(x.shape)}"
            )
        padding = [(0, 0), (0, self.length - x.shape[1]), (0, 0)]
        return np.pad(x, padding, constant_values=np.float32(np.nan))

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: see `AutoencoderExport.export_examples`.
        """
        epsilon = np.random.default_rng(1).standard_normal([len(x), self._z_dim], np.float32)
        if self.vocabulary is not None and not calibrating:
            x = self._steady(x)
            epsilon = self._steady_epsilon(epsilon)
        of_x, of_epsilon = {"x": x}, {"epsilon": epsilon}
        examples = {
            "encode": of_x,
            "decode": {"z": self._prior_draws(epsilon, {})},
            "reconstruct": of_x,
            "generate": of_epsilon,
            "score": {**of_x, **of_epsilon},
            "serving_default": of_x,
        }
        if self.likelihood.samples_from_noise:
            rng = np.random.default_rng(3)
            shape = [len(x), self.length, *self.likelihood.noise_shape((self.event_shape[1],))]
            uniform = rng.random(shape, np.float32)
            for _ in range(_MOST_REDRAWS):
                near = (
                    np.asarray(self._run(self._sampled, tf.constant(epsilon), tf.constant(uniform + step))["sequence"])
                    for step in (-_STEP, _STEP)
                )
                moves = _moves(*near)
                if not moves.any():
                    break
                uniform[moves] = rng.random([moves.sum(), *shape[1:]], np.float32)
            examples["generate_sample"] = {**of_epsilon, "uniform": uniform}
        return examples

    def _jumps(self, z: np.ndarray) -> np.ndarray:
        """Which sequences [N] change with their z by as little as rounding, so that they cannot be compared."""
        return _moves(self._best(z - _STEP), self._best(z + _STEP), self._best(z))

    def _steady(self, x: np.ndarray) -> np.ndarray:
        """Data without those rows whose reconstruction jumps, in whose place others are repeated."""
        z = self._run(self._center, tf.constant(x), tf.constant([0, 0])).numpy()
        kept = x[~self._jumps(z)]
        return np.resize(kept, x.shape) if len(kept) else x

    def _steady_epsilon(self, epsilon: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(2)
        for _ in range(_MOST_REDRAWS):
            jumps = self._jumps(self._prior_draws(epsilon, {}))
            if not jumps.any():
                break
            epsilon[jumps] = rng.standard_normal([jumps.sum(), self._z_dim], np.float32)
        return epsilon

    def export_units(self, offset: np.ndarray, scale: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Those of the data for x and what is generated: see `Exportable`."""
        return {"x": (offset, scale), "sequence": (offset, scale)}

    def export_example(self, signatures: Mapping[str, Signature]) -> Arrays:
        """A sequence that the model generates: see `Exportable`."""
        return {"x": self.export_data(None, 1)}

    def export_meanings(self) -> Mapping[str, str]:
        """What the inputs and outputs of the signatures mean: see `Exportable`."""
        meanings = super().export_meanings()
        codes = " of codes, which `vocabulary` explains"
        of_x = "sequences, with NaN for padding" if self.likelihood.allows_missing else "sequences"
        return {
            **{name: text for name, text in meanings.items() if name not in ("mean", "sample")},
            "x": of_x if self.vocabulary is None else f"texts as sequences{codes}, with NaN after the end",
            "uniform": "noise, drawn uniformly from [0, 1), two numbers for each element of a step",
            "sequence": "sequences as x" if self.vocabulary is None else f"sequences{codes}.{_END}",
            "step_log_likelihood": "log p(x_t|x_<t, z) of each step, in nats; 0 for padding",
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: has no effect.
        """
        ((template, fields),) = super().export_readme(signatures)
        if self.vocabulary is None:
            padding = "; NaN after the end of a shorter one is padding" if self.likelihood.allows_missing else ""
            any_length = (
                f" T is the number of steps, any from 1 on and the same for all sequences of a request{padding}. "
                f"Whatever T is, `sequence` has {self.length} steps, the `length` of the model."
            )
            return [(template, {**fields, "event_shape": f"[T, {self.event_shape[1]}]", "shorter": any_length})]
        fields |= {"kind": self.vocabulary.kind, "classes": self.vocabulary.num_classes, "length": self.length}
        return [("text.md", fields)]


def _moves(*sequences: np.ndarray) -> np.ndarray:
    """Which of several versions of sequences [N, ...] are not all the same."""
    filled = [np.nan_to_num(each, nan=-1.0) for each in sequences]
    changes = np.max([np.abs(each - filled[0]) for each in filled[1:]], axis=0)
    return (changes > _LARGEST_CHANGE).reshape(len(changes), -1).any(axis=1)
