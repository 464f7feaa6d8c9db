"""The sequential variational autoencoder: latent variables at each step of a sequence, with a learned transition."""

from collections.abc import Iterator
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, elbo
from tfvae.chunks import slices
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import over_time, particles, parts
from tfvae.models.state_space import noise
from tfvae.models.step_streams import StepStreams
from tfvae.objectives import Objective
from tfvae.posteriors import DiagonalNormal, Posterior
from tfvae.priors import Prior, StandardNormal
from tfvae.training.plan import LayerTraits

# How far features may differ by rounding, relative to their size; those of half precision are rounded more.
_ROUNDING = 1e-2
# Among how many sequences one with padding is looked for.
_ROWS = 4096


@keras.saving.register_keras_serializable("tfvae")
class SequentialVAE(StepStreams):
    """A variational autoencoder of sequences, with latent variables z_t at each step: a deep Kalman filter.

    p(x, z) = p(z_1) p(x_1|z_1) product over t > 1 of p(z_t|z_{t-1}) p(x_t|z_t)

    q(z|x) = product over t of q(z_t|z_{t-1}, x), or of q(z_t|x) without a `combiner`; then all steps are computed at
    once, which is faster, and in general a looser bound.

    With a `memory` it is a variational recurrent network: h_t = cell([x_t, z_t], h_{t-1}), and the transition, the
    combiner and the decoder read h_{t-1} too.

    Sequences x [B, T, ...] may have any T. With the likelihood `Missing`, NaN marks what was not observed. Steps after
    the last with any number in it are padding, and add exactly 0 to each term; a gap adds only its transition. For
    padding to have no effect on what comes before it, the encoder must not read it.

    `score` gives the terms of each step too: `step_elbo`, `step_log_likelihood` and `step_kl` [N, T].
    `calibrate` and `detect` are of steps: they give `score`, `is_anomaly` and `kl` [N, T] and `contributions`
    [N, T, ...], all of which are 0 for padding. What is typical is that of a step, for each channel.

    Args:
        encoder: a Keras model from x [B, T, ...] to features [B, T, F]. If it is causal, q(z_t|...) depends on x up to
            t only; otherwise it may depend on all of x, as the exact posterior does.
        decoder: a Keras model from z_t [B, L], or with a memory from [z_t, h_{t-1}], to the parameters of p(x_t|z_t).
        latent_dim: L, the dimension of z_t.
        transition: a Keras model from z_{t-1} [B, L], or with a memory from [z_{t-1}, h_{t-1}], to the features from
            which the parameters of p(z_t|z_{t-1}) are computed; None computes them from z_{t-1} (and h_{t-1}) itself,
            with a scale that starts at 1 for all z_{t-1}.
        combiner: a Keras model from the list of z_{t-1} [B, L] and the features of the step [B, F], and h_{t-1} with a
            memory, to those from which the parameters of q(z_t|z_{t-1}, x) are computed. None: q(z_t|x).
        memory: a Keras cell, such as `keras.layers.GRUCell(32)`, of which h_t is the first state; None for none.
        posterior: the family of q(z_t|...); None means `DiagonalNormal()`.
        conditional: the family of p(z_t|z_{t-1}), given as a `Posterior`; None means `DiagonalNormal()`.
        prior: p(z_1); None means `StandardNormal()`.
        likelihood: p(x_t|z_t), of one step; None means `Normal(scale=1.0)`.
        objective: what is maximised; it may not take path gradients or need draws of z. None means `ELBO()`.
        keras_kwargs: the arguments of `keras.Model`.

    Raises:
        ValueError: the parts do not fit together.
        NotImplementedError: the density of the conditional is known only at its own draws.

    Reference: Krishnan et al. 2017, Structured Inference Networks for Nonlinear State Space Models, equations 1 and 6;
    Chung et al. 2015, A Recurrent Latent Variable Model for Sequential Data, equations 5 to 9.
    """

    _PARTS = (
        *("encoder", "decoder", "transition", "combiner", "memory"),
        *("posterior", "conditional", "prior", "likelihood", "objective"),
    )

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        latent_dim: int,
        transition: keras.Model | None = None,
        combiner: keras.Model | None = None,
        memory: keras.layers.Layer | None = None,
        posterior: Posterior | None = None,
        conditional: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        objective: Objective | None = None,
        **keras_kwargs: Any,
    ) -> None:
        super().__init__(objective, **keras_kwargs)
        self.encoder = parts.checked_network("encoder", encoder)
        self.decoder = parts.checked_network("decoder", decoder)
        self.latent_dim = checks.positive_integer("latent_dim", latent_dim)
        self.transition = None if transition is None else parts.checked_network("transition", transition)
        self.combiner = None if combiner is None else parts.checked_network("combiner", combiner)
        self.memory = parts.checked_cell("memory", memory)
        self.posterior = parts.checked_part("posterior", posterior, Posterior, default=DiagonalNormal)
        self.conditional = parts.checked_part("conditional", conditional, Posterior, default=DiagonalNormal)
        self.prior = parts.checked_part("prior", prior, Prior, default=StandardNormal)
        self.likelihood = parts.checked_part("likelihood", likelihood, Likelihood, default=Normal)
        if self.posterior is self.conditional:
            raise ValueError(
                "`conditional` and `posterior` must be two different parts, each with its own weights. Received: one "
                f"{type(posterior).__name__} for both"
            )
        for name in ("posterior", "conditional", "prior"):
            parts.set_latent_dim(name, getattr(self, name), self.latent_dim)
        parts.check_bound(self, posterior=self.posterior, likelihood=self.likelihood)
        parts.refuse_objectives_of_z(self)
        for name in ("conditional", "prior"):
            parts.check_densities(self.posterior, getattr(self, name), self.objective, name)
        parts.refuse_prior_of_encoder(self)
        # The number of steps of the data that were checked last, from which the cost of a step of training is known.
        self.__dict__["_num_steps"] = 1
        declared = parts.input_shapes(encoder)
        if declared is not None and None not in declared[0][2:]:
            self.build(declared[0])

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the parts for data of one shape, and checks that they fit together.

        Args:
            input_shape: the shape of x, [B, T, ...]; T has no effect.
        """
        if self.event_shape is not None:
            return
        if len(input_shape) < 3:
            raise ValueError(
                "`x` must be sequences of vectors [N, T, C], with C = 1 for sequences of numbers: x[..., None]. "
                f"Received: x of shape {list(input_shape)}"
            )
        step_shape = cast("tuple[int, ...]", tuple(input_shape[2:]))
        declared = parts.input_shapes(self.encoder)
        number = None if declared is None else declared[0][1]
        features = parts.features_of(
            "encoder", self.encoder, keras.KerasTensor((None, number, *step_shape)), has_steps=True
        )
        z, of_step = keras.KerasTensor((None, self.latent_dim)), keras.KerasTensor((None, features.shape[-1]))
        memory = []
        if self.memory is not None:
            width = int(np.prod(step_shape)) * (2 if self.likelihood.allows_missing else 1) + self.latent_dim
            states = [keras.KerasTensor((None, size)) for size in tf.nest.flatten(self.memory.state_size)]
            # Called, and not only built, so that Keras knows the shape of its output.
            self.memory(keras.KerasTensor((None, width)), states)
            parts.freeze_within(self.memory)
            memory = states[:1]
            if self.likelihood.mean_shape(step_shape) != step_shape:
                raise NotImplementedError(
                    "`likelihood` must be one whose mean has the shape of x where there is a memory, which reads x. "
                    f"Received: {checks.shown(self.likelihood)}"
                )
        if self.combiner is not None:
            parts.check_inputs("combiner", self.combiner, [z, of_step, *memory], "z_{t-1}, the features of the step")
            of_step = parts.features_of("combiner", self.combiner, [z, of_step, *memory])
        parts.build(self.posterior, of_step.shape)
        given = [z, *memory] if memory else z
        of_p = keras.KerasTensor((None, sum(each.shape[1] for each in [z, *memory])))
        if self.transition is not None:
            parts.check_inputs("transition", self.transition, [z, *memory], "z_{t-1}")
            of_p = parts.features_of("transition", self.transition, given)
        is_new = not self.conditional.built
        parts.build(self.conditional, of_p.shape)
        head = getattr(self.conditional, "scale_head", None)
        if is_new and self.transition is None and isinstance(head, keras.layers.Dense):
            # The scale starts at 1: one that is linear in z would be close to 0 for some z, where the KL is very large.
            head.kernel.assign(tf.zeros_like(head.kernel))
        parts.check_inputs("decoder", self.decoder, [z, *memory], "z_t")
        parameters = parts.likelihood_parameters_of("decoder", self.decoder, given, self.likelihood, step_shape)
        parts.build(self.prior, z.shape)
        parts.build(self.likelihood, parameters.shape)
        self.event_shape = (number, *step_shape)

    def check_data(self, x: np.ndarray, is_encoded_only: bool = False) -> None:
        """Builds the model if it is not built yet, and raises ValueError if x [N, T, ...] cannot be its data."""
        super().check_data(x, is_encoded_only)
        self.__dict__["_num_steps"] = x.shape[1]

    def check_training(self, batch: Any) -> None:
        """Checks what `Autoencoder` does, and that padding does not change what the encoder says of the steps before.

        Raises:
            ValueError: it does, so that what a sequence scores would depend on the lengths of others.
        """
        super().check_training(batch)
        if self.event_shape[0] is None and self.likelihood.allows_missing:
            self._check_padding(tf.cast(self.unpack(batch)[0][:_ROWS], tf.float32))

    def _check_padding(self, x: tf.Tensor) -> None:
        lengths = np.count_nonzero(over_time.is_step(x), axis=1)
        padded = np.flatnonzero((lengths > 0) & (lengths < x.shape[1]))
        if not len(padded):
            return
        row, length = x[padded[0]][tf.newaxis], lengths[padded[0]]
        with parts.moved_weights(self.encoder):
            whole, alone = (np.asarray(self.features_of(each), np.float32) for each in (row, row[:, :length]))
        if not np.abs(whole[:, :length] - alone).max() <= _ROUNDING * max(np.abs(alone).max(), 1.0):
            raise ValueError(
                "`encoder` must not read padding, the steps of NaN after the end of a sequence, and give finite "
                "features where x is missing: take a causal one, or one with masks, such as "
                "tfvae.networks.recurrent_encoder(..., per_step=True). Received: an encoder whose features of the "
                f"first {length} steps change when {x.shape[1] - length} steps of padding follow"
            )

    def operations_per_example(self, layers: LayerTraits) -> float:
        """Estimates the number of floating-point operations per example in a training step: see `Trainer`."""
        return self._num_steps * super().operations_per_example(layers)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The reconstruction [B, T, ...]: the mean of p(x_t|z_t), each q(z_t|...) at its center given the one before.

        Args:
            x: the data [B, T, ...].
            training: whether layers such as dropout behave as in training.
        """
        path = self.path(x, training=training)
        return self.likelihood.mean(self.parameters_along(path.z, path.memory, training))

    def elbo_terms(self, x: tf.Tensor, sampling: elbo.Sampling) -> elbo.ElboTerms:
        """Estimates the terms of the bound, in nats per example: see `VariationalModel.elbo_terms`."""
        shape = [sampling.num_samples * tf.shape(x)[0], tf.shape(x)[1], self.latent_dim]
        path = self.path(x, sampling.num_samples, noise(shape, sampling.seed), sampling.training)
        return _summed(self.steps_at(x, path, sampling)[0])

    def inference_parts(self) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
        """The encoder and the posterior, which together compute q(z_t|...)."""
        return [(self.encoder, self.posterior)]

    @property
    def posterior_variables(self) -> list[Any]:
        """The trainable variables of the encoder, of the combiner and of the posterior."""
        of_q = (self.encoder, self.combiner, self.posterior)
        return [variable for part in of_q if part is not None for variable in part.trainable_variables]

    def decode(self, z: Any, batch_size: int = 256) -> np.ndarray:
        """Computes the mean of p(x_t|z_t) at each step. A memory reads the mean in the place of x.

        Args:
            z: an array [N, T, L].
            batch_size: how many sequences are computed at a time.

        Returns:
            The mean [N, T, ...].
        """
        self._check_built("decode")
        return self._decoded(self._checked_noise("z", z, None, self.latent_dim), batch_size=batch_size)

    def generate(
        self, n: int, length: int, seed: int | None = None, batch_size: int = 256, sample: bool = False
    ) -> np.ndarray:
        """Draws z_1 ~ p(z_1) and each z_t ~ p(z_t|z_{t-1}), and computes the mean of p(x_t|z_t).

        Args:
            n: how many sequences to generate, at least 1.
            length: T, their number of steps.
            seed: the same seed gives the same sequences; None draws anew at each call.
            batch_size: how many sequences are computed at a time.
            sample: whether to draw x_t ~ p(x_t|z_t), with the spread of data, instead of the mean, which varies less.

        Returns:
            The generated sequences [n, T, ...].
        """
        self._check_built("generate")
        n, length = checks.positive_integer("n", n), checks.positive_integer("length", length)
        sample = checks.boolean("sample", sample)
        state, drawn = self._seed(seed), []
        for part in slices(n, checks.positive_integer("batch_size", batch_size)):
            of_part = tf.random.experimental.stateless_fold_in(state, part.start)
            rows = part.stop - part.start
            z = self.prior.distribution().sample(rows, seed=of_part)
            parameters, x = particles.drawn(self, self.initial(rows), length, of_part, first=z)
            drawn.append(x if sample else self.likelihood.mean(parameters).numpy())
        return np.concatenate(drawn)

    def log_likelihood(
        self, x: Any, num_samples: int = 1000, batch_size: int = 128, seed: int | None = None
    ) -> np.ndarray:
        """Estimates log p(x) by sequential Monte Carlo, with q(z_t|...) as the proposal.

        The estimate of p(x) is unbiased, so that of log p(x) is on average a little too low; it is tight as K grows.
        Importance sampling of whole sequences, as of a `VAE`, would need a number of draws that grows exponentially
        with their length.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset.
            num_samples: K, the number of particles for each example. They are resampled where less than half of them
                have most of the weight.
            batch_size: how many examples are computed at a time, at most: fewer where K is large.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The estimate [N], in nats per example.

        Reference: Doucet & Johansen 2011, A Tutorial on Particle Filtering and Smoothing, section 3.5; Maddison et al.
        2017, Filtering Variational Objectives.
        """
        return np.concatenate(
            [each.log_likelihood for each in particles.filtered(self, x, num_samples, batch_size, seed)]
        )

    def filter(
        self, x: Any, num_samples: int = 1000, batch_size: int = 128, seed: int | None = None
    ) -> "particles.Filtered":
        """Estimates the mean and the standard deviation of p(z_t|x_1, ..., x_t) at each step.

        Args:
            x: data as for `fit`: arrays with N rows, or a dataset of batches of one length.
            num_samples: K, the number of particles for each example: see `log_likelihood`.
            batch_size: how many examples are computed at a time, at most.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            `mean` and `stddev` [N, T, L], `log_likelihood` [N] in nats, and the `effective_size` [N, T]: how many
            equally weighted draws of z_t the particles are worth.

        Reference: Doucet & Johansen 2011, A Tutorial on Particle Filtering and Smoothing, section 3.5.
        """
        found = list(particles.filtered(self, x, num_samples, batch_size, seed))
        return particles.Filtered(*(np.concatenate(each) for each in zip(*found, strict=True)))

    def parameters_along(self, z: tf.Tensor, memory: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """The parameters of p(x_t|z_t) [R, T, ...] at each step.

        Args:
            z: the latent variables [R, T, L].
            memory: what was remembered before each step [R, T, H].
            training: whether layers such as dropout behave as in training.
        """
        flat = None if memory is None else over_time.folded(memory)
        return over_time.unfolded(self.x_of(over_time.folded(z), flat, training), z)

    def _encode(self, x: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """The parameters of q(z_t|...) [B, T, ...], where z_{t-1} is at its center."""
        return {name: over_time.unfolded(each, x) for name, each in self.path(x, training=training).parameters.items()}

    @property
    def _decoder_of_x(self) -> tuple[str, keras.Model]:
        return "decoder", self.decoder

    def _parameters_of_x(self, z: tf.Tensor) -> tf.Tensor:
        return self.parameters_along(z, None if self.memory is None else self.remembered(z, None))

    def _example_z(self, rows: int) -> tf.Tensor:
        return super()._example_z(rows)[:, tf.newaxis]

    def _events(self, x: np.ndarray) -> np.ndarray:
        return x.reshape([-1, *x.shape[2:]])

    def _noise_shape(self, x: np.ndarray) -> tuple[int, ...]:
        return x.shape[1], self.latent_dim

    def _parameters_given_x(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return self._scored(x, noise([*tf.unstack(tf.shape(x)[:2]), self.latent_dim], seed))[1]

    def _scored(self, x: tf.Tensor, epsilon: tf.Tensor | None = None) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        sampling = elbo.Sampling(1, tf.zeros([2], tf.int32))
        steps, parameters = self.steps_at(x, self.path(x, noise=epsilon), sampling)
        log_likelihood, kl = steps.log_likelihood[0], steps.kl[0]
        of_steps = {"step_elbo": log_likelihood - kl, "step_log_likelihood": log_likelihood, "step_kl": kl}
        return {**self._scores(_summed(steps)), **of_steps}, over_time.unfolded(parameters, x)

    def _checked_batches(self, x: Any, batch_size: int, is_encoded_only: bool = False) -> Iterator[tf.Tensor]:
        length = None
        for batch in super()._checked_batches(x, batch_size, is_encoded_only):
            if length not in (None, batch.shape[1]):
                raise ValueError(
                    "`x` must hold sequences of one length, as tfvae.data.pad makes them. Received: batches of "
                    f"{length} and of {batch.shape[1]} steps"
                )
            length = batch.shape[1]
            yield batch

    @property
    def _z_dim(self) -> int:
        return self.latent_dim

    @property
    def _description(self) -> dict[str, Any]:
        kinds = {name: type(getattr(self, name)).__name__ for name in self._PARTS[4:-1] if getattr(self, name)}
        return {"latent_dim": self.latent_dim, **kinds}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}


def _summed(steps: Any) -> elbo.ElboTerms:
    """The terms of whole sequences."""
    log_likelihood, log_prior, log_posterior, kl = (tf.reduce_sum(each, axis=-1) for each in steps)
    return elbo.ElboTerms(log_likelihood, log_prior, log_posterior, tf.reduce_mean(kl, axis=0))
