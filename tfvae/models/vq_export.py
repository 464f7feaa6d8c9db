"""How a vector-quantised autoencoder is exported: its signatures take and give codes."""

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfvae.exportable import Arrays, Signature
from tfvae.models.codes import OfCodes
from tfvae.models.quantizer import squared_distances
from tfvae.training.batch import batches

# How many examples an export is compared with, where no data are given.
_DRAWN_ROWS = 64
# Where an export is compared, a move of the noise by the first, or of the encoder's output by the second, relative to
# the largest number in it and in the codes, must not change a code. Noise is otherwise drawn again, at most so often.
_NOISE_STEP, _CLEAR, _MOST_REDRAWS = np.float32(1e-4), 1e-4, 20


class CodesExport(OfCodes):
    """The signatures of a `tfvae.VQVAE`: see `tfvae.export.Endpoints`."""

    export_formats = ("SavedModel", "TFLite")

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`.

        Args:
            x: has no effect.
        """
        size = math.prod(self.code_shape)
        of_x, of_codes, of_noise = (
            tf.TensorSpec([None, *shape], tf.float32, name)
            for name, shape in (("x", self.event_shape), ("codes", self.code_shape), ("uniform", (size,)))
        )
        elements = math.prod(self.event_shape)
        terms = {"elbo": elements + size, "reconstruction_log_likelihood": elements, "kl": size}
        row = np.zeros(self.event_shape).tolist()
        return {
            "encode": Signature(
                lambda x: {"codes": tf.cast(self._encode(x), tf.float32)},
                (of_x,),
                lambda x: {"codes": self.encode(x).astype(np.float32)},
                meaning="the codes of x",
            ),
            "decode": Signature(
                lambda codes: {"mean": self._decode(codes)},
                (of_codes,),
                lambda codes: {"mean": self.decode(codes.astype(np.int32))},
                meaning="the mean of p(x|z) of codes",
            ),
            "reconstruct": Signature(
                lambda x: {"mean": self.call(x)},
                (of_x,),
                lambda x: {"mean": self.reconstruct(x)},
                meaning="the mean of p(x|z) of the codes of x",
            ),
            "generate": Signature(
                lambda uniform: {"mean": self._decode(self._codes_from(uniform, 1.0))},
                (of_noise,),
                lambda uniform: {"mean": self._decoded(self._codes_of_noise(uniform), batch_size=_DRAWN_ROWS)},
                meaning="the mean of p(x|z) of codes drawn from the prior by uniform noise",
                draws=True,
            ),
            "score": Signature(
                self._score_at_mean, (of_x,), lambda x: self.score(x), terms, row, "the ELBO and its terms in nats"
            ),
            "serving_default": Signature(
                self._reconstruct_and_score,
                (of_x,),
                lambda x: {"mean": self.reconstruct(x), **self.score(x)},
                terms,
                row,
                "the outputs of reconstruct and of score",
            ),
        }

    def export_weights(self) -> list[Any]:
        """The weights of all parts, and the codebook."""
        return [*super().export_weights(), self.codebook]

    def in_float32(self) -> Self:
        """The model itself; or, if it computes in half precision, a copy in float32."""
        copy = super().in_float32()
        if copy is not self:
            copy.codebook.assign(self.codebook)
        return copy

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: whether the codes for `decode` are those of data, rather than draws.
        """
        rng = np.random.default_rng(1)
        noise = rng.random([len(x), math.prod(self.code_shape)], np.float32)
        for _ in range(_MOST_REDRAWS):
            low, high = (self._codes_of_noise(noise + step) for step in (-_NOISE_STEP, _NOISE_STEP))
            jumps = (low != high).reshape(len(x), -1).any(axis=1)
            if not jumps.any():
                break
            noise[jumps] = rng.random([jumps.sum(), noise.shape[1]], np.float32)
        if not calibrating:
            x = self._clear(x)
        of_x = {"x": x}
        codes = self.encode(x) if calibrating else self._codes_of_noise(noise)
        return {
            "encode": of_x,
            "decode": {"codes": codes.astype(np.float32)},
            "reconstruct": of_x,
            "generate": {"uniform": noise},
            "score": of_x,
            "serving_default": of_x,
        }

    def _clear(self, x: np.ndarray) -> np.ndarray:
        """Data without those rows whose codes a rounding could change, in whose place others are repeated."""
        kept = x[np.concatenate([self._run(self._are_clear, part).numpy() for part in batches(x, _DRAWN_ROWS)])]
        return np.resize(kept, x.shape) if len(kept) else x

    def _are_clear(self, x: tf.Tensor) -> tf.Tensor:
        """Which examples [B] have no vector close to where another code becomes the nearest."""
        vectors = self._vectors(x)
        codebook = tf.convert_to_tensor(self.codebook)
        quantized = self._quantizer.quantize(vectors, codebook)
        closest = []
        for book, table in enumerate(self._quantizer.tables(codebook)):
            given = tf.reshape(quantized.inputs[:, :, book], [-1, table.shape[1]])
            own = tf.one_hot(tf.reshape(quantized.codes[:, :, book], [-1]), self.num_codes)
            distances = squared_distances(given, table)
            ahead = distances - tf.reduce_sum(own * distances, axis=1, keepdims=True)
            between = tf.norm(tf.matmul(own, table)[:, tf.newaxis] - table, axis=2)
            to_boundary = tf.where(own > 0, np.inf, tf.math.divide_no_nan(ahead, 2 * between))
            closest.append(tf.reduce_min(tf.reshape(to_boundary, [-1, vectors.shape[1] * self.num_codes]), axis=1))
        largest = tf.maximum(tf.reduce_max(tf.abs(vectors), axis=[1, 2]), tf.reduce_max(tf.abs(codebook)))
        return tf.reduce_min(closest, axis=0) > _CLEAR * largest

    def _drawn_data(self, rows: int) -> np.ndarray:
        noise = np.random.default_rng(0).random([rows, math.prod(self.code_shape)], np.float32)
        return self._generated(
            self._codes_of_noise(noise), batch_size=_DRAWN_ROWS, sample=True, seed=tf.constant([0, 0])
        )

    def export_meanings(self) -> Mapping[str, str]:
        """What the inputs and outputs of the signatures mean: see `Exportable`."""
        meanings = super().export_meanings()
        return {
            **{name: meanings[name] for name in ("x", "mean", "elbo", "reconstruction_log_likelihood")},
            "codes": f"integers from 0 to {self.num_codes - 1}, as floating-point numbers",
            "uniform": "noise, drawn uniformly from [0, 1), one number for each code",
            "kl": "-log p(z) of the codes, in nats",
        }

    @property
    def _description(self) -> dict[str, Any]:
        return {
            "num_codes": self.num_codes,
            "code_shape": list(self.code_shape),
            "likelihood": type(self.likelihood).__name__,
            "prior": "uniform" if self.prior is None else type(self.prior).__name__,
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: has no effect.
        """
        fields = {
            "event_shape": list(self.event_shape),
            "code_shape": list(self.code_shape),
            "last": self.num_codes - 1,
        }
        return [("codes.md", fields)]
