"""The vector-quantised variational autoencoder: its latent variables are numbers of codes in a learned codebook."""

import math
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import autoencoder
from tfvae.objectives import Objective


@keras.saving.register_keras_serializable("tfvae")
class VQVAE(autoencoder.Autoencoder):
    """A variational autoencoder whose q(z|x) is all on the code nearest to what the encoder gives, at each of D places.

    z_d = argmin over k of ||encoder(x)_d - e_k||,  p(x|z) = likelihood(decoder(e_z)),  p(z) uniform over the K^D codes

    So the bound is log p(x|z) - D log K <= log p(x), with a KL divergence of D log K that nothing changes. The gradient
    at e_z is passed to the encoder as it is, and training adds

    -||sg[encoder(x)] - e_z||^2 - commitment ||encoder(x) - sg[e_z]||^2,

    which moves the codes to the encoder and it to them. The metrics are those of `VariationalModel`, and `perplexity`:
    the exponential of the entropy of the frequencies of the codes, K where all are used alike.

    Args:
        encoder: a Keras model from x [B, ...] to vectors [B, ..., E], whose axes between are the places of the codes.
        decoder: a Keras model from vectors of the shape that the encoder gives to the likelihood's parameters.
        num_codes: K, at least 2.
        commitment: the weight of the distance of the encoder from its codes, >= 0.
        likelihood: p(x|z); None means `Normal(scale=1.0)`.
        objective: what is maximised; it may not take path gradients. None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together, or an argument is out of its range.

    Reference: van den Oord et al. 2017, Neural Discrete Representation Learning, equations 1 to 3.
    """

    _PARTS = ("encoder", "decoder", "likelihood", "objective")
    # The KL divergence is a constant.
    collapsing = ()
    _no_export = "its codes are integers, and no draw of them is a function of noise from N(0, I)"

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        num_codes: int,
        commitment: float = 0.25,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        **keras_kwargs: Any,
    ) -> None:
        # Before the metrics, of which one counts the codes.
        self.num_codes = checks.positive_integer("num_codes", num_codes, 2)
        super().__init__(objective, **keras_kwargs)
        autoencoder.check_network("encoder", encoder)
        autoencoder.check_network("decoder", decoder)
        self.encoder = encoder
        self.decoder = decoder
        self.commitment = checks.number("commitment", commitment, 0)
        self.likelihood = Normal() if likelihood is None else likelihood
        autoencoder.check_part("likelihood", self.likelihood, Likelihood)
        autoencoder.check_part("objective", self.objective, Objective)
        autoencoder.refuse_path_gradients(self)
        self.codebook = None
        # Until Keras builds it.
        self.code_shape: tuple[int, ...] = None  # type: ignore[assignment]
        declared = autoencoder.input_shapes(encoder)
        if declared is not None and None not in declared[0][1:]:
            self.build(declared[0])

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        return [_Perplexity(self.num_codes, name="perplexity")]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, ...].
        """
        if self.event_shape is not None:
            return
        event_shape = cast("tuple[int, ...]", tuple(input_shape[1:]))
        vectors = self.encoder(keras.KerasTensor((None, *event_shape)))
        if not isinstance(vectors, keras.KerasTensor) or len(vectors.shape) < 3 or None in vectors.shape[1:]:
            raise ValueError(
                "`encoder` must give one tensor of vectors [B, ..., E], with at least one axis for the places of the "
                f"codes. Received: an encoder that gives {autoencoder.describe(vectors)}"
            )
        declared = autoencoder.input_shapes(self.decoder)
        if declared is not None and [tuple(shape[1:]) for shape in declared] != [vectors.shape[1:]]:
            raise ValueError(
                f"`decoder` must take vectors of the shape {list(vectors.shape)} that the encoder gives. Received: a "
                f"decoder whose input has the shape {list(declared[0])}"
            )
        parameters = autoencoder.likelihood_parameters_of(
            "decoder", self.decoder, keras.KerasTensor(vectors.shape), self.likelihood, event_shape
        )
        if not self.likelihood.built:
            self.likelihood.build(parameters.shape)
        bound = 1 / self.num_codes
        self.codebook = self.add_weight(
            name="codebook",
            shape=(self.num_codes, vectors.shape[-1]),
            initializer=keras.initializers.RandomUniform(-bound, bound),
            dtype="float32",
            autocast=False,
        )
        self.code_shape = tuple(vectors.shape[1:-1])
        self.event_shape = event_shape

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, ...]: the mean of p(x|z).

        Args:
            x: the data [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        codes = self._nearest(self._vectors(x, training))
        return self.likelihood.mean(self.decoder(self._looked_up(codes), training=training))

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Computes the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`.

        There is nothing to draw: all samples are the same.
        """
        vectors = self._vectors(x, sampling.training)
        codes = self._nearest(vectors)
        quantized = self._looked_up(codes)
        passed = vectors + tf.stop_gradient(quantized - vectors)
        parameters = self.decoder(passed, training=sampling.training)
        axes = list(range(1, len(vectors.shape)))
        distance = tf.reduce_sum((tf.stop_gradient(vectors) - quantized) ** 2, axis=axes)
        distance += self.commitment * tf.reduce_sum((vectors - tf.stop_gradient(quantized)) ** 2, axis=axes)
        log_likelihood = self.likelihood.log_prob(x, parameters[tf.newaxis], training=sampling.training)
        log_likelihood = tf.tile(log_likelihood, [sampling.num_samples, 1])
        nats = math.prod(self.code_shape) * math.log(self.num_codes)
        counts = tf.reduce_sum(tf.one_hot(codes, self.num_codes), axis=axes[:-1])
        return elbo.ElboTerms(
            log_likelihood,
            tf.fill(tf.shape(log_likelihood), -nats),
            tf.zeros_like(log_likelihood),
            tf.fill(tf.shape(x)[:1], nats),
            auxiliary=-distance,
            metrics={"perplexity": counts},
        )

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder."""
        return self.encoder.trainable_variables

    def encode(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the codes.

        Args:
            x: an array [N, ...] or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The numbers of the codes, integers from 0 to K - 1, with one axis for each of the encoder's places [N, ...].
        """
        return super().encode(x, batch_size)

    def decode(self, codes: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z).

        Args:
            codes: what `encode` gives [N, ...], such as draws of a distribution that was fitted to the codes of data.
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        codes = checks.to_numpy(codes, "codes")
        checks.check_shape(codes, self.code_shape, "codes")
        expected = f"`codes` must hold integers from 0 to {self.num_codes - 1}"
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"{expected}. Received: codes of dtype {codes.dtype}")
        wrong = checks.find(codes, lambda part: (part < 0) | (part >= self.num_codes))
        if wrong is not None:
            raise ValueError(f"{expected}. Received: codes with the value {codes[wrong]}")
        return self._decoded(codes, batch_size=batch_size)

    def generate(self, n: int, seed: int | None = None, batch_size: int = 256) -> np.ndarray:
        """Draws codes from the uniform p(z) and computes the mean of p(x|z).

        The codes of data are far from uniform: for examples like the data, fit a distribution to what `encode` gives of
        them, and `decode` its draws.

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.

        Returns:
            The generated examples [n, ...].
        """
        self._check_built("generate")
        shape = [checks.positive_integer("n", n), *self.code_shape]
        codes = tf.random.stateless_uniform(shape, self._seed(seed), 0, self.num_codes, tf.int32)
        return self.decode(codes, batch_size)

    def log_likelihood(
        self, x: Any, num_samples: int = 1, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Computes the bound log p(x|z) - D log K on log p(x), which no number of draws makes tighter.

        Args:
            x: an array [N, ...] or a dataset.
            num_samples: of no effect, because all draws are the same.
            batch_size: how many examples are computed at a time.
            seed: of no effect.

        Returns:
            The bound [N], in nats per example.
        """
        return super().log_likelihood(x, num_samples, batch_size, seed)

    def score(self, x: Any, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Computes the terms of the bound: a score for anomalies.

        Args:
            x: an array [N, ...].
            batch_size: how many examples are computed at a time.

        Returns:
            `elbo`, `log_likelihood` and `kl`, each [N], in nats per example.
        """
        return super().score(x, None, batch_size)

    def _score_at_mean(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        terms = self.elbo_terms(x, elbo.Sampling(1, tf.zeros([2], tf.int32)))
        return {"elbo": terms.elbo, "log_likelihood": terms.log_likelihood[0], "kl": terms.kl}

    def _vectors(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(self.encoder(self.likelihood.encoder_input(x), training=training), tf.float32)

    def _nearest(self, vectors: tf.Tensor) -> tf.Tensor:
        """The number of the code that is nearest to each vector [B, ..., E]."""
        codebook = tf.convert_to_tensor(self.codebook)
        # The squared distance, less the square of the vector, which is the same for all codes.
        products = tf.tensordot(vectors, codebook, axes=[[-1], [1]])
        return tf.argmin(tf.reduce_sum(codebook**2, axis=1) - 2 * products, axis=-1, output_type=tf.int32)

    def _looked_up(self, codes: tf.Tensor) -> tf.Tensor:
        # Not gathered, whose gradient is sparse: replicas sum dense ones.
        return tf.tensordot(tf.one_hot(codes, self.num_codes), tf.convert_to_tensor(self.codebook), axes=1)

    def _encode(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._nearest(self._vectors(x, training))

    def _decode(self, codes: tf.Tensor) -> tf.Tensor:
        # Arrays come in batches of float32, which has all integers up to 2^24.
        return self.likelihood.mean(self.decoder(self._looked_up(tf.cast(codes, tf.int32)), training=False))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_codes": self.num_codes, "commitment": self.commitment}


class _Perplexity(keras.metrics.Metric):
    """The exponential of the entropy of the frequencies of codes.

    Args:
        num_codes: K.
        name: the name of the metric.
    """

    def __init__(self, num_codes: int, name: str) -> None:
        super().__init__(name=name)
        self.counts = self.add_variable(shape=(num_codes,), initializer="zeros", name="counts")

    def update_state(self, values: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds how often each example has each code [B, K]."""
        if sample_weight is not None:
            values *= tf.cast(sample_weight, tf.float32)[:, tf.newaxis]
        self.counts.assign_add(tf.reduce_sum(values, axis=0))

    def result(self) -> tf.Tensor:
        """The perplexity, from 1 to K."""
        frequencies = self.counts / tf.reduce_sum(self.counts)
        return tf.exp(-tf.reduce_sum(tf.math.xlogy(frequencies, frequencies)))
