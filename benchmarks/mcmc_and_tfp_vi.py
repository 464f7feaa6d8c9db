"""TensorFlow Probability's NUTS and variational inference, run on the models of reference_models.py.

Both methods work on the unconstrained vector of a model, with TFP's defaults; nothing is tuned to a model or taken from
its reference. A gradient evaluation is one gradient of the log density at one point: a leapfrog step of one chain, or
one Monte Carlo sample in one step of the optimizer.
"""

import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from reference_models import Model

tfd = tfp.distributions

# Newton's method: the number of starting points, and the step lengths from which each step takes the best.
STARTS = 16
STEP_LENGTHS = [0.0, *(0.5**power for power in range(10))]
FAMILIES = {"mean-field": "diag", "full-rank": "tril"}


class UnconstrainedPosterior(tfd.Distribution):
    """The unnormalized density of u [L], where scale * u is a model's unconstrained vector, as TFP's NUTS takes it."""

    def __init__(self, model: Model, scale: tf.Tensor) -> None:
        self._model, self._scale = model, scale
        super().__init__(tf.float32, tfd.NOT_REPARAMETERIZED, validate_args=False, allow_nan_stats=False)

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: int | None = None) -> dict:
        return {}

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self._model.size])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self._model.size])

    def _default_event_space_bijector(self) -> tfp.bijectors.Bijector:
        return tfp.bijectors.Identity()

    def _sample_n(self, n: int, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns zeros: TFP uses only the dtype and the shape."""
        return tf.zeros([n, self._model.size])

    def _log_prob(self, vector: tf.Tensor) -> tf.Tensor:
        return self._model.unconstrained_log_density(vector * self._scale)


def nuts(
    model: Model, *, seed: int, chains: int = 4, newton_steps: int = 50, warm_up: int = 1000, draws: int = 1000
) -> tuple[dict[str, np.ndarray], int, float]:
    """Draws from a posterior with the No-U-Turn sampler.

    All chains start at the highest of the modes that Newton's method finds from points drawn from Uniform(-2, 2), and
    the coordinates are scaled by the standard deviations that follow from the curvature there. Started directly from
    Uniform(-2, 2), chains can fail to reach the mode of a badly scaled model. The step size and a diagonal mass matrix
    are adapted over expanding windows, as in Stan.

    Args:
        model: the model.
        seed: the seed of the start and the chains.
        chains: the number of chains, which share a step size and a mass matrix.
        newton_steps: the number of Newton steps before sampling.
        warm_up: the number of steps of a chain that adapt and are discarded.
        draws: the number of steps of a chain that are kept.

    Returns:
        The parameters of the reference, each [draws * chains], chains varying fastest; the gradient evaluations of all
        chains, the warm-up and the Newton steps, in which each coordinate's second derivative and each step length
        tried counts as one evaluation; and the seconds of all, including tracing and compilation.
    """

    @tf.function(autograph=False)
    def ascend(points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        points, deviations = newton_ascent(model, points, newton_steps)
        best = tf.argmax(model.unconstrained_log_density(points))
        return points[best], deviations[best]

    @tf.function(jit_compile=True, autograph=False)
    def sample(start: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        posterior = tfd.JointDistributionSequential([UnconstrainedPosterior(model, scale)])
        result = tfp.experimental.mcmc.windowed_adaptive_nuts(
            draws,
            posterior,
            n_chains=chains,
            num_adaptation_steps=warm_up,
            current_state=[start],
            discard_tuning=False,
            trace_fn=lambda state, bijector, is_adapting, results: results.leapfrogs_taken,
            seed=tf.constant([seed, 1]),
        )
        return result.all_states[0], result.trace

    start = time.perf_counter()
    mode, scale = ascend(tf.random.stateless_uniform([STARTS, model.size], [seed, 0], -2.0, 2.0))
    vectors, leapfrogs = (value.numpy() for value in sample(tf.tile([mode / scale], [chains, 1]), scale))
    seconds = time.perf_counter() - start
    quantities = model.quantities_at((vectors[warm_up:] * scale.numpy()).reshape(-1, model.size))
    evaluations = newton_steps * STARTS * (1 + model.size + len(STEP_LENGTHS))
    return quantities, evaluations + int(leapfrogs.sum(dtype=int)), seconds


def newton_ascent(model: Model, points: tf.Tensor, steps: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Newton ascent of the log density from points [S, L], with |curvature| (Dauphin et al., 2014) and a line search.

    Returns:
        The points reached, and the standard deviations of normal distributions with the curvature there, both [S, L].
    """

    def step(count: tf.Tensor, points: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(points)
            with tf.GradientTape() as inner:
                inner.watch(points)
                log_density = model.unconstrained_log_density(points)
            gradient = inner.gradient(log_density, points)
            entries = tf.unstack(gradient, axis=1)
        curvature = tf.stack([outer.gradient(entry, points) for entry in entries], axis=1)
        # Scaled so that the diagonal is 1; otherwise float32 does not suffice for coordinates of different scales.
        unit = tf.math.rsqrt(tf.abs(tf.linalg.diag_part(curvature)) + 1e-12)
        values, vectors = tf.linalg.eigh(curvature * unit[:, :, None] * unit[:, None, :])
        values = tf.maximum(tf.abs(values), 1e-6)
        direction = unit * tf.einsum("sij,sj,skj,sk->si", vectors, 1.0 / values, vectors, unit * gradient)
        candidates = points + tf.constant(STEP_LENGTHS)[:, None, None] * direction
        heights = model.unconstrained_log_density(tf.reshape(candidates, [-1, model.size]))
        heights = tf.reshape(tf.where(tf.math.is_finite(heights), heights, -np.inf), [len(STEP_LENGTHS), -1])
        best = tf.one_hot(tf.argmax(heights, axis=0), len(STEP_LENGTHS), axis=0, on_value=True, off_value=False)
        points = tf.reduce_sum(tf.where(best[:, :, None], candidates, 0.0), axis=0)
        return count + 1, points, unit * tf.sqrt(tf.einsum("sij,sj->si", vectors**2, 1.0 / values))

    state = (tf.constant(0), points, tf.ones_like(points))
    _, points, deviations = tf.while_loop(lambda count, *_: count < steps, step, state)
    return points, deviations


def tfp_vi(
    model: Model,
    family: str,
    *,
    seed: int,
    learning_rate: float = 0.1,
    sample_size: int = 10,
    steps: int = 5000,
    draws: int = 10_000,
) -> tuple[dict[str, np.ndarray], float, int, float]:
    """Fits a normal distribution of the unconstrained vector to a posterior with `tfp.vi.fit_surrogate_posterior`.

    Args:
        model: the model.
        family: "mean-field" for a diagonal covariance, "full-rank" for any covariance.
        seed: the seed of the start, the fit and the draws.
        learning_rate: Adam's learning rate. TFP's documentation has examples with 0.1 and with 0.01.
        sample_size: the number of Monte Carlo samples in a step.
        steps: the number of optimizer steps.
        draws: the number of draws from the fitted distribution.

    Returns:
        The parameters of the reference, each [draws]; the ELBO in nats, estimated from the draws; the gradient
        evaluations of the fit; and the seconds of the fit, including tracing and compilation.
    """
    if family not in FAMILIES:
        raise ValueError(f"`family` must be one of {list(FAMILIES)}. Received: {family!r}")
    start = time.perf_counter()
    surrogate = tfp.experimental.vi.build_affine_surrogate_posterior(
        [model.size], operators=FAMILIES[family], seed=[seed, 0]
    )
    tfp.vi.fit_surrogate_posterior(
        model.unconstrained_log_density,
        surrogate,
        num_steps=steps,
        optimizer=keras.optimizers.Adam(learning_rate),
        sample_size=sample_size,
        jit_compile=True,
        seed=[seed, 1],
    )
    seconds = time.perf_counter() - start
    vectors = surrogate.sample(draws, seed=[seed, 2])
    log_weights = model.unconstrained_log_density(vectors) - surrogate.log_prob(vectors)
    elbo = float(np.mean(log_weights.numpy(), dtype=float))
    return model.quantities_at(vectors), elbo, steps * sample_size, seconds
