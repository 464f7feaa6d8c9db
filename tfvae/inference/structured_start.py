"""Where the fit of a `StructuredNormal` starts: the derivatives of the density given all rows, and what they tell."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import chunks, graphs
from tfvae.inference import control_variate, modes, nested_laplace, newton, observations, structure, structured_modes
from tfvae.inference.density import Density
from tfvae.inference.joint_density import JointDensity
from tfvae.inference.structured_normal import StructuredNormal
from tfvae.inference.targets import Target
from tfvae.posteriors import Posterior

# The most rows of data that are evaluated at a time, and the most that are kept in memory.
_BLOCK_ROWS, _KEPT_ROWS = 2**16, 2**21
# The most points times rows, or times latent variables, that are evaluated at a time.
_CHUNK_ELEMENTS = 2**20
# At how many points the Hessian must have the pattern.
_TRIED_POINTS = 2


class Derivatives(Density):
    """The log density given all rows of the data, with its derivatives, at points z [R, L]: see `LogDensity`.

    Args:
        joint: the joint density.
        data: the data.

    Attributes:
        dim: L.
        dtype: the precision in which the density is computed.
        epsilon: the spacing of the numbers of that precision around 1.
    """

    def __init__(self, joint: JointDensity, data: observations.Observations) -> None:
        self._joint, self._data = joint, data
        self.dim, self.dtype = joint.target.space.dim, joint.dtype
        self.epsilon = float(np.finfo(joint.dtype.as_numpy_dtype).eps)
        self._kept: list[tuple[Any, int]] | None = None
        self._functions: dict[str, Callable[..., Any]] = {}

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The values [R] at points [R, L]."""
        return self._sums("values", z)[0]

    def derivatives(self, z: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values [R], the gradients [R, L] and the products of the Hessians with directions [R, L]."""
        return self.products(z, directions)

    def gradients(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values [R] and gradients [R, L]: see `nested_laplace.Gradients`."""
        values, gradients = self._sums("gradients", points)
        return values, gradients

    def products(
        self, points: np.ndarray, vectors: np.ndarray, with_prior: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Also the products with vectors [R, L]: see `nested_laplace.Products`. Without the prior if so asked."""
        values, gradients, products = self._sums("products", points, vectors, with_prior=with_prior)
        return values, gradients, products

    def curvature(self, posterior: Posterior, point: np.ndarray) -> control_variate.Curvature | None:
        """The Hessian of the log-likelihood, without the prior, at a point [L]; None if its pattern is not known."""
        pattern = posterior.pattern if isinstance(posterior, StructuredNormal) else None
        if pattern is None or not len(pattern.node):
            return None
        size, order = pattern.num_globals, pattern.order
        vectors = np.zeros([size + len(pattern.probes), self.dim])
        vectors[np.arange(size), order[:size]] = 1.0
        vectors[size:, order[size:]] = pattern.probes
        products = self.products(np.repeat(point[np.newaxis], len(vectors), axis=0), vectors, False)[2][:, order]
        band = pattern.band(products[size:, size:])
        return control_variate.Curvature(order, products[:size, :size], products[:size, size:], band)

    def _sums(self, name: str, *arrays: np.ndarray, with_prior: bool = True) -> list[np.ndarray]:
        """Sums what a function gives over all blocks of rows."""
        total: list[np.ndarray] = []
        for index, (rows, count) in enumerate(self._blocks()):
            if not self._functions:
                self._functions = _functions(self._joint, rows, is_first_of_many=not self._is_one_block)
            size = chunks.rows_within(_CHUNK_ELEMENTS, max(count, self.dim))
            is_first = tf.constant(with_prior and index == 0)
            parts = [
                self._functions[name](*(tf.constant(each[part], self.dtype) for each in arrays), rows, is_first)
                for part in chunks.slices(len(arrays[0]), size)
            ]
            sums = [
                np.concatenate([each.numpy() for each in several]).astype(float) for several in zip(*parts, strict=True)
            ]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
        return total

    @property
    def _is_one_block(self) -> bool:
        return (self._data.num_data or 1) <= _BLOCK_ROWS

    def _blocks(self) -> Iterator[tuple[Any, int]]:
        """Blocks of rows, and how many each has."""
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for rows, count in _joined(self._data):
            kept.append((rows, count))
            yield rows, count
        if (self._data.num_data or 0) <= _KEPT_ROWS:
            self._kept = kept


def approximate(
    target: Target, derivatives: Derivatives, points: np.ndarray, posterior: StructuredNormal
) -> tuple[list[modes.Mode[nested_laplace.StructuredGaussian]], np.ndarray]:
    """Finds the structure of a posterior, unless `posterior` knows it, and a Gaussian near each of its modes.

    Args:
        target: the density.
        derivatives: its derivatives.
        points: points [M, L] to start from, of which the first is the origin.
        posterior: the family of q, in which the Gaussian is set.

    Returns:
        The modes, the largest first: only one up to `modes.MOST_DIM` dimensions, where they are sought without the
        structure, and an empty list if no structure is found, of which a warning is given for many dimensions. And
        which global variables [L] have a density that does not fall far out.
    """
    pattern = posterior.pattern
    if pattern is None:
        # At the origin, elements of the Hessian may be 0 that are not so elsewhere.
        tried = points[np.isfinite(derivatives(points))][-_TRIED_POINTS:]
        shapes = target.space.unconstrained_shapes
        pattern = structure.find(shapes, derivatives, lambda *at: derivatives.products(*at)[2], tried)
    if pattern is None and target.space.dim > newton.FULL_CURVATURE_DIM:
        warnings.warn(
            f"The {target.space.dim} latent variables, {', '.join(target.space.names)}, all depend on each other, as "
            "far as the curvature of their density tells, so that q has a full covariance: the fit will be slow, and "
            "may be poor. Write series by the variables themselves and not by the sum of their steps, or try another "
            "`posterior`, such as LowRankNormal().",
            stacklevel=6,
        )
    if pattern is None or not len(pattern.node):
        return [], np.zeros(derivatives.dim, bool)
    search = nested_laplace.Search(pattern, derivatives.gradients, derivatives.products)
    ends = search.ends(points)
    best = max(ends, key=lambda end: end.evidence)
    is_flat = structured_modes.flat_globals(search, derivatives, best)
    if derivatives.dim > modes.MOST_DIM:
        return structured_modes.separate(search, derivatives, ends, target.space.unconstrained_shapes), is_flat
    return [modes.Mode(search.gaussian(best.state, best.metric), 1.0)], is_flat


def flat_locals(
    gaussian: nested_laplace.StructuredGaussian, gradients: nested_laplace.Gradients, distances: Sequence[float]
) -> np.ndarray:
    """Which local variables [L] have a density that does not fall, far out along one of them.

    All those of a color are moved at once, because none of them is near another.

    Args:
        gaussian: a Gaussian near the density.
        gradients: the gradients of the log density.
        distances: how far out, in standard deviations; the density must fall at one of them.
    """
    pattern, remaining = gaussian.pattern, np.zeros(len(gaussian.loc), bool)
    probes = np.zeros([len(pattern.probes), pattern.dim])
    probes[:, pattern.order[pattern.num_globals :]] = pattern.probes
    moved = probes.astype(bool)
    for sign in (-1.0, 1.0):
        left = moved.copy()
        for distance in distances:
            move = sign * distance * gaussian.scale
            slopes = gradients(gaussian.loc + probes * move)[1] * move
            # A density that falls no faster than 1 / distance along a line has no finite integral.
            left &= ~(slopes < -0.9)
        remaining |= left.any(axis=0)
    return remaining


def _joined(data: observations.Observations) -> Iterator[tuple[Any, int]]:
    """Joins the batches of the data to blocks."""
    batches: list[Any] = []
    count = 0

    def block() -> tuple[Any, int]:
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *batches), count

    for batch in observations.one_pass(data):
        batches.append(batch)
        count += len(tf.nest.flatten(batch)[0])
        if count >= _BLOCK_ROWS:
            yield block()
            batches, count = [], 0
    if batches:
        yield block()


def _functions(joint: JointDensity, rows: Any, *, is_first_of_many: bool) -> dict[str, Callable[..., Any]]:
    """Makes functions of points [R, L], perhaps vectors, rows and whether to add the prior: see `Derivatives`.

    Args:
        joint: the joint density.
        rows: a block of rows.
        is_first_of_many: whether there are blocks with other numbers of rows.
    """

    def density(z: tf.Tensor, rows: Any, with_prior: tf.Tensor) -> tf.Tensor:
        log_prior, log_likelihood, _ = joint.log_densities(z, rows, num_data=None)
        return tf.where(with_prior, log_prior, tf.zeros_like(log_prior)) + log_likelihood

    def spec(array: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None if is_first_of_many else len(array), *array.shape[1:]], array.dtype)

    points = tf.TensorSpec([None, joint.target.space.dim], joint.dtype)
    given = (tf.nest.map_structure(spec, rows), tf.TensorSpec([], tf.bool))
    # Traced once: the others call its graph.
    density = graphs.graph(density, input_signature=[points, *given])

    def gradients(z: tf.Tensor, rows: Any, with_prior: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            values = density(z, rows, with_prior)
        return values, tape.gradient(values, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def products(
        z: tf.Tensor, vectors: tf.Tensor, rows: Any, with_prior: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            values, slopes = gradients(z, rows, with_prior)
            along = tf.reduce_sum(slopes * vectors, axis=-1)
        return values, slopes, tape.gradient(along, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return {
        "values": lambda *arguments: (density(*arguments),),
        "gradients": graphs.graph(gradients, input_signature=[points, *given]),
        "products": graphs.graph(products, input_signature=[points, points, *given]),
    }
