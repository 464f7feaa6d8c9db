"""Where a fit starts: finds standard coordinates, and checks the density at plausible points before the first step."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae.inference import control_variate, newton, observations, structured_start
from tfvae.inference.approximation import Approximation
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.latents import describe
from tfvae.inference.nested_laplace import StructuredGaussian, without_structure
from tfvae.inference.structured_normal import StructuredNormal
from tfvae.inference.structured_start import Derivatives
from tfvae.inference.targets import Target
from tfvae.posteriors import Posterior

# The rows from which the curvature is found if the data come in batches.
_ROWS = 2**14
# How many points Newton's method starts from, including the origin.
_COUNT = 4
# Draws of the Gaussian at which the density is checked.
_DRAWS = 256
# A density with a finite integral must have fallen at one of these multiples of its scale. Further out, rounding errors
# in float32 would be as large as the scale in another direction; a small positive number may be 0 before that.
_FAR = (5.0, 1e2, 1e3)
# Draws of the Gaussian from which it must have fallen so far, beside its mean.
_ORIGINS = 4
# How many points far out are evaluated at a time.
_CHUNK = 1024
_PROPER = "`model` must have a posterior that is proper: one whose density falls in every direction"


def standardize(
    approximation: Approximation,
    control: control_variate.ControlVariate,
    joint: JointDensity,
    data: observations.Observations,
    seed: int,
) -> None:
    """Sets the coordinates of q, unless they are set already, and for batches the control variate.

    Args:
        approximation: q.
        control: the control variate.
        joint: the joint density.
        data: the data.
        seed: see `standard_coordinates`.

    Raises:
        ValueError: see `standard_coordinates`.
    """
    of_all_rows, derivatives = joint.of_all_rows(data), Derivatives(joint, data)
    if approximation.standardized.numpy() == 0.0:
        posterior = approximation.posterior
        approximation.set_coordinates(standard_coordinates(joint, data, of_all_rows, seed, posterior, derivatives))
    if not data.whole:
        point = approximation.loc.numpy().astype(float)
        control.set(of_all_rows(point), derivatives.curvature(approximation.posterior, point))


def standard_coordinates(
    joint: JointDensity,
    data: observations.Observations,
    of_all_rows: Callable[[np.ndarray], control_variate.AtPoint],
    seed: int,
    posterior: Posterior | None = None,
    derivatives: Derivatives | None = None,
) -> newton.Gaussian | StructuredGaussian:
    """Finds a Gaussian near the posterior, whose mean and scale define the coordinates in which q is fitted.

    If the data come in batches, its scale comes from about the first 16,384 rows, and its mean is then moved to the
    mode given all rows.

    Args:
        joint: the joint density.
        data: the data.
        of_all_rows: evaluates the log-likelihood of all of the data at a point.
        seed: the same seed gives the same Gaussian.
        posterior: the family of q.
        derivatives: those of the density, from which the structure of a `StructuredNormal` is found.

    Raises:
        ValueError: the density is NaN or infinite at a starting point, finite at none of them, or improper.
    """
    target, rows = joint.target, observations.first_rows(data.dataset, 1 if data.whole else _ROWS)
    points = _points(target, seed)
    if derivatives is not None and isinstance(posterior, StructuredNormal):
        _check_finite(target, points, derivatives.values(points), rows)
        structured = structured_start.approximate(target, derivatives, points, posterior)
        if structured is not None:
            _check_proper(target, structured, derivatives.log_density)
            _check_named(target, structured_start.flat(structured, derivatives.gradients, _FAR))
            _check_support(target, structured, derivatives.log_density)
            _warn_of_rounding(target, structured)
            return structured

    @tf.function(reduce_retracing=True, autograph=False)
    def log_density(z: tf.Tensor) -> tf.Tensor:
        log_prior, log_likelihood, _ = joint.log_densities(z, rows, num_data=data.num_data)
        return log_prior + log_likelihood

    _check_finite(target, points, log_density(tf.constant(points, tf.float32)).numpy(), rows)
    if target.space.dim > newton.FULL_CURVATURE_DIM:
        gaussian = newton.approximate_diagonally(log_density, points)
    else:
        gaussian = newton.approximate(log_density, points)
    _check_proper(target, gaussian, log_density)
    _check_support(target, gaussian, log_density)
    _warn_of_rounding(target, gaussian)
    if not data.whole:
        gaussian = control_variate.recentre(
            gaussian, of_all_rows, lambda z: joint.log_densities(z, rows, num_data=None)[0]
        )
    return without_structure(gaussian) if isinstance(posterior, StructuredNormal) else gaussian


def check_start(joint: JointDensity, data: observations.Observations, seed: int) -> None:
    """Raises ValueError if a density with local latent variables is NaN or infinite at a start, or finite at none.

    Args:
        joint: the joint density.
        data: the data.
        seed: the seed of the starting points.
    """
    points, rows = _points(joint.target, seed), observations.first_rows(data.dataset, 1)
    z, noise_seed = tf.constant(points, tf.float32), tf.constant([seed, 0])
    log_prior, log_likelihood, _ = joint.log_densities(z, rows, num_data=data.num_data, seed=noise_seed)
    _check_finite(joint.target, points, (log_prior + log_likelihood).numpy(), rows)


def _points(target: Target, seed: int) -> np.ndarray:
    """Points [M, L] in the unconstrained space: the origin, and draws of the prior, or uniform ones without a prior."""
    shape = (_COUNT - 1, target.space.dim)
    # The range in which Stan draws its initial values.
    points = np.random.default_rng(seed).uniform(-2.0, 2.0, shape)
    if target.starts is not None:
        draws = target.starts(_COUNT - 1, tf.constant([seed, 0]))
        plausible = tf.function(target.space.unconstrain, autograph=False)(draws).numpy()
        points = np.where(np.isfinite(plausible).all(axis=1, keepdims=True), plausible, points)
    return np.concatenate([np.zeros((1, target.space.dim)), points])


def _check_finite(target: Target, points: np.ndarray, values: np.ndarray, rows: Any) -> None:
    """Raises ValueError if the density is NaN or infinite at one of the points, or 0 at all of them.

    Args:
        target: the model.
        points: the points [M, L].
        values: the log density at the points [M].
        rows: the data with which it was evaluated, or None.
    """
    wrong = np.isnan(values) | (values == np.inf)
    if not wrong.any() and np.isfinite(values).any():
        return
    missing = "" if not np.isnan(values).any() else _missing(rows if target.pins is None else dict(target.pins))
    if missing:
        raise ValueError(
            "`model` must have a log joint density that is never NaN; leave missing observations out, or sum only over "
            f"those that are there. Received: observations that hold NaN, {missing}"
        )
    row = int(np.argmax(wrong))
    latents = _latents(target, points)
    hint = (
        "; a latent variable on a constrained space needs the bijector of that space, and a matrix that is factorised "
        "may need jitter"
        if wrong.any()
        else ""
    )
    raise ValueError(
        "`model` must have a log joint density that is never NaN or +inf where the latent variables meet their "
        f"constraints, and finite where the fit starts{hint}. Received: {values[row]} at {describe(latents, row)}"
    )


def _missing(data: Any) -> str:
    """Says where the first NaN in each part of the data is; empty if there is none."""
    found = []
    parts = data.items() if isinstance(data, dict) else enumerate(tf.nest.flatten(data))
    for name, part in parts:
        array = np.asarray(part)
        if array.dtype.kind == "f" and np.isnan(array).any():
            at = [int(index) for index in np.argwhere(np.isnan(array))[0]]
            found.append(
                f"{name!r} at index {at}" if isinstance(name, str) else f"part {name} of the data at index {at}"
            )
    return ", ".join(found)


def _check_support(
    target: Target, gaussian: newton.Gaussian | StructuredGaussian, log_density: Callable[[tf.Tensor], tf.Tensor]
) -> None:
    """Raises ValueError if the density is 0 or not finite in a part of the space near its mode."""
    points = gaussian.draws(np.random.default_rng(0).standard_normal([_DRAWS, target.space.dim]))
    values = log_density(tf.constant(points, tf.float32)).numpy()
    wrong = ~np.isfinite(values)
    if np.mean(wrong) > newton.FEW:
        row = int(np.argmax(wrong))
        raise ValueError(
            "`model` must have a density above 0 where the latent variables meet their constraints; a latent variable "
            f"on a constrained space needs the bijector of that space. Received: {values[row]} near the mode, at "
            f"{describe(_latents(target, points), row)}"
        )


def _warn_of_rounding(target: Target, gaussian: newton.Gaussian | StructuredGaussian) -> None:
    """Warns of a posterior so narrow, relative to its distance from 0, that few float32 numbers fall into it."""
    deviations = np.linalg.norm(gaussian.scale, axis=1) if gaussian.scale.ndim == 2 else gaussian.scale
    narrow = deviations < 16.0 * np.finfo(np.float32).eps * np.abs(gaussian.loc)
    if narrow.any():
        names = ", ".join(name for name, part in target.space.split(narrow).items() if part.any())
        warnings.warn(
            f"The posterior of {names} is so narrow, relative to its distance from 0, that few float32 numbers fall "
            "into it: subtract a constant from the data.",
            stacklevel=5,
        )
    direction = None if isinstance(gaussian, StructuredGaussian) else newton.unresolved(gaussian)
    if direction is not None:
        names = ", ".join(name for name, part in target.space.split(direction).items() if part.any())
        warnings.warn(
            f"The curvature of the posterior of {names} differs by more between directions than float32 can resolve, "
            "so that q may be wrong: centre and scale the covariates, above all powers of one that is far from 0.",
            stacklevel=5,
        )


def _latents(target: Target, points: np.ndarray) -> dict[str, np.ndarray]:
    values, _ = target.space.constrain(tf.constant(points, tf.float32))
    return {name: value.numpy() for name, value in values.items()}


def _check_proper(
    target: Target, gaussian: newton.Gaussian | StructuredGaussian, log_density: Callable[[tf.Tensor], tf.Tensor]
) -> None:
    """Raises ValueError if the density has no finite integral along lines that are parallel to a principal axis.

    The mean alone does not tell: a proper density may grow without bound along a single line, as that of groups whose
    effects are equal does when their scale goes to 0.
    """
    noise = np.random.default_rng(0).standard_normal([_ORIGINS, target.space.dim])
    origins = np.concatenate([gaussian.loc[np.newaxis], gaussian.draws(noise)])
    heights = log_density(tf.constant(origins, tf.float32)).numpy()
    if not np.isfinite(heights[0]):
        raise ValueError(f"{_PROPER}. Received: one that grows without bound")
    if isinstance(gaussian, StructuredGaussian):
        axes = gaussian.global_axes()
    else:
        axes = newton.principal_axes(gaussian, log_density)
    axes = np.concatenate([axes, -axes])
    for origin, height in zip(origins, heights, strict=True):
        for distance in _FAR:
            chunks = np.array_split(axes, math.ceil(len(axes) / _CHUNK)) if len(axes) else []
            far = [log_density(tf.constant(origin + distance * part, tf.float32)).numpy() for part in chunks]
            # A density that falls no faster than 1 / distance along a line has no finite integral.
            axes = axes[np.concatenate([*far, []]) >= height - 0.9 * np.log(distance)]
    if len(axes):
        axis = np.abs(axes[0])
        _check_named(target, axis > 1e-3 * axis.max())


def _check_named(target: Target, flat: np.ndarray) -> None:
    """Raises ValueError if the density is flat along some coordinates [L]."""
    if flat.any():
        names = ", ".join(name for name, part in target.space.split(flat).items() if part.any())
        raise ValueError(f"{_PROPER}; data or a prior must constrain {names}. Received: one that is flat along them")
