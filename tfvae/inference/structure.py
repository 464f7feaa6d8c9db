"""Which latent variables depend on which: found from products of the curvature with a few vectors.

Latent variables of groups or of time steps have an axis of many nodes. Given the few other variables, the global ones,
each node usually depends on itself alone, or on its neighbours: the Hessian of the log density is then banded, apart
from the rows and columns of the global variables. One product with a vector gives a column for each of many nodes at
once, if these are too far apart to touch the same row.

Reference: Curtis et al. 1974, On the Estimation of Sparse Jacobian Matrices; Tan & Nott 2018, Gaussian Variational
Approximation with Sparse Precision Matrices, section 3.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Multiplies the Hessians at points [R, L] by vectors [R, L].
Products = Callable[[np.ndarray, np.ndarray], np.ndarray]

# How far apart nodes that depend on each other may be, in the order in which these are tried.
_WIDTHS = (0, 1, 2, 4, 8, 16)
# The most places below the diagonal, and global variables, which the start does not integrate out: with the effects of
# a second grouping among them, their density may grow without bound as the scale of these goes to 0.
_MAX_BAND, _MAX_GLOBALS = 64, 50
# Fewer nodes are no axis of groups or of time.
_FEWEST_NODES = 5
# By how much a product with the whole Hessian may differ, relative to the size of its terms: rounding in float32.
_TOLERANCE = 1e-3


class Block(NamedTuple):
    """A local latent variable: its place in z, its unconstrained shape, and which axis is that of the nodes.

    Attributes:
        start: its first place in z.
        shape: its unconstrained shape.
        axis: the axis of the nodes.
    """

    start: int
    shape: tuple[int, ...]
    axis: int


class Pattern:
    """Which elements of a precision matrix may differ from 0, given an order of its rows.

    Args:
        blocks: the local latent variables. Those with the same number of nodes share their nodes.
        width: how far apart two nodes may be that depend on each other.
        dim: L.

    Attributes:
        order: the places in z [L] of the global variables and then of the local ones, node by node.
        num_globals: G; the other N = L - G variables are local.
        node: the node of each local variable [N], numbered through.
        color: the group of each local variable [N]: no two of a group depend on a common third.
        mask: [W, N]; row k and column j say whether the local variables j and j - k - 1 may depend on each other.
    """

    def __init__(self, blocks: Sequence[Block], width: int, dim: int) -> None:
        self.blocks = tuple(Block(int(start), tuple(map(int, shape)), int(axis)) for start, shape, axis in blocks)
        self.width, self.dim = width, dim
        counts = dict.fromkeys(block.shape[block.axis] for block in self.blocks)
        places, nodes, colors = [], [], []
        first = 0
        for count in counts:
            # [nodes, columns of all variables that share them].
            segment = np.concatenate(
                [places_of(each) for each in self.blocks if each.shape[each.axis] == count], axis=1
            )
            node, column = np.indices(segment.shape)
            places.append(segment.ravel())
            colors.append((column * (2 * width + 1) + node % (2 * width + 1)).ravel())
            # Nodes of different segments are too far apart to depend on each other.
            nodes.append((first + node).ravel())
            first += count + width + 1
        local = np.concatenate([*places, np.zeros(0, int)]).astype(int)
        self.node = np.concatenate([*nodes, np.zeros(0, int)]).astype(int)
        self.color = np.concatenate([*colors, np.zeros(0, int)]).astype(int)
        self.order = np.concatenate([np.setdiff1d(np.arange(dim), local), local])
        self.num_globals = dim - len(local)
        band = 0
        while np.any(self._near(band + 1)):
            band += 1
        self.mask = np.stack([self._near(k + 1) for k in range(band)]) if band else np.zeros((0, len(local)), bool)

    @functools.cached_property
    def probes(self) -> np.ndarray:
        """One vector [C, N] of ones and zeros for each color."""
        return (self.color == np.arange(self.color.max(initial=-1) + 1)[:, np.newaxis]).astype(float)

    def band(self, products: np.ndarray) -> np.ndarray:
        """Reads a symmetric matrix off its products with `probes`.

        Args:
            products: [..., C, N].

        Returns:
            The matrix [..., W + 1, N]: row k and column j hold the element (j + k, j), as in LAPACK.
        """
        count = len(self.color)
        place = np.arange(count)
        band = np.zeros((*products.shape[:-2], len(self.mask) + 1, count))
        band[..., 0, :] = products[..., self.color, place]
        for k, near in enumerate(self.mask, 1):
            # Each element comes twice, above and below the diagonal.
            pairs = products[..., self.color[:-k], place[k:]] + products[..., self.color[k:], place[:-k]]
            band[..., k, :-k] = np.where(near[k:], 0.5 * pairs, 0.0)
        return band

    def _near(self, distance: int) -> np.ndarray:
        """Whether each local variable [N] may depend on that so many places before it."""
        near = np.zeros(len(self.node), bool)
        if distance < len(near):
            near[distance:] = self.node[distance:] - self.node[:-distance] <= self.width
        return near


def find(
    shapes: Sequence[tuple[int, ...]],
    values: Callable[[np.ndarray], np.ndarray],
    products: Products,
    points: np.ndarray,
) -> Pattern | None:
    """Finds the pattern of the Hessian of a log density, or None if it has none that is of use.

    Args:
        shapes: the unconstrained shapes of the latent variables, in their order in z.
        values: evaluates the log density at points [R, L].
        products: multiplies the Hessians at points by vectors. It is not called where the values tell enough.
        points: plausible points [M, L] at which the Hessian is finite.
    """
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.cumsum([0, *sizes[:-1]])
    blocks = [
        Block(int(start), shape, int(np.argmax(shape)))
        for start, shape in zip(starts, shapes, strict=True)
        if shape and max(shape) >= _FEWEST_NODES
    ]
    counts = sorted({block.shape[block.axis] for block in blocks}, reverse=True)
    # All of them; or only those of the longest axes, for which those of the others are global, as in crossed groups.
    candidates = [blocks, *([each for each in blocks if each.shape[each.axis] >= least] for least in counts[-2::-1])]
    candidates += [[block] for block in sorted(blocks, key=lambda each: -math.prod(each.shape))]
    dim, generator = sum(sizes), np.random.default_rng(0)
    signs = generator.choice([-1.0, 1.0], size=[2, dim]) * generator.uniform(0.5, 1.0, size=[2, dim])
    tried = []
    for candidate in candidates:
        if candidate in tried or dim - sum(math.prod(each.shape) for each in candidate) > _MAX_GLOBALS:
            continue
        tried.append(candidate)
        if any(_are_coupled(Pattern(candidate, 0, dim), values, point, signs[0]) for point in points):
            continue
        for width in _WIDTHS:
            pattern = Pattern(candidate, width, dim)
            if 2 * len(pattern.mask) > dim or len(pattern.mask) > _MAX_BAND:
                break
            if all(_holds(pattern, products, point, signs) for point in points):
                return pattern
    return None


def _are_coupled(
    pattern: Pattern, values: Callable[[np.ndarray], np.ndarray], point: np.ndarray, move: np.ndarray
) -> bool:
    """Whether the first third of the nodes clearly depends on the last third, by a difference of values."""
    local, moves = pattern.order[pattern.num_globals :], np.zeros([4, pattern.dim])
    third = np.zeros(len(local), int)
    for block in pattern.blocks:
        inside = np.isin(local, places_of(block))
        third[inside] = 3 * (pattern.node[inside] - pattern.node[inside].min()) // block.shape[block.axis]
    moves[[[1], [3]], local[third == 0]] = 0.5 * move[local[third == 0]]
    moves[[[2], [3]], local[third == 2]] = 0.5 * move[local[third == 2]]
    middle, first, last, both = values(point + moves)
    sizes = np.abs([middle, first, last, both])
    return bool(abs(both - first - last + middle) > 1e-5 * sizes.max() + 1e-3)


def _holds(pattern: Pattern, products: Products, point: np.ndarray, vectors: np.ndarray) -> bool:
    """Whether the Hessian between the local variables at a point [L] has a pattern."""
    local = pattern.order[pattern.num_globals :]
    probes = np.zeros((len(pattern.probes) + len(vectors), pattern.dim))
    probes[:, local] = np.concatenate([pattern.probes, vectors[:, local]])
    result = products(np.repeat(point[np.newaxis], len(probes), axis=0), probes)[:, local]
    band = pattern.band(result[: len(pattern.probes)])
    expected, received = multiply(band, vectors[:, local]), result[len(pattern.probes) :]
    sizes = multiply(np.abs(band), np.abs(vectors[:, local])) + np.abs(received)
    return bool(np.all(np.abs(expected - received) <= _TOLERANCE * (sizes + 1e-6 * sizes.max())))


def multiply(band: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Multiplies x [..., N] by the symmetric matrix of a band [W + 1, N]."""
    product = band[0] * x
    for k in range(1, len(band)):
        product[..., k:] += band[k, :-k] * x[..., :-k]
        product[..., :-k] += band[k, :-k] * x[..., k:]
    return product


def places_of(block: Block) -> np.ndarray:
    """The places in z of a local variable, [nodes, columns].

    Args:
        block: the variable.
    """
    places = block.start + np.arange(math.prod(block.shape)).reshape(block.shape)
    return np.moveaxis(places, block.axis, 0).reshape(block.shape[block.axis], -1)
