"""How models of sequences generate them, step by step: from z, from the prior, or from the z of given sequences."""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, graphs, seeds
from tfvae.data.vocabulary import Vocabulary, are_texts
from tfvae.models import steps, text_inputs
from tfvae.models.signatures import AutoencoderExport
from tfvae.networks.stepwise import Stepwise
from tfvae.training.batch import batches

# By less than this, logits would not be finite in float32.
_COLDEST = 1e-30


class StepByStep(AutoencoderExport):
    """The methods of a `tfvae.AutoregressiveVAE` that generate sequences.

    Attributes:
        decoder: the decoder of z and the steps before.
        vocabulary: what the codes of texts stand for; None if the sequences are no texts.
        length: the number of steps of what is generated; None before the first training.
    """

    decoder: keras.Model
    vocabulary: Vocabulary | None
    length: int | None
    _one_step: Stepwise | None

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, length, C]: the best guess of each step, one after the other; NaN after the end.

        Args:
            x: the data [B, T, C].
            training: has no effect, but on the encoder.
        """
        z = self.posterior.center(self._encode(x, training))
        return self._ended(self._sequences(z, self._checked_length(None), self._greedy))

    def decode(
        self,
        z: Any,
        *,
        temperature: float = 0.0,
        length: int | None = None,
        seed: int | None = None,
        batch_size: int = 256,
    ) -> Any:
        """Computes the sequences of given z: by default the best guess of each step, one after the other.

        Args:
            z: an array [N, L].
            temperature: 0 takes the best guess, such as the most probable code. 1 draws from p(x|z). Any other number
                divides the logits of classes, so that draws below 1 are closer to the best guess.
            length: the most steps; None means the model's `length`.
            seed: the same seed gives the same draws; None draws anew at each call.
            batch_size: how many sequences are computed at a time.

        Returns:
            N texts, if the model has a vocabulary; otherwise the sequences [N, length, C].
        """
        self._check_built("decode")
        z = self._checked_noise("z", z, self.latent_dim)
        return self._texts(self._drawn_sequences(z, temperature, length, self._seed(seed), batch_size))

    def generate(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        length: int | None = None,
        seed: int | None = None,
        batch_size: int = 256,
    ) -> Any:
        """Draws z ~ p(z) and then x ~ p(x|z), step by step.

        Args:
            n: how many sequences to generate, at least 1.
            temperature: see `decode`.
            length: see `decode`.
            seed: the same seed gives the same sequences; None draws anew at each call.
            batch_size: how many sequences are computed at a time.

        Returns:
            n texts, if the model has a vocabulary; otherwise the sequences [n, length, C].
        """
        self._check_built("generate")
        state = self._seed(seed)
        z = self.prior.distribution().sample(checks.positive_integer("n", n), seed=state).numpy()
        return self._texts(self._drawn_sequences(z, temperature, length, _folded(state), batch_size))

    def reconstruct(
        self,
        x: Any,
        batch_size: int = 256,
        *,
        temperature: float = 0.0,
        length: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Computes the sequences of the z of given ones: see `decode`.

        z is the mean, or the `center`, of q(z|x) at temperature 0, as for `predict`, and otherwise a draw from it.

        Args:
            x: data as for `fit`: texts, arrays with N rows, or a dataset.
            batch_size: how many sequences are computed at a time.
            temperature: see `decode`.
            length: see `decode`.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            N texts, if x are texts; otherwise the sequences [N, length, C], with NaN after the end.
        """
        state = self._seed(seed)
        checked = seeds.for_each(self._checked_batches(x, batch_size, self.denoises), state)
        function = self._center if checks.number("temperature", temperature, 0) == 0 else self._draw
        z = np.concatenate([self._run(function, *each).numpy() for each in checked])
        made = self._drawn_sequences(z, temperature, length, _folded(state), batch_size)
        return self._texts(made) if are_texts(text_inputs.listed(x)) else made

    def _center(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return self.posterior.center(self._encode(x))

    def _draw(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return self._from_posterior(x, tf.random.stateless_normal([tf.shape(x)[0], self.latent_dim], seed))

    def _texts(self, sequences: np.ndarray) -> Any:
        return sequences if self.vocabulary is None else self.vocabulary.decode(sequences)

    def _drawn_sequences(
        self, z: np.ndarray, temperature: float, length: int | None, seed: tf.Tensor, batch_size: int
    ) -> np.ndarray:
        """The sequences [N, length, C] of z, with NaN after the end."""
        temperature = checks.number("temperature", temperature, 0)
        if 0 < temperature < _COLDEST:
            raise ValueError(
                f"`temperature` must be 0, for the best guess, or at least {_COLDEST:g}, because logits are divided "
                f"by it in float32. Received: temperature={temperature:g}"
            )
        length = self._checked_length(length)
        if temperature not in (0, 1) and not self.likelihood.takes_temperature:
            raise ValueError(
                "`temperature` must be 0 or 1 unless the likelihood has logits, as Categorical and Bernoulli have. "
                f"Received: temperature={temperature:g} for a {type(self.likelihood).__name__}"
            )
        key = ("_drawn_sequences", temperature > 0, length)
        if key not in self._functions:
            # Not by XLA, which cannot draw from every distribution.
            function = functools.partial(self._drawn_batch, length=length, is_greedy=temperature == 0)
            self._functions[key] = graphs.graph(function, reduce_retracing=True)
        made = [
            self._functions[key](batch, tf.constant(temperature, tf.float32), part)
            for batch, part in seeds.for_each(batches(z, batch_size), seed)
        ]
        return np.concatenate([each.numpy() for each in made])

    def _drawn_batch(
        self, z: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, *, length: int, is_greedy: bool
    ) -> tf.Tensor:
        def drawn(parameters: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
            if self.likelihood.takes_temperature:
                parameters = tf.cast(parameters, tf.float32) / temperature
            of_step = tf.random.experimental.stateless_fold_in(seed, t)
            return tf.cast(self.likelihood.distribution(parameters).sample(seed=of_step), tf.float32)

        return self._ended(self._sequences(z, length, self._greedy if is_greedy else drawn))

    def _greedy(self, parameters: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return self.likelihood.best_guess(parameters)

    @property
    def _end(self) -> int | None:
        return None if self.vocabulary is None else self.vocabulary.end

    def _sequences(self, z: tf.Tensor, length: int, draw: steps.Draw) -> tf.Tensor:
        """The sequences [B, length, C] of z [B, L], which after their end go on with it."""
        return steps.generated(self.decoder, self._one_step, z, length, self.event_shape[1], draw, self._end)

    def _ended(self, sequences: tf.Tensor) -> tf.Tensor:
        """The sequences with NaN after the end."""
        return sequences if self._end is None else steps.ended(sequences, self._end)

    def _checked_length(self, length: int | None) -> int:
        if length is not None:
            return checks.positive_integer("length", length)
        if self.length is None:
            raise ValueError(
                "`length` must be given to the method, or to the constructor of a model that was not trained. "
                "Received: length=None"
            )
        return self.length


def _folded(seed: tf.Tensor) -> tf.Tensor:
    """The seed of x, which differs from that of z."""
    return tf.random.experimental.stateless_fold_in(seed, -1)
