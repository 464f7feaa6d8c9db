"""The vector-quantised variational autoencoder, whose latent variables are indices into a learned codebook."""

import math
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import autoencoder, parts
from tfvae.objectives import Objective


@keras.saving.register_keras_serializable("tfvae")
class VQVAE(autoencoder.Autoencoder):
    """A variational autoencoder whose q(z|x) puts all its mass on the code nearest to the encoder's output.

    z_d = argmin over k of ||encoder(x)_d - e_k||,  p(x|z) = likelihood(decoder(e_z)),  p(z) uniform over K^D values

    The index d runs over the D positions of the encoder's output. The bound is log p(x|z) - D log K <= log p(x), and
    the KL divergence is the constant D log K. The gradient with respect to e_z is passed on to the encoder's output
    unchanged (straight-through), and training adds

    -||sg[encoder(x)] - e_z||^2 - commitment ||encoder(x) - sg[e_z]||^2,

    where sg stops the gradient, to move the codes and the encoder's outputs towards each other. The metrics are those
    of `VariationalModel`, and `perplexity`: the exponential of the entropy of the code frequencies, which ranges from 1
    to K and is K if all codes are used equally often.

    Args:
        encoder: a Keras model from x [B, ...] to vectors [B, ..., E]; the axes between B and E are the D positions.
        decoder: a Keras model from vectors of the encoder's output shape to the likelihood's parameters.
        num_codes: K, at least 2.
        commitment: the weight of the term that moves the encoder's outputs to the codes, >= 0.
        likelihood: p(x|z); None means `Normal(scale=1.0)`.
        objective: what is maximised; it may not take path gradients. None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together, or an argument is out of its range.

    Reference: van den Oord et al. 2017, Neural Discrete Representation Learning, equations 1 to 3.
    """

    _PARTS = ("encoder", "decoder", "likelihood", "objective")
    # The KL divergence is constant, so a posterior cannot collapse.
    collapsing = ()
    _no_detection = "its KL divergence is the same for all x, and what its encoder loses is not part of its bound"
    _no_export = "its codes are integers, and a draw of them is not a function of noise from N(0, I)"

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
        # Set before the base class makes the metrics, one of which counts the codes.
        self.num_codes = checks.positive_integer("num_codes", num_codes, 2)
        super().__init__(objective, **keras_kwargs)
        self.encoder = parts.checked_network("encoder", encoder)
        self.decoder = parts.checked_network("decoder", decoder)
        self.commitment = checks.number("commitment", commitment, 0)
        self.likelihood = parts.checked_part("likelihood", likelihood, Likelihood, default=Normal)
        parts.refuse_path_gradients(self)
        self.codebook = None
        # None until the model is built.
        self.code_shape: tuple[int, ...] = None  # type: ignore[assignment]
        self._build_where_known(encoder)

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
        parts.freeze_within(self.encoder)
        if not isinstance(vectors, keras.KerasTensor) or len(vectors.shape) < 3 or None in vectors.shape[1:]:
            raise ValueError(
                "`encoder` must give one tensor of vectors [B, ..., E], with at least one axis for positions of the "
                f"codes. Received: an encoder that gives {parts.describe(vectors)}"
            )
        declared = parts.input_shapes(self.decoder)
        if declared is not None and [tuple(shape[1:]) for shape in declared] != [vectors.shape[1:]]:
            raise ValueError(
                f"`decoder` must take vectors of the encoder's output shape, {list(vectors.shape)}. Received: a "
                f"decoder whose input has the shape {list(declared[0])}"
            )
        parameters = parts.likelihood_parameters_of(
            "decoder", self.decoder, keras.KerasTensor(vectors.shape), self.likelihood, event_shape
        )
        parts.build(self.likelihood, parameters.shape)
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

    @property
    def _description(self) -> dict[str, Any]:
        return {
            "num_codes": self.num_codes,
            "code_shape": list(self.code_shape),
            "likelihood": type(self.likelihood).__name__,
        }

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

        q(z|x) is deterministic, so all S samples are the same.
        """
        vectors = self._vectors(x, sampling.training)
        codes = self._nearest(vectors)
        quantized = self._looked_up(codes)
        passed = vectors + tf.stop_gradient(quantized - vectors)
        parameters = self.decoder(passed, training=sampling.training)
        axes = list(range(1, len(vectors.shape)))
        distance = tf.reduce_sum((tf.stop_gradient(vectors) - quantized) ** 2, axis=axes)
        distance += self.commitment * tf.reduce_sum((vectors - tf.stop_gradient(quantized)) ** 2, axis=axes)
        observed = x if sampling.target is None else sampling.target
        log_likelihood = self.likelihood.log_prob(observed, parameters[tf.newaxis], training=sampling.training)
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
        """Computes the codes: the values of z at which q(z|x) has all of its mass.

        Args:
            x: an array [N, ...] or a dataset.
            batch_size: how many examples are computed at a time.

        Returns:
            The indices of the codes [N, ...], integers from 0 to K - 1, one for each position of the encoder's output.
        """
        return super().encode(x, batch_size)

    def decode(self, codes: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x|z).

        Args:
            codes: indices as returned by `encode` [N, ...], for example drawn from a distribution fitted to such codes.
            batch_size: how many examples are computed at a time.

        Returns:
            The mean [N, ...].
        """
        self._check_built("decode")
        codes = checks.to_numpy(codes, "codes")
        checks.check_shape(codes, self.code_shape, "codes")
        checks.check_integers(codes, 0, self.num_codes, f"hold integers from 0 to {self.num_codes - 1}", "codes")
        return self._decoded(codes, batch_size=batch_size)

    def generate(self, n: int, seed: int | None = None, batch_size: int = 256, sample: bool = False) -> np.ndarray:
        """Draws codes from the uniform p(z) and computes the mean of p(x|z).

        The codes of real data are far from uniform. For examples that look like the data, fit a distribution to the
        codes that `encode` returns for the data, draw codes from it, and pass these to `decode`.

        Args:
            n: how many examples to generate, at least 1.
            seed: the same seed gives the same examples; None draws anew at each call.
            batch_size: how many examples are computed at a time.
            sample: whether to draw x ~ p(x|z), with the spread of data, instead of the mean, which varies less.

        Returns:
            The generated examples [n, ...].
        """
        self._check_built("generate")
        shape = [checks.positive_integer("n", n), *self.code_shape]
        state = self._seed(seed)
        codes = tf.random.stateless_uniform(shape, state, 0, self.num_codes, tf.int32)
        return self._generated(codes.numpy(), batch_size=batch_size, sample=sample, seed=state)

    def log_likelihood(
        self, x: Any, num_samples: int = 1, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Computes the lower bound log p(x|z) - D log K on log p(x). More draws do not make it tighter.

        Args:
            x: an array [N, ...] or a dataset.
            num_samples: has no effect, because all draws are the same.
            batch_size: how many examples are computed at a time.
            seed: has no effect.

        Returns:
            The bound [N], in nats per example.
        """
        return super().log_likelihood(x, num_samples, batch_size, seed)

    def score(self, x: Any, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Computes the terms of the bound. `elbo` can serve to detect anomalies: it is low for unusual examples.

        Args:
            x: an array [N, ...].
            batch_size: how many examples are computed at a time.

        Returns:
            `elbo`, `reconstruction_log_likelihood` and `kl`, each [N], in nats per example.
        """
        return super().score(x, None, batch_size)

    def _score_at_mean(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._scores(self.elbo_terms(x, elbo.Sampling(1, tf.zeros([2], tf.int32))))

    def _vectors(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(self.encoder(self.likelihood.encoder_input(x), training=training), tf.float32)

    def _nearest(self, vectors: tf.Tensor) -> tf.Tensor:
        """The index of the code nearest to each vector [B, ..., E]."""
        codebook = tf.convert_to_tensor(self.codebook)
        # The squared distance without the squared norm of the vector, which is the same for all codes.
        products = tf.tensordot(vectors, codebook, axes=[[-1], [1]])
        return tf.argmin(tf.reduce_sum(codebook**2, axis=1) - 2 * products, axis=-1, output_type=tf.int32)

    def _looked_up(self, codes: tf.Tensor) -> tf.Tensor:
        # Not `tf.gather`, because its gradient is sparse, and replicas sum only dense gradients.
        return tf.tensordot(tf.one_hot(codes, self.num_codes), tf.convert_to_tensor(self.codebook), axes=1)

    def _encode(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._nearest(self._vectors(x, training))

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model]:
        return "decoder", self.decoder

    def _parameters_of_x(self, codes: tf.Tensor) -> tf.Tensor:
        # Codes arrive as float32, which represents all integers up to 2^24 exactly.
        return self.decoder(self._looked_up(tf.cast(codes, tf.int32)), training=False)

    def _parameters_given_x(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # All of the mass of q(z|x) is at one z.
        return self._parameters_of_x(self._encode(x))

    def _example_z(self, rows: int) -> tf.Tensor:
        return tf.random.stateless_uniform([rows, *self.code_shape], [0, 0], 0, self.num_codes, tf.int32)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_codes": self.num_codes, "commitment": self.commitment}


class _Perplexity(keras.metrics.Metric):
    """The exponential of the entropy of the code frequencies.

    Args:
        num_codes: K.
        name: the name of the metric.
    """

    def __init__(self, num_codes: int, name: str) -> None:
        super().__init__(name=name)
        self.counts = self.add_variable(shape=(num_codes,), initializer="zeros", name="counts")

    def update_state(self, values: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds the counts [B, K] of each code in each example."""
        if sample_weight is not None:
            values *= tf.cast(sample_weight, tf.float32)[:, tf.newaxis]
        self.counts.assign_add(tf.reduce_sum(values, axis=0))

    def result(self) -> tf.Tensor:
        """The perplexity, from 1 to K."""
        frequencies = self.counts / tf.reduce_sum(self.counts)
        return tf.exp(-tf.reduce_sum(tf.math.xlogy(frequencies, frequencies)))
