"""The vector-quantised variational autoencoder, whose latent variables are indices into learned codebooks."""

import math
from typing import Any, Self, cast

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import autoencoder, ownership, parts
from tfvae.models.code_prior import CodePrior
from tfvae.models.quantizer import Averages, Perplexity, Quantized, Quantizer
from tfvae.models.vq_export import CodesExport
from tfvae.objectives import Objective
from tfvae.training.batch import Batch

# Among the values of a step, what moving averages are made of.
_CODES, _INPUTS = "quantizer_codes", "quantizer_inputs"
# The arguments that files of version 0.2 do not have, with what that version did.
_SINCE_0_2 = {
    "num_levels": 1,
    "num_groups": 1,
    "shared_codebook": False,
    "decay": None,
    "restart_below": 0.0,
    "prior": None,
}


@keras.saving.register_keras_serializable("tfvae")
class VQVAE(CodesExport, autoencoder.Autoencoder):
    """A variational autoencoder whose q(z|x) puts all its mass on the code nearest to the encoder's output.

    z_d = argmin over k of ||encoder(x)_d - e_k||,  p(x|z) = likelihood(decoder(e_z)),  p(z) uniform over K^D values,
    or that of a `tfvae.CodePrior`

    The index d runs over the D positions of the encoder's output. The bound is log p(x|z) + log p(z) <= log p(x), and
    the KL divergence is -log p(z), which is D log K for the uniform p(z). The gradient with respect to e_z is passed on
    to the encoder's output unchanged (straight-through), and training adds

    -commitment ||encoder(x) - sg[e_z]||^2,

    where sg stops the gradient, to keep the encoder's outputs close to the codes. The codes follow the outputs: each is
    a moving average of those that are nearest to it. Without `decay` they are trained by the gradient of
    -||sg[encoder(x)] - e_z||^2 instead.

    Several codes stand for one vector where there are levels or groups: z then has the Q = `num_levels` x `num_groups`
    codes of a position as its last axis, and D counts all codes. With groups the dimensions of a vector are divided
    among that many codebooks (product quantisation). With levels, each codebook after the first stands for what those
    before it leave (residual quantisation), and the vector is the sum.

    The metrics are those of `VariationalModel`, and `perplexity`: the exponential of the entropy of the code
    frequencies, which ranges from 1 to K and is K if all codes are used equally often. Of several codebooks it is that
    of the mean of their entropies; with levels there is also one for each, `perplexity_1` and so on.

    Args:
        encoder: a Keras model from x [B, ...] to vectors [B, ..., E]; the axes between B and E are the positions.
        decoder: a Keras model from vectors of the encoder's output shape to the likelihood's parameters.
        num_codes: K, the number of codes of a codebook, at least 2.
        commitment: the weight of the term that moves the encoder's outputs to the codes, >= 0.
        likelihood: p(x|z); None means `Normal(scale=1.0)`.
        objective: what is maximised; it may not take path gradients or need draws of z. None means `ELBO()`.
        num_levels: the number of levels.
        num_groups: the number of groups, which divides E.
        shared_codebook: whether all levels share their codebook, or with groups those of the groups.
        decay: how much of the moving averages a training step keeps, from 0 to below 1; None trains the codes by the
            gradient.
        restart_below: a code that is used less often than this, in multiples of how often codes are used on average,
            is moved to a random output of the encoder in the batch, from 0, which moves none, to below 1. It has no
            effect if the codes are trained by the gradient.
        prior: p(z); None means the uniform one. `fit_prior` learns one after the training. One that is given here, and
            is trainable, is trained with the model. It may not be shared between models.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together, or an argument is out of its range.

    Reference: van den Oord et al. 2017, Neural Discrete Representation Learning, equations 1 to 3 and appendix A.1;
    Razavi et al. 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2, section 2; for levels Lee et al. 2022,
    Autoregressive Image Generation using Residual Quantization, section 3.1.
    """

    _PARTS = ("encoder", "decoder", "likelihood", "objective", "prior")
    _shown = ("num_codes", "prior", "likelihood", "objective", "event_shape")
    # The encoder has no scale of noise, so a posterior cannot collapse.
    collapsing = ()
    _no_detection = "what its encoder loses is not part of its bound"

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        num_codes: int,
        commitment: float = 0.25,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        *,
        num_levels: int = 1,
        num_groups: int = 1,
        shared_codebook: bool = False,
        decay: float | None = 0.99,
        restart_below: float = 0.1,
        prior: CodePrior | None = None,
        **keras_kwargs: Any,
    ) -> None:
        # Set before the base class makes the metrics, which count the codes.
        self.num_codes = checks.positive_integer("num_codes", num_codes, 2)
        self.num_levels = checks.positive_integer("num_levels", num_levels)
        self.num_groups = checks.positive_integer("num_groups", num_groups)
        self.shared_codebook = checks.boolean("shared_codebook", shared_codebook)
        super().__init__(objective, **keras_kwargs)
        self.encoder = parts.checked_network("encoder", encoder)
        self.decoder = parts.checked_network("decoder", decoder)
        self.commitment = checks.number("commitment", commitment, 0)
        self.decay = None if decay is None else checks.number("decay", decay, 0)
        if self.decay is not None and self.decay >= 1:
            raise ValueError(f"`decay` must be below 1. Received: decay={checks.shown(decay)}")
        self.restart_below = checks.number("restart_below", restart_below, 0)
        if self.restart_below >= 1:
            raise ValueError(
                "`restart_below` must be below 1, which is how often codes are used on average. Received: "
                f"restart_below={checks.shown(restart_below)}"
            )
        self.likelihood = parts.checked_part("likelihood", likelihood, Likelihood, default=Normal)
        self.prior = None if prior is None else parts.checked_part("prior", prior, CodePrior)
        if prior is not None:
            ownership.refuse_shared("prior", prior, self)
        parts.refuse_objectives_of_z(self)
        self.codebook: keras.Variable = None
        self.frequencies: keras.Variable = None
        # None until the model is built.
        self.code_shape: tuple[int, ...] = None  # type: ignore[assignment]
        self._vector_shape: tuple[int, ...] = None  # type: ignore[assignment]
        self._build_where_known(encoder)

    @property
    def _quantizer(self) -> Quantizer:
        return Quantizer(self.num_codes, self.num_levels, self.num_groups, self.shared_codebook)

    def _more_metrics(self) -> list[keras.metrics.Metric]:
        shape, groups = (self._quantizer.num_books, self.num_codes), self.num_groups
        levels = range(self.num_levels) if self.num_levels > 1 else ()
        of_levels = [
            Perplexity(f"perplexity_{level + 1}", shape, slice(level * groups, (level + 1) * groups))
            for level in levels
        ]
        return [Perplexity("perplexity", shape), *of_levels]

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
        width, quantizer = vectors.shape[-1], self._quantizer
        if width % self.num_groups:
            raise ValueError(
                f"`num_groups` must divide the size of the encoder's vectors, {width}. Received: "
                f"num_groups={self.num_groups}"
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
            shape=(quantizer.num_tables * self.num_codes, width // self.num_groups),
            initializer=keras.initializers.RandomUniform(-bound, bound),
            dtype="float32",
            trainable=self.decay is None,
            autocast=False,
        )
        if self.decay is not None:
            self.frequencies = self.add_weight(
                name="frequencies",
                shape=(quantizer.num_tables, self.num_codes),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                autocast=False,
            )
        self._vector_shape = tuple(vectors.shape[1:])
        books = quantizer.num_books
        self.code_shape = (*vectors.shape[1:-1], *([books] if books > 1 else []))
        if self.prior is not None:
            self._connect(self.prior)
            ownership.claim(self.prior, self)
        self.event_shape = event_shape

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, ...]: the mean of p(x|z).

        Args:
            x: the data [B, ...].
            training: whether layers such as dropout behave as in training.
        """
        vectors = tf.reshape(self._quantized(x, training).vectors, [-1, *self._vector_shape])
        return self.likelihood.mean(self.decoder(vectors, training=training))

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Computes the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`.

        q(z|x) is deterministic, so all S samples are the same.
        """
        vectors = self._vectors(x, sampling.training)
        quantized = self._quantizer.quantize(vectors, tf.convert_to_tensor(self.codebook))
        passed = vectors + tf.stop_gradient(quantized.vectors - vectors)
        if self.decay is None:
            auxiliary = -quantized.distance - self.commitment * quantized.commitment
        else:
            auxiliary = -self.commitment * quantized.commitment
        parameters = self.decoder(tf.reshape(passed, [-1, *self._vector_shape]), training=sampling.training)
        observed = x if sampling.target is None else sampling.target
        log_likelihood = self.likelihood.log_prob(observed, parameters[tf.newaxis], training=sampling.training)
        log_likelihood = tf.tile(log_likelihood, [sampling.num_samples, 1])
        log_prior = self._log_prior(quantized.codes, sampling.training)
        counts = tf.reduce_sum(tf.one_hot(quantized.codes, self.num_codes), axis=1)
        values = {metric.name: counts for metric in self._trackers if isinstance(metric, Perplexity)}
        if sampling.training and self.decay is not None:
            values |= {_CODES: quantized.codes, _INPUTS: tf.stop_gradient(quantized.inputs)}
        return elbo.ElboTerms(
            log_likelihood,
            tf.tile(log_prior[tf.newaxis], [sampling.num_samples, 1]),
            tf.zeros_like(log_likelihood),
            -log_prior,
            auxiliary=auxiliary,
            metrics=values,
        )

    def update_statistics(self, values: dict[str, tf.Tensor], batch: Batch) -> None:
        """Moves the codes to the means of what they are nearest to, unless they are trained by the gradient.

        Args:
            values: what the codes are nearest to in the batch, among others.
            batch: the data and the weights of the examples.
        """
        if self.decay is None or not self.trainable:
            return
        codes, inputs = (self._quantizer.by_table(values[name]) for name in (_CODES, _INPUTS))
        weights = tf.ones(tf.shape(codes)[1:2]) if batch.sample_weight is None else batch.sample_weight
        codebook = tf.convert_to_tensor(self.codebook)
        of_tables = tf.reshape(codebook, [self._quantizer.num_tables, self.num_codes, codebook.shape[1]])
        averages = Averages(of_tables, tf.convert_to_tensor(self.frequencies))
        averages = averages.after(codes, inputs, weights, self.decay)
        if self.restart_below > 0:
            averages = averages.restarted(inputs, weights, self.restart_below, self.shared_seed())
        self.codebook.assign(tf.reshape(averages.codes, codebook.shape))
        self.frequencies.assign(averages.frequencies)

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder."""
        return self.encoder.trainable_variables

    def log_likelihood(
        self, x: Any, num_samples: int = 1, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Computes the lower bound log p(x|z) + log p(z) on log p(x). More draws do not make it tighter.

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
        """Computes the terms of the bound.

        Args:
            x: an array [N, ...].
            batch_size: how many examples are computed at a time.

        Returns:
            `elbo`, `reconstruction_log_likelihood` and `kl`, which is -log p(z), each [N], in nats per example.
        """
        return super().score(x, None, batch_size)

    def _scored(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        quantized = self._quantized(x)
        parameters = self.decoder(tf.reshape(quantized.vectors, [-1, *self._vector_shape]), training=False)
        log_likelihood, log_prior = (
            self.likelihood.log_prob(x, parameters[tf.newaxis]),
            self._log_prior(quantized.codes),
        )
        terms = elbo.ElboTerms(log_likelihood, log_prior[tf.newaxis], tf.zeros_like(log_likelihood), -log_prior)
        return self._scores(terms), parameters

    def _vectors(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The encoder's output [B, P, E]."""
        vectors = tf.cast(self.encoder(self.likelihood.encoder_input(x), training=training), tf.float32)
        *positions, width = self._vector_shape
        return tf.reshape(vectors, [-1, math.prod(positions), width])

    def _quantized(self, x: tf.Tensor, training: bool = False) -> Quantized:
        return self._quantizer.quantize(self._vectors(x, training), tf.convert_to_tensor(self.codebook))

    def _encode(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.reshape(self._quantized(x, training).codes, [-1, *self.code_shape])

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model]:
        return "decoder", self.decoder

    def _parameters_of_x(self, codes: tf.Tensor) -> tf.Tensor:
        # Codes arrive as float32, which represents all integers up to 2^24 exactly.
        *positions, _ = self._vector_shape
        codes = tf.reshape(tf.cast(codes, tf.int32), [-1, math.prod(positions), self._quantizer.num_books])
        vectors = self._quantizer.look_up(codes, tf.convert_to_tensor(self.codebook))
        return self.decoder(tf.reshape(vectors, [-1, *self._vector_shape]), training=False)

    def _parameters_given_x(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # All of the mass of q(z|x) is at one z.
        return self._parameters_of_x(self._encode(x))

    def _example_z(self, rows: int) -> tf.Tensor:
        return tf.random.stateless_uniform([rows, *self.code_shape], [0, 0], 0, self.num_codes, tf.int32)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = ("num_codes", "commitment", *(name for name in _SINCE_0_2 if name != "prior"))
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Makes a model with new weights from what `get_config` returned."""
        return super().from_config({**_SINCE_0_2, **config}, custom_objects)
