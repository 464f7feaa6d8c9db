"""Where a fit starts: finds standard coordinates, and checks the density at plausible points before the first step."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from threadpoolctl import threadpool_limits

from tfvae.inference import control_variate, modes, newton, observations, precision, structured_start
from tfvae.inference.approximation import Approximation
from tfvae.inference.density import Density, LogDensity
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
# of float32 would be as large as the scale in another direction; a small positive number may be 0 before that.
_FAR = (5.0, 1e2, 1e3)
# Draws of the Gaussian from which it must have fallen so far, beside its mean.
_ORIGINS = 4
# How many points far out are evaluated at a time.
_CHUNK = 1024
# For matrices this small the threads of BLAS cost far more than they save: they wait by spinning.
one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")
_PROPER = "`model` must have a posterior that is proper: one whose density falls in every direction"


class Start(NamedTuple):
    """Where a fit starts.

    Attributes:
        gaussian: its mean and scale define the coordinates in which q is fitted.
        modes: the modes of the posterior, of which the first is at the Gaussian; empty where none were sought.
        density: the log density, given the data by which the Gaussian was found.
    """

    gaussian: newton.Gaussian | StructuredGaussian
    modes: Sequence[modes.Mode[Any]]
    density: Density


@one_blas_thread
def standardize(
    approximation: Approximation,
    control: control_variate.ControlVariate,
    joint: JointDensity,
    data: observations.Observations,
    seed: int,
) -> Start | None:
    """Sets the coordinates of q, unless they are set already, and for batches the control variate.

    Args:
        approximation: q.
        control: the control variate.
        joint: the joint density.
        data: the data.
        seed: see `standard_coordinates`.

    Returns:
        Where the fit starts; None if the coordinates were set already.

    Raises:
        ValueError: see `standard_coordinates`.
    """
    of_all_rows, derivatives, start = joint.of_all_rows(data), Derivatives(joint, data), None
    if approximation.standardized.numpy() == 0.0:
        start = standard_coordinates(joint, data, of_all_rows, seed, approximation.posterior, derivatives)
        approximation.set_coordinates(start.gaussian)
    if not data.whole:
        point = approximation.loc.numpy().astype(float)
        control.set(of_all_rows(point), derivatives.curvature(approximation.posterior, point))
    return start


def standard_coordinates(
    joint: JointDensity,
    data: observations.Observations,
    of_all_rows: Callable[[np.ndarray], control_variate.AtPoint],
    seed: int,
    posterior: Posterior | None = None,
    derivatives: Derivatives | None = None,
) -> Start:
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
        ValueError: the density is NaN or infinite at a starting point, finite at none of them, or improper; or it needs
            a higher precision.
    """
    target, rows = joint.target, observations.first_rows(data.dataset, 1 if data.whole else _ROWS)
    points = starting_points(joint, seed)
    structured: list[modes.Mode[StructuredGaussian]] = []
    if derivatives is not None and isinstance(posterior, StructuredNormal):
        _check_finite(joint, points, derivatives(points), rows)
        structured, is_flat = structured_start.approximate(target, derivatives, points, posterior)
        _check_flat(target, is_flat, derivatives.dtype.name)

    def log_density(z: tf.Tensor) -> tf.Tensor:
        log_prior, log_likelihood, _ = joint.log_densities(z, rows, num_data=data.num_data)
        return log_prior + log_likelihood

    density = LogDensity(log_density, target.space.dim, joint.dtype)
    if not structured:
        _check_finite(joint, points, density(points), rows)
    # Up to 50 dimensions, modes are sought without the structure, which is that of one mode.
    is_sought = not structured or target.space.dim <= modes.MOST_DIM
    if is_sought and target.space.dim > newton.FULL_CURVATURE_DIM:
        found = [modes.Mode(newton.approximate_diagonally(density, points), 1.0)]
    else:
        found = _modes(density, points, seed, target.space.unconstrained_shapes) if is_sought else []
    if structured and derivatives is not None and len(found) <= 1:
        nested = structured[0].gaussian
        _check_proper(target, nested, derivatives, nested.global_axes)
        _check_flat(target, structured_start.flat_locals(nested, derivatives.gradients, _FAR), derivatives.dtype.name)
        _check_support(joint, nested, derivatives)
        _check_precision(target, nested, derivatives)
        return Start(nested, structured, derivatives)
    gaussian = _checked(joint, found[0].gaussian, density)
    if not data.whole:

        def log_prior(z: tf.Tensor) -> tf.Tensor:
            return joint.log_densities(z, rows, num_data=None)[0]

        gaussian = control_variate.recentre(gaussian, of_all_rows, log_prior, joint.dtype)
    return Start(without_structure(gaussian) if isinstance(posterior, StructuredNormal) else gaussian, found, density)


def start_from(joint: JointDensity, density: Density, points: np.ndarray, rows: Any, seed: int) -> Start:
    """As `standard_coordinates`, without a structure, for a density that is computed already.

    Args:
        joint: the joint density.
        density: the log density given all of the data.
        points: those of `starting_points`.
        rows: the data.
        seed: see `standard_coordinates`.
    """
    _check_finite(joint, points, density(points), rows)
    found = _modes(density, points, seed, joint.target.space.unconstrained_shapes)
    return Start(_checked(joint, found[0].gaussian, density), found, density)


def _checked(joint: JointDensity, gaussian: newton.Gaussian, density: Density) -> newton.Gaussian:
    """A Gaussian near a density that is proper and can be resolved, perhaps refined; raises ValueError for others."""
    _check_proper(joint.target, gaussian, density, lambda: newton.principal_axes(gaussian, density))
    _check_support(joint, gaussian, density)
    if precision.unresolved(gaussian.scale, density.epsilon) is not None:
        gaussian = newton.refined(density, gaussian, whiten=True)
    _check_precision(joint.target, gaussian, density)
    return gaussian


def _modes(
    density: Density, points: np.ndarray, seed: int, shapes: Sequence[tuple[int, ...]]
) -> list[modes.Mode[newton.Gaussian]]:
    """The modes with at least 1% of the mass, the largest first."""
    ascents = newton.ascend(density, points)
    return modes.separate(density, ascents, newton.refined(density, newton.best(ascents, density)), seed, shapes)


def check_start(joint: JointDensity, data: observations.Observations, seed: int) -> None:
    """Raises ValueError if a density with local latent variables is NaN or infinite at a start, or finite at none.

    Args:
        joint: the joint density.
        data: the data.
        seed: the seed of the starting points.
    """
    points, rows = starting_points(joint, seed), observations.first_rows(data.dataset, 1)
    z, noise_seed = tf.constant(points, tf.float32), tf.constant([seed, 0])
    log_prior, log_likelihood, _ = joint.log_densities(z, rows, num_data=data.num_data, seed=noise_seed)
    _check_finite(joint, points, (log_prior + log_likelihood).numpy(), rows)


def starting_points(joint: JointDensity, seed: int) -> np.ndarray:
    """Points [M, L] in the unconstrained space: the origin, and draws of the prior, or uniform ones without a prior."""
    target = joint.target
    shape = (_COUNT - 1, target.space.dim)
    # The range in which Stan draws its initial values.
    points = np.random.default_rng(seed).uniform(-2.0, 2.0, shape)
    if target.starts is not None:
        draws = target.starts(_COUNT - 1, tf.constant([seed, 0]))
        plausible = joint.unconstrain(draws).numpy()
        points = np.where(np.isfinite(plausible).all(axis=1, keepdims=True), plausible, points)
    return np.concatenate([np.zeros((1, target.space.dim)), points])


def _check_finite(joint: JointDensity, points: np.ndarray, values: np.ndarray, rows: Any) -> None:
    """Raises ValueError if the density is NaN or infinite at one of the points, or 0 at all of them.

    Args:
        joint: the joint density.
        points: the points [M, L].
        values: the log density at the points [M].
        rows: the data with which it was evaluated, or None.
    """
    wrong = np.isnan(values) | (values == np.inf)
    if not wrong.any() and np.isfinite(values).any():
        return
    missing = (
        "" if not np.isnan(values).any() else _missing(rows if joint.target.pins is None else dict(joint.target.pins))
    )
    if missing:
        raise ValueError(
            "`model` must have a log joint density that is never NaN; leave missing observations out, or sum only over "
            f"those that are there. Received: observations that hold NaN, {missing}"
        )
    row = int(np.argmax(wrong))
    latents = _latents(joint, points)
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


def _check_support(joint: JointDensity, gaussian: newton.Gaussian | StructuredGaussian, density: Density) -> None:
    """Raises ValueError if the density is 0 or not finite in a part of the space near its mode."""
    points = gaussian.draws(np.random.default_rng(0).standard_normal([_DRAWS, density.dim]))
    values = density(points)
    wrong = ~np.isfinite(values)
    if np.mean(wrong) > newton.FEW:
        row = int(np.argmax(wrong))
        raise ValueError(
            "`model` must have a density above 0 where the latent variables meet their constraints; a latent variable "
            f"on a constrained space needs the bijector of that space. Received: {values[row]} near the mode, at "
            f"{describe(_latents(joint, points), row)}"
        )


def _check_precision(target: Target, gaussian: newton.Gaussian | StructuredGaussian, density: Density) -> None:
    """Raises ValueError if the precision in which the density is computed is not enough for it near a Gaussian."""
    found = precision.insufficient(density, gaussian.loc, gaussian.scale)
    if found is None:
        return
    is_part, why = found
    names = ", ".join(name for name, part in target.space.split(is_part).items() if part.any())
    dtype = density.dtype.name
    higher = ', or pass dtype="float64" and give data and constants in float64' if dtype == "float32" else ""
    raise ValueError(
        f"`model` must have a posterior that {dtype} can resolve; centre and scale the data of {names}, above all "
        f"powers of a covariate that is far from 0{higher}. Received: a posterior of {names} where {why} in {dtype}"
    )


def _latents(joint: JointDensity, points: np.ndarray) -> dict[str, np.ndarray]:
    values, _ = joint.target.space.constrain(tf.constant(points, joint.dtype))
    return {name: value.numpy() for name, value in values.items()}


def _check_proper(
    target: Target,
    gaussian: newton.Gaussian | StructuredGaussian,
    density: Density,
    principal_axes: Callable[[], np.ndarray],
) -> None:
    """Raises ValueError if the density has no finite integral along lines that are parallel to a principal axis.

    The mean alone does not tell: a proper density may grow without bound along a single line, as that of groups whose
    effects are equal does when their scale goes to 0.
    """
    noise = np.random.default_rng(0).standard_normal([_ORIGINS, target.space.dim])
    origins = np.concatenate([gaussian.loc[np.newaxis], gaussian.draws(noise)])
    heights = density(origins)
    dtype = density.dtype.name
    if not np.isfinite(heights[0]):
        raise ValueError(f"{_PROPER}. Received: one that grows without bound in {dtype}")
    axes = principal_axes()
    axes = np.concatenate([axes, -axes])
    for origin, height in zip(origins, heights, strict=True):
        for distance in _FAR:
            chunks = np.array_split(axes, math.ceil(len(axes) / _CHUNK)) if len(axes) else []
            far = [density(origin + distance * part) for part in chunks]
            # A density that falls no faster than 1 / distance along a line has no finite integral.
            axes = axes[np.concatenate([*far, []]) >= height - 0.9 * np.log(distance)]
    if len(axes):
        axis = np.abs(axes[0])
        _check_flat(target, axis > 1e-3 * axis.max(), dtype)


def _check_flat(target: Target, is_flat: np.ndarray, dtype: str) -> None:
    """Raises ValueError if the density is flat along some coordinates [L]."""
    if is_flat.any():
        names = ", ".join(name for name, part in target.space.split(is_flat).items() if part.any())
        hint = ""
        if dtype == "float32":
            hint = ' (if yours does, float32 cannot resolve it: centre and scale the data, or pass dtype="float64")'
        raise ValueError(
            f"{_PROPER}{hint}; data or a prior must constrain {names}. Received: one that is flat along them in {dtype}"
        )
