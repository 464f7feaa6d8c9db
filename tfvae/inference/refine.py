"""`VariationalInference.refine`: short chains of NUTS that start at draws of q and move in its coordinates.

The chains move in the space of the noise epsilon that q maps to z = g(epsilon), where the posterior has the density

    log p(data, g(epsilon)) + log |det dg / d epsilon| = log p(data, z) - log q(z) + log N(epsilon | 0, I)

If q is the posterior, that is N(0, I), in which NUTS needs few steps. So a normal q serves as a mass matrix, and a flow
straightens what is bent.

Reference: Hoffman & Gelman 2014, The No-U-Turn Sampler; Hoffman et al. 2019, NeuTra-lizing Bad Geometry in Hamiltonian
Monte Carlo Using Neural Transport, section 2.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, graphs
from tfvae.inference import newton, observations
from tfvae.inference.approximation import Approximation
from tfvae.inference.chains import Chains
from tfvae.inference.latents import LatentSpace
from tfvae.posteriors import Posterior
from tfvae.training.loop import CANNOT_COMPILE

_TARGET_ACCEPTANCE = 0.9
# The share of the warm-up during which the step size is adapted.
_ADAPTED = 0.8
# How many draws of q are tried for each chain that needs one of finite density to start from.
_TRIED = 16
# Draws from which the mean and covariance of a q that is no function of noise are estimated.
_MOMENT_DRAWS = 4000

# Maps noise [S, L] to z [S, L], and to log |det dz / d epsilon| [S].
_Map = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Refinement:
    """What `VariationalInference` inherits: a method that draws from the posterior itself, near q."""

    # What it needs of `VariationalInference`.
    approximation: Approximation
    local: Any
    space: LatentSpace
    _joint: Any
    _check_fitted: Any
    _all_data: Any
    _read: Any
    _seed: Any

    def refine(
        self,
        num_samples: int = 1000,
        num_chains: int = 4,
        num_warm_up: int = 500,
        x: Any = None,
        y: Any = None,
        *,
        seed: int | None = None,
    ) -> Chains:
        """Draws from the posterior by NUTS, started at draws of q, in its coordinates: for where k-hat flags q.

        The better q is, the fewer steps the chains need. They find no mode that q knows nothing of. Each step takes all
        rows of the data at once, which must fit into memory: data that come in batches are joined. XLA compiles the
        chains, which takes seconds once and makes each step many times faster; it cannot where q is a
        `StructuredNormal` of a series.

        Args:
            num_samples: S, the number of draws that are kept of each chain.
            num_chains: C, at least 2, so that they can be compared.
            num_warm_up: the number of steps before them, which adapt the step size and are discarded.
            x: all of the data, as for `fit`; None takes the data of the last `fit`.
            y: as for `fit`.
            seed: the same seed gives the same draws; None draws anew at each call.

        Returns:
            The draws, with R-hat and the effective sample size of each latent variable. A warning is given if the
            chains do not agree, move too little, or diverge.

        Raises:
            ValueError: an argument is out of its range, x is not all of the data, or q has too few draws at which the
                density is above 0.
            NotImplementedError: the model has local latent variables.
        """
        num_samples = checks.positive_integer("num_samples", num_samples, minimum=4)
        num_chains = checks.positive_integer("num_chains", num_chains, minimum=2)
        num_warm_up = checks.positive_integer("num_warm_up", num_warm_up, minimum=10)
        if self.local is not None:
            raise NotImplementedError("a model with local latent variables cannot be refined: only q of them is known")
        self._check_fitted("refine")
        x, y = self._all_data(x, y)
        data = self._read(x, y, None)
        rows = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *observations.one_pass(data))
        seeds = tf.unstack(tf.random.experimental.stateless_split(self._seed(seed), 3))
        to_z = _coordinates(self.approximation, seeds[0])

        def log_density(epsilon: tf.Tensor, rows: Any) -> tf.Tensor:
            z, log_jacobian = to_z(epsilon)
            log_prior, log_likelihood, _ = self._joint.log_densities(z, rows, num_data=None)
            return log_prior + log_likelihood + log_jacobian

        def sample(start: tf.Tensor, seed: tf.Tensor, rows: Any) -> tuple[tf.Tensor, tf.Tensor]:
            def relative_density(epsilon: tf.Tensor) -> tf.Tensor:
                # Of a density in double precision, the difference alone fits into float32.
                return tf.cast(log_density(epsilon, rows) - height, tf.float32)

            kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
                tfp.mcmc.NoUTurnSampler(relative_density, step_size=0.5),
                num_adaptation_steps=int(_ADAPTED * num_warm_up),
                target_accept_prob=_TARGET_ACCEPTANCE,
            )
            return tfp.mcmc.sample_chain(
                num_samples,
                start,
                kernel=kernel,
                num_burnin_steps=num_warm_up,
                trace_fn=lambda _, results: results.inner_results.has_divergence,
                seed=seed,
            )

        density = graphs.graph(log_density)
        start, height = _start(lambda noise: density(noise, rows), num_chains, self.space.dim, seeds[1])
        try:
            draws, is_divergent = graphs.graph(sample, jit_compile=True)(start, seeds[2], rows)
        except CANNOT_COMPILE as error:
            warnings.warn(
                f"XLA cannot compile the chains, so they run without it, and slowly: {checks.brief(error)}",
                stacklevel=2,
            )
            draws, is_divergent = graphs.graph(sample)(start, seeds[2], rows)
        flat = tf.reshape(tf.transpose(draws, [1, 0, 2]), [-1, self.space.dim])
        latents = graphs.graph(lambda epsilon: self.space.constrain(to_z(epsilon)[0])[0])(flat)
        chains = Chains(
            {name: value.numpy().reshape(num_chains, num_samples, *value.shape[1:]) for name, value in latents.items()},
            int(np.sum(is_divergent)),
        )
        chains.warn_where_apart()
        return chains


def _coordinates(approximation: Approximation, seed: tf.Tensor) -> _Map:
    """The map from noise to z by which q is defined; of a q that has none, the normal one of its first two moments."""
    if type(approximation.posterior).sample_from is not Posterior.sample_from:
        return approximation.sample_and_log_jacobian_from
    draws = approximation.sample(_MOMENT_DRAWS, seed)[0]
    z = draws.numpy().astype(float)
    if approximation.dim > newton.FULL_CURVATURE_DIM:
        scale = tf.linalg.LinearOperatorDiag(tf.constant(z.std(axis=0), draws.dtype))
    else:
        root = np.linalg.cholesky(np.atleast_2d(np.cov(z.T)))
        scale = tf.linalg.LinearOperatorLowerTriangular(tf.constant(root, draws.dtype))
    loc, log_jacobian = tf.constant(z.mean(axis=0), draws.dtype), scale.log_abs_determinant()
    return lambda epsilon: (loc + scale.matvec(tf.cast(epsilon, loc.dtype)), log_jacobian)


def _start(
    log_density: Callable[[tf.Tensor], tf.Tensor], count: int, dim: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Noise [C, L] at which the density is finite, and the log density at the first of it []."""
    noise = tf.random.stateless_normal([_TRIED * count, dim], seed)
    values = log_density(noise)
    possible = tf.boolean_mask(noise, tf.math.is_finite(values))
    if len(possible) < count:
        raise ValueError(
            "q must have draws at which the density is above 0, to start the chains from: fit it again, for example "
            f"with a lower learning rate. Received: {len(possible)} of {len(noise)} draws for {count} chains"
        )
    return possible[:count], tf.boolean_mask(values, tf.math.is_finite(values))[0]
