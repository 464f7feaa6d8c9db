"""The codes of a vector-quantised autoencoder: how they are drawn, and how their prior is learned."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, private_apis
from tfvae.models import ownership, parts
from tfvae.models.code_density import CodeDensity
from tfvae.models.code_prior import CodePrior
from tfvae.models.quantizer import Quantizer
from tfvae.models.signatures import AutoencoderExport
from tfvae.training.batch import batches, check_no_weights


class OfCodes(AutoencoderExport):
    """The methods of a `tfvae.VQVAE` that take and give codes.

    Attributes:
        codebook: the codes of all codebooks that differ, one below the other.
        code_shape: the shape of the codes of one example; None until the model is built.
        num_codes: K.
        prior: p(z); None for the uniform one.
    """

    codebook: keras.Variable
    code_shape: tuple[int, ...]
    num_codes: int
    prior: CodePrior | None
    _quantizer: Quantizer

    def fit_prior(
        self,
        x: Any,
        prior: CodePrior | None = None,
        *,
        optimizer: keras.optimizers.Optimizer | None = None,
        batch_size: int = 128,
        validation_data: Any = None,
        **fit_arguments: Any,
    ) -> keras.callbacks.History:
        """Learns p(z) from the codes of data, by maximum likelihood, and makes it the model's.

        From then on `generate`, the bound and exports use it. The rest of the model stays as it is. A prior that the
        model did not have before is frozen in a later `fit`; fit it again after that.

        Args:
            x: data as for `fit`, such as those of the training.
            prior: what is fitted; None goes on with the prior that the model has, or else takes `CodePrior()`.
            optimizer: None means `Adam(1e-3)`.
            batch_size: the number of examples in a step.
            validation_data: further data as x, whose metrics are in the history too.
            fit_arguments: other arguments of `keras.Model.fit`, such as `epochs`, `verbose` or `callbacks`; with
                `tfvae.callbacks.Checkpoints` among these, an interrupted call is continued by the next one.

        Returns:
            The history, with the metrics of each epoch: `loss`, and `log_prob`, log p(z), in nats per example.

        Raises:
            ValueError: an argument is invalid, or the model is not built.
        """
        self._check_built("fit_prior")
        chosen = self.prior if prior is None else parts.checked_part("prior", prior, CodePrior)
        check_no_weights(self, x)
        codes = self.encode(x)
        try:
            check_no_weights(self, validation_data)
            held_out = None if validation_data is None else self.encode(validation_data)
        except ValueError as error:
            raise ValueError(f"`validation_data`: {error}") from error
        with self.distribute_strategy.scope():
            chosen = CodePrior() if chosen is None else chosen
            self._connect(chosen)
        was_trainable = chosen.trainable
        try:
            chosen.trainable = True
            with self.distribute_strategy.scope():
                density = CodeDensity(chosen)
                density.compile(keras.optimizers.Adam(1e-3) if optimizer is None else optimizer)
            history = density.fit(codes, batch_size=batch_size, validation_data=held_out, **fit_arguments)
        finally:
            chosen.trainable = was_trainable
        if chosen is not self.prior:
            # Frozen, because an optimizer of the model knows no new weights.
            chosen.trainable = False
            private_apis.replace_layer(self, "prior", chosen)
            ownership.claim(chosen, self)
        # Those that were traced have the prior of before.
        self._functions.clear()
        self.train_function = self.test_function = None
        return history

    def encode(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the codes: the values of z at which q(z|x) has all of its mass.

        Args:
            x: an array [N, ...] or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The indices of the codes [N, ...], integers from 0 to K - 1, one for each position of the encoder's output,
            or with levels or groups Q for each, on the last axis.
        """
        return super().encode(x, batch_size)

    def decode(self, codes: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z).

        Args:
            codes: indices as returned by `encode` [N, ...].
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        codes = checks.to_numpy(codes, "codes")
        checks.check_shape(codes, self.code_shape, "codes")
        checks.check_integers(codes, 0, self.num_codes, f"hold integers from 0 to {self.num_codes - 1}", "codes")
        return self._decoded(codes, batch_size=batch_size)

    def generate(
        self, n: int, seed: int | None = None, batch_size: int = 256, sample: bool = False, *, temperature: float = 1.0
    ) -> np.ndarray:
        """Draws codes from p(z) and computes the mean of p(x|z).

        The codes of real data are far from uniform: examples look like the data only after `fit_prior`.

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.
            temperature: the logits of a learned prior are divided by it, > 0: below 1 probable codes become more so.

        Returns:
            The generated examples [n, ...].
        """
        self._check_built("generate")
        temperature = checks.positive_number("temperature", temperature)
        if self.prior is None and temperature != 1:
            raise ValueError(
                "`temperature` must be 1 for the uniform prior; `fit_prior` learns another one. Received: "
                f"temperature={temperature:g}"
            )
        state = self._seed(seed)
        shape = [checks.positive_integer("n", n), math.prod(self.code_shape)]
        uniform = tf.random.stateless_uniform(shape, state).numpy()
        codes = self._codes_of_noise(uniform, batch_size, temperature)
        return self._generated(codes, batch_size=batch_size, sample=sample, seed=state)

    def _connect(self, prior: CodePrior) -> None:
        ownership.refuse_shared("prior", prior, self)
        prior.connect(self.num_codes, self._quantizer.num_books, self.code_shape)
        parts.build(prior, (None, *self.code_shape))

    def _log_prior(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Log p(z) [B] of codes [B, P, Q]."""
        if self.prior is not None:
            # A frozen one is only asked, also in the training of the rest.
            return self.prior.log_prob(codes, training=training and self.prior.trainable)
        nats = math.prod(self.code_shape) * math.log(self.num_codes)
        return tf.reduce_sum(0.0 * tf.cast(codes, tf.float32), axis=[1, 2]) - nats

    def _codes_from(self, uniform: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
        """Codes [B, ...], as float32, drawn from p(z) by noise from U(0, 1) [B, D]."""
        if self.prior is not None:
            return self.prior.sample_from(uniform, temperature)
        codes = tf.clip_by_value(tf.floor(uniform * self.num_codes), 0.0, self.num_codes - 1.0)
        return tf.reshape(codes, [-1, *self.code_shape])

    def _codes_of_noise(self, uniform: np.ndarray, batch_size: int = 256, temperature: float = 1.0) -> np.ndarray:
        """The codes [N, ...], int32, drawn from p(z) by noise [N, D]."""
        scalar = tf.constant(temperature, tf.float32)
        drawn = [self._run(self._codes_from, part, scalar).numpy() for part in batches(uniform, batch_size)]
        return np.concatenate(drawn).astype(np.int32)
