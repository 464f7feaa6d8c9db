"""The joint density of a model's global and local latent variables and its data, in the unconstrained space."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import elbo, graphs
from tfvae.inference import control_variate, observations
from tfvae.inference.local_latents import LocalLatents
from tfvae.inference.targets import Target


class JointDensity:
    """A joint density as a function of the unconstrained vector z [S, L].

    Args:
        target: the density that the user wrote, as `tfvae.inference.targets.target` read it.
        local: the latent variables that each row of the data has of its own, or None.
        dtype: the precision in which it is computed.
    """

    def __init__(self, target: Target, local: LocalLatents | None, dtype: tf.DType = tf.float32) -> None:
        self.target = target
        self.local = local
        self.dtype = dtype
        self._checked: set[str] = set()
        # As graphs, traced once: TFP is slow without.
        self.unconstrain = graphs.graph(lambda values: self.target.space.unconstrain(values, dtype))

    def log_densities(
        self,
        z: tf.Tensor,
        x: Any,
        *,
        num_data: int | None,
        seed: tf.Tensor | None = None,
        path: elbo.Path | None = None,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Evaluates the density at z, and at local latent variables drawn from their approximate posterior.

        Args:
            z: the unconstrained vector [S, L].
            x: the data of B rows.
            num_data: N; sums over rows are multiplied by N / B. None leaves them as they are.
            seed: int32 [2], a stateless seed for the local latent variables.
            path: see `tfvae.elbo.draw`.
            training: whether layers such as dropout behave as in training.

        Returns:
            log p(z) [S], log p(data | z) [S] and log q [S] of the local latent variables, in nats. If the user's
            density is a single log p(data, z), that is the second, and the first is the log Jacobian alone.
        """
        values, log_jacobian, log_local = self._latents(z, x, seed, path, training)
        log_prior, log_likelihood = self.target.log_densities(values, _data(x))
        if len(log_likelihood.shape) == 2:
            rows = tf.cast(tf.shape(log_likelihood)[1], self.dtype)
            scale = 1.0 if num_data is None else num_data / rows
            log_likelihood = scale * tf.reduce_sum(log_likelihood, axis=1)
            log_local = None if log_local is None else scale * tf.reduce_sum(log_local, axis=1)
        log_local = tf.zeros_like(log_prior) if log_local is None else log_local
        return log_prior + log_jacobian, log_likelihood, log_local

    def of_all_rows(self, data: observations.Observations) -> Callable[[np.ndarray], control_variate.AtPoint]:
        """Makes a function that evaluates the log-likelihood of all of the data at a point [L], and its gradient."""

        def of_rows(z: tf.Tensor, rows: Any) -> tf.Tensor:
            return self.log_densities(z, rows, num_data=None)[1]

        return control_variate.of_all_rows(of_rows, lambda: observations.one_pass(data), self.dtype)

    def check(self, x: Any, *, whole: bool, replicas: int) -> None:
        """Raises ValueError unless the density has the required shapes.

        Args:
            x: the data of B rows.
            whole: whether these are all of the data.
            replicas: how many replicas share the rows.
        """
        if _data(x) is None and self.local is not None:
            raise ValueError("`x` must be the data, whose rows have latent variables of their own. Received: x=None")
        must_split = None
        if _data(x) is not None:
            if self.local is not None:
                must_split = "rows have latent variables of their own"
                if not self.local.built:
                    self.local.build(tf.nest.map_structure(lambda part: part.shape, x))
            elif replicas > 1:
                must_split = "several replicas share the data"
        rows = len(tf.nest.flatten(x)[0])
        # Other values of the same shapes give the same shapes, and to trace the density takes long.
        signature = str((tf.nest.map_structure(lambda part: (part.shape, part.dtype), x), whole, must_split))
        if signature in self._checked:
            return
        # S must differ from B, so that an axis of rows cannot pass for one of draws.
        z = tf.zeros([3 if rows != 3 else 4, self.target.space.dim], self.dtype)
        # As a graph: see `Target.check`.
        graph = graphs.graph(lambda: self._latents(z, x, tf.constant([0, 0]), None, False)[0])
        values = graph.get_concrete_function()()
        self.target.check(values, _data(x), whole=whole, must_split=must_split)
        self._checked.add(signature)

    def _latents(
        self, z: tf.Tensor, x: Any, seed: tf.Tensor | None, path: elbo.Path | None, training: bool
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor | None]:
        """The latent variables by name, the log Jacobian [S] of the global ones, and log q [S, B] of the local ones."""
        values, log_jacobian = self.target.space.constrain(z)
        if self.local is None:
            return values, log_jacobian, None
        draws = elbo.draw(self.local.distribution(x, training), z.shape[0], seed=seed, path=path)
        local, local_log_jacobian = self.local.space.constrain(draws.z)
        return {**values, **local}, log_jacobian, draws.log_posterior - local_log_jacobian


def _data(x: Any) -> Any:
    """The data as a user's log joint density takes it: None if the model contains its own data."""
    return None if observations.is_none(x) else x
