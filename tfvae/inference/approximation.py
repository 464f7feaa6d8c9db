"""The approximate posterior q(z): a family of distributions over u, in coordinates z = loc + scale u."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import chunks, elbo, graphs, seeds
from tfvae.inference import newton
from tfvae.inference.latents import check_family
from tfvae.inference.nested_laplace import StructuredGaussian
from tfvae.inference.structured_normal import StructuredNormal
from tfvae.posteriors import Posterior
from tfvae.posteriors.posterior import known_density

tfd = tfp.distributions

# Draws made in one call of a graph, unless a caller sets another number.
_CHUNK = 100
_COMPARED_DRAWS = 1000


class Approximation(keras.layers.Layer):
    """The distribution q of z [L] = loc + scale u, where u is distributed according to the posterior family.

    `loc` and `scale` are set once, before training, so that the family is fitted near mean 0 and scale 1. z has their
    dtype, that of the layer, and u is always float32: rounding then moves z by 1e-7 standard deviations of q.

    Args:
        posterior: the family of u; it gets no features, and so has its own variables.
        dim: L.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        dim: L.
        loc: [L], not trained.
        scale: [L] if the family has `scales_only` or L is above 500, else lower triangular [L, L]; not trained.
        standardized: 1 once the coordinates are set, 0 before.
        missed: the share of the mass of the posterior at modes that q does not cover, as far as is known; not trained.
    """

    def __init__(self, posterior: Posterior, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_family(posterior, dim)
        if not posterior.has_log_prob:
            raise NotImplementedError(
                "`posterior` must give log q(z) at any z, as CouplingFlow and InverseAutoregressiveFlow do. Received: "
                f"{type(posterior).__name__}, {known_density(posterior)}"
            )
        self.dim = posterior.latent_dim = dim
        # The variables of a structure are made once it is found.
        if not posterior.built and not (isinstance(posterior, StructuredNormal) and posterior.pattern is None):
            posterior.build((None, 0))
        self.posterior = posterior
        self.is_full = not posterior.scales_only and dim <= newton.FULL_CURVATURE_DIM
        frozen = {"dtype": self.variable_dtype, "trainable": False, "autocast": False}
        self.loc = self.add_weight(name="loc", shape=(dim,), initializer="zeros", **frozen)
        shape, initializer = ((dim, dim), "identity") if self.is_full else ((dim,), "ones")
        self.scale = self.add_weight(name="scale", shape=shape, initializer=initializer, **frozen)
        self.standardized = self.add_weight(name="standardized", shape=(), initializer="zeros", **frozen)
        self.missed = self.add_weight(name="missed", shape=(), initializer="zeros", **frozen)
        self.built = True
        # Set past Keras's `__setattr__`, which would track these functions and try to save them.
        self.__dict__["_functions"] = {
            "draw": graphs.graph(self.draw),
            "log_prob": graphs.graph(self._log_prob, input_signature=[tf.TensorSpec([None, dim], self.variable_dtype)]),
            "draw_standard": graphs.graph(self._draw_standard),
            "log_prob_standard": graphs.graph(self._log_prob_standard),
        }

    @property
    def misses_modes(self) -> bool:
        """Whether the posterior is known to have modes that q does not cover."""
        # With replicas, `float` of a variable fails.
        return bool(keras.ops.convert_to_numpy(self.missed) > 0.0)

    @property
    def _num_globals(self) -> int:
        return self.posterior.pattern.num_globals if isinstance(self.posterior, StructuredNormal) else 0

    @property
    def compared_sizes(self) -> list[int]:
        """How many variables each row of `log_prob_standard` is the density of [K]."""
        return [self.dim, self._num_globals] if self._num_globals else [self.dim]

    def set_coordinates(self, gaussian: newton.Gaussian | StructuredGaussian) -> None:
        """Sets loc and scale to those of a Gaussian, or of its best diagonal approximation if scale is a vector."""
        if isinstance(gaussian, StructuredGaussian):
            self.posterior.start_at(gaussian.pattern, gaussian.start)
        elif gaussian.scale.ndim == 2 and not self.is_full:
            gaussian = gaussian.diagonal()
        self.loc.assign(gaussian.loc)
        self.scale.assign(gaussian.scale)
        self.standardized.assign(1.0)

    def draw(self, num_samples: int, seed: tf.Tensor, path: elbo.Path | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws z [S, L] from q, and evaluates log q(z) [S], in nats.

        Args:
            num_samples: S.
            seed: int32 [2], a stateless seed.
            path: see `tfvae.elbo.draw`.
        """
        draws = elbo.draw(self._distribution(), num_samples, seed=seed, path=path)
        return self._to_z(draws.z[:, 0]), self._log_q(draws.log_posterior[:, 0])

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """Evaluates log q(z) [S] of z [S, L], in nats."""
        return self._functions["log_prob"](z)

    def _log_prob(self, z: tf.Tensor) -> tf.Tensor:
        u, scale = z - self.loc, self.scale.value
        u = tf.linalg.triangular_solve(scale, u[..., tf.newaxis])[..., 0] if self.is_full else u / scale
        return self._log_q(self._distribution().log_prob(tf.cast(u, tf.float32)[:, tf.newaxis])[:, 0])

    def sample(self, num_samples: int, seed: tf.Tensor, chunk: int = _CHUNK) -> tuple[tf.Tensor, tf.Tensor]:
        """As `draw`, but in chunks: for one seed, a larger S only adds draws to those of a smaller S.

        Args:
            num_samples: S.
            seed: int32 [2], a stateless seed.
            chunk: the number of draws in each, for which a graph is traced.
        """
        parts = seeds.for_each(chunks.slices(num_samples, chunk), seed)
        draws = [self._functions["draw"](chunk, part_seed) for _, part_seed in parts]
        return tuple(tf.concat(each, axis=0)[:num_samples] for each in zip(*draws, strict=True))

    def sample_standard(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws u [1000, L], always from the same noise, to compare two states of q, and evaluates its densities."""
        return self._functions["draw_standard"]()

    def log_prob_standard(self, u: tf.Tensor) -> tf.Tensor:
        """Evaluates log q(u) [K, S] of u [S, L]: of all variables, and if some are global also of these alone.

        Unlike z, u does not lose precision in float32 if loc is far from 0.
        """
        return self._functions["log_prob_standard"](u)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """Maps noise epsilon ~ N(0, I) [B, L] to a draw z [B, L] of q."""
        parameters = self.posterior(tf.zeros([tf.shape(epsilon)[0], 0]))
        return self._to_z(self.posterior.sample_from(parameters, epsilon))

    def sample_and_log_jacobian_from(self, epsilon: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The draw z [B, L] of `sample_from`, and log N(epsilon | 0, I) - log q(z) [B], less a constant.

        That is log |det dz / d epsilon|, which is known up to a constant here.
        """
        u, log_q = self.posterior.sample_and_log_prob_from(self.posterior(tf.zeros([tf.shape(epsilon)[0], 0])), epsilon)
        z = self._to_z(u)
        return z, tf.cast(-0.5 * tf.reduce_sum(epsilon**2, axis=-1) - log_q, z.dtype)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Loads the weights that `save_own_variables` saved; files of earlier versions lack the last of them."""
        variables = (self.loc, self.scale, self.standardized)
        if len(store.keys()) != len(variables):
            super().load_own_variables(store)
            return
        for index, variable in enumerate(variables):
            variable.assign(store[str(index)])

    def _draw_standard(self) -> tuple[tf.Tensor, tf.Tensor]:
        draws = elbo.draw(self._distribution(), _COMPARED_DRAWS, seed=tf.constant([0, 0]))
        return draws.z[:, 0], self._log_prob_standard(draws.z[:, 0])

    def _log_prob_standard(self, u: tf.Tensor) -> tf.Tensor:
        log_probs = [self._distribution().log_prob(u[:, tf.newaxis])[:, 0]]
        if self._num_globals:
            log_probs.append(self.posterior.log_prob_of_globals(self.posterior(tf.zeros([1, 0])), u))
        return tf.stack(log_probs)

    def _distribution(self) -> tfd.Distribution:
        """The distribution of u, with batch shape [1] and event shape [L]."""
        return self.posterior.distribution(self.posterior(tf.zeros([1, 0])))

    def _to_z(self, u: tf.Tensor) -> tf.Tensor:
        scale = self.scale.value
        u = tf.cast(u, scale.dtype)
        return self.loc + (tf.linalg.matvec(scale, u) if self.is_full else scale * u)

    def _log_q(self, log_prob: tf.Tensor) -> tf.Tensor:
        """Log q(z) [S] from log q(u) [S]."""
        scale = self.scale.value
        log_jacobian = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(scale) if self.is_full else scale))
        return tf.cast(log_prob, scale.dtype) - log_jacobian
