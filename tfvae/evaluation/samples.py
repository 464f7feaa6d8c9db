"""How well generated examples stand for real ones, by the features that a network computes of both.

What a distance means depends on the features: compare two models by the same network, and the same numbers of examples.
"""

import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks, chunks
from tfvae.models import parts

# Elements of a matrix of all pairs that are computed at a time.
_PAIRS = 2**22


class FrechetDistance(NamedTuple):
    """The Frechet distance of generated examples.

    Attributes:
        distance: the distance as it is usually reported. It is too large by about a / N + b / M, even for two samples
            of one distribution, so it may only be compared where N and M are the same.
        extrapolated: the distance for infinitely many examples, by the jackknife. It is free of the terms in 1 / N and
            1 / M of the bias, and may be below 0 where the distributions agree.
        standard_error: the standard error of both, by the jackknife; it is too large, by about half, where the
            distributions agree.
    """

    distance: float
    extrapolated: float
    standard_error: float


class KernelDistance(NamedTuple):
    """The kernel distance of generated examples.

    Attributes:
        distance: the squared maximum mean discrepancy, without bias, so that it may be below 0.
        standard_error: its standard error; it is too large, by up to a quarter, where the distributions agree.
    """

    distance: float
    standard_error: float


class PrecisionRecall(NamedTuple):
    """How realistic generated examples are, and how much of the variety of the real ones they have.

    Attributes:
        precision: the share of generated examples that are within the manifold of the real ones.
        recall: the share of real examples that are within the manifold of the generated ones.
        precision_error: the standard error of `precision`.
        recall_error: the standard error of `recall`.
    """

    precision: float
    recall: float
    precision_error: float
    recall_error: float


def features(network: keras.Model, x: Any, *, batch_size: int = 256) -> np.ndarray:
    """Computes the features of examples, such as pictures.

    Args:
        network: a Keras model of x [B, ...] to features [B, F], such as `tfvae.evaluation.digit_features()`, or one of
            `keras.applications` with `include_top=False, pooling="avg"`; in evaluation mode.
        x: the examples [N, ...], in the units of the network.
        batch_size: how many examples are computed at a time.

    Returns:
        The features [N, F].

    Raises:
        ValueError: an argument is invalid, or the features are not finite.
    """
    if not isinstance(network, keras.Model):
        raise ValueError(
            f"`network` must be a Keras model of x [B, ...] to features [B, F]. Received: {checks.shown(network)}"
        )
    if isinstance(x, tf.data.Dataset):
        raise ValueError(
            "`x` must be an array [N, ...], such as np.concatenate(list(dataset.as_numpy_iterator())) of batches. "
            "Received: x of type tf.data.Dataset"
        )
    x = checks.to_numpy(x)
    declared = parts.input_shapes(network)
    if declared is not None and len(declared) == 1:
        checks.check_shape(x, declared[0][1:])
    checks.check_finite(x)
    batch_size = checks.positive_integer("batch_size", batch_size)
    found = []
    for rows in chunks.slices(len(x), batch_size):
        of_batch = keras.ops.convert_to_numpy(network(x[rows], training=False))
        if of_batch.shape[:1] != (rows.stop - rows.start,) or of_batch.ndim != 2:
            raise ValueError(
                "`network` must give features [B, F], one vector for each example. Received: an output of shape "
                f"{list(of_batch.shape)} for x of shape {list(x[rows].shape)}"
            )
        found.append(of_batch)
    result = np.concatenate(found)
    checks.check_finite(result, "network(x)")
    return result


def frechet_distance(real: Any, generated: Any, *, num_groups: int = 20, seed: int = 0) -> FrechetDistance:
    """Computes the Frechet distance between features, the FID where they are those of Inception.

    |m - n|^2 + trace(S + T - 2 (S T)^(1/2)),  m, n the means and S, T the covariances of the features

    It is the squared Wasserstein distance of two normal distributions with these moments. For bias and error the rows
    of both arrays are put at random into groups, of which one at a time is left out.

    Warns if there are no more rows than features: the distance is then mostly bias, which the extrapolation does not
    remove reliably.

    Args:
        real: features of real examples [N, F], as `tfvae.evaluation.features` gives them.
        generated: features of generated examples [M, F].
        num_groups: how many groups of rows are left out in turn; each takes the time of one distance.
        seed: the seed of the groups.

    Returns:
        The distance, in squared units of the features, its extrapolation, and their standard error.

    Raises:
        ValueError: an argument is invalid.

    Reference: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium;
    Chong & Forsyth 2020, Effectively Unbiased FID and Inception Score and Where to Find Them, of the bias; Quenouille
    1956, Notes on Bias in Estimation.
    """
    if checks.positive_integer("num_groups", num_groups) < 2:
        raise ValueError(f"`num_groups` must be at least 2. Received: num_groups={checks.shown(num_groups)}")
    # Whichever group is left out, at least two rows remain, as a covariance needs.
    real, generated = _checked(real, generated, max(num_groups, 4))
    rows, size = min(len(real), len(generated)), real.shape[1]
    if rows <= size:
        warnings.warn(
            f"The Frechet distance of {rows} rows with {size} features is mostly bias: take more rows than features.",
            stacklevel=2,
        )
    generator = np.random.default_rng(checks.seed_number(seed))
    of_real, of_generated = (_Moments(x, num_groups, generator) for x in (real, generated))
    distance = _frechet(*of_real.of_all(), *of_generated.of_all())
    left_out = np.array(
        [_frechet(*of_real.without(group), *of_generated.without(group)) for group in range(num_groups)]
    )
    variance = (num_groups - 1) * left_out.var()
    return FrechetDistance(
        distance, float(num_groups * distance - (num_groups - 1) * left_out.mean()), float(np.sqrt(variance))
    )


def kernel_distance(real: Any, generated: Any) -> KernelDistance:
    """Computes the kernel distance between features, the KID where they are those of Inception.

    E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = (x . y / F + 1)^3,  the means over all pairs of different rows

    The variance is that of a U-statistic: the part that is linear in the rows, and the quadratic part, which alone
    remains where the distributions agree.

    Args:
        real: features of real examples [N, F], as `tfvae.evaluation.features` gives them.
        generated: features of generated examples [M, F].

    Returns:
        The distance and its standard error. Both depend on the scale of the features.

    Raises:
        ValueError: an argument is invalid.

    Reference: Binkowski et al. 2018, Demystifying MMD GANs; Hoeffding 1948, A Class of Statistics with Asymptotically
    Normal Distribution.
    """
    # The quadratic part has N (N - 3) / 2 degrees of freedom.
    real, generated = _checked(real, generated, 4)
    n, m = len(real), len(generated)
    of_real, of_generated = (_Kernel.of_pairs(x, x, distinct=True) for x in (real, generated))
    between = _Kernel.of_pairs(real, generated, distinct=False)
    distance = of_real.mean + of_generated.mean - 2 * between.mean
    # How the distance depends on each row, up to constants.
    linear = 4 * np.var(of_real.by_row - between.by_row, ddof=1) / n
    linear += 4 * np.var(of_generated.by_row - between.by_column, ddof=1) / m
    quadratic = 2 * of_real.interaction / (n * (n - 1)) + 2 * of_generated.interaction / (m * (m - 1))
    quadratic += 4 * between.interaction / (n * m)
    # The means over a finite number of partners add twice the quadratic part to the linear one.
    return KernelDistance(float(distance), float(np.sqrt(max(linear - 2 * quadratic, 0.0) + quadratic)))


def precision_recall(real: Any, generated: Any, *, num_neighbors: int = 3, seed: int = 0) -> PrecisionRecall:
    """Computes precision and recall of features.

    The manifold of a set of rows is the union of a ball around each, out to its k-th nearest neighbour in the set.

    The standard errors are from the shares in ten groups of the rows, drawn at random: the manifolds vary too, so a
    binomial error would be too small. The groups are ten times smaller than the sets, whose shares differ from theirs,
    and ten values tell a standard error to about a quarter of it.

    Args:
        real: features of real examples [N, F], as `tfvae.evaluation.features` gives them.
        generated: features of generated examples [M, F]. The shares depend on N and M.
        num_neighbors: k.
        seed: the seed of the groups.

    Returns:
        The two shares, from 0 to 1, and their standard errors.

    Raises:
        ValueError: an argument is invalid.

    Reference: Kynkaanniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative Models, equations
    1 and 2; Politis & Romano 1994, Large Sample Confidence Regions Based on Subsamples under Minimal Assumptions.
    """
    num_groups = 10
    num_neighbors = checks.positive_integer("num_neighbors", num_neighbors)
    real, generated = _checked(real, generated, num_groups * (num_neighbors + 1))
    center = real.mean(axis=0, dtype=float)
    real, generated = real - center, generated - center
    generator = np.random.default_rng(checks.seed_number(seed))
    splits = zip(_groups(len(real), num_groups, generator), _groups(len(generated), num_groups, generator), strict=True)
    of_groups = [_shares(real[rows], generated[columns], num_neighbors) for rows, columns in splits]
    errors = np.std(of_groups, axis=0, ddof=1) / np.sqrt(num_groups)
    return PrecisionRecall(*_shares(real, generated, num_neighbors), *map(float, errors))


class _Moments:
    """The moments of rows [N, F], of all of them and without one group."""

    def __init__(self, x: np.ndarray, num_groups: int, generator: np.random.Generator) -> None:
        self._x = x
        self._groups = _groups(len(x), num_groups, generator)
        # Products of values far from 0 would lose the digits in which the rows differ.
        self._center = x.mean(axis=0, dtype=float)
        size = x.shape[1]
        self._sum, self._products = np.zeros(size), np.zeros((size, size))
        for rows in self._groups:
            of_group, products = self._sums(rows)
            self._sum += of_group
            self._products += products

    def of_all(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean [F], and R [K, F] whose R^T R is the covariance."""
        return self._of(len(self._x), self._sum, self._products)

    def without(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of all rows but those of a group."""
        rows = self._groups[group]
        of_group, products = self._sums(rows)
        return self._of(len(self._x) - len(rows), self._sum - of_group, self._products - products)

    def _sums(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centered = self._x[rows] - self._center
        return centered.sum(axis=0), centered.T @ centered

    def _of(self, count: int, total: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = total / count
        values, vectors = np.linalg.eigh((products - count * np.outer(mean, mean)) / (count - 1))
        # What is below this is rounding, of either sign.
        kept = values > len(values) * np.finfo(float).eps * max(values[-1], 0.0)
        return self._center + mean, np.sqrt(values[kept])[:, np.newaxis] * vectors[:, kept].T


class _Kernel(NamedTuple):
    """The kernel of all pairs of rows of two sets, or of all pairs of different rows of one.

    Attributes:
        mean: the mean over pairs.
        by_row: the mean over the pairs of each row of the first set [N].
        by_column: the mean over the pairs of each row of the second set [M].
        interaction: the mean square of what is left of the kernel when effects of the two rows are subtracted.
    """

    mean: float
    by_row: np.ndarray
    by_column: np.ndarray
    interaction: float

    @classmethod
    def of_pairs(cls, x: np.ndarray, y: np.ndarray, distinct: bool) -> "_Kernel":
        """The means of the kernel of x [N, F] and y [M, F].

        Args:
            x: the first set.
            y: the second set.
            distinct: leave out the pairs of row i with row i, for a set with itself.
        """
        n, m = len(x), len(y)
        by_row, by_column, squares = np.zeros(n), np.zeros(m), 0.0
        for rows in chunks.slices(n, chunks.rows_within(_PAIRS, m)):
            base = x[rows] @ y.T / x.shape[1] + 1
            values = base * base * base
            if distinct:
                values[np.arange(len(values)), np.arange(rows.start, rows.stop)] = 0
            by_row[rows] = values.sum(axis=1)
            by_column += values.sum(axis=0)
            squares += np.vdot(values, values)
        pairs = n * (m - distinct)
        mean = by_row.sum() / pairs
        by_row, by_column = by_row / (m - distinct), by_column / (n - distinct)
        # The sums of squares that the mean and the effects of the rows explain, by least squares.
        effects = np.sum((by_row - mean) ** 2) * m + np.sum((by_column - mean) ** 2) * n
        if distinct:
            effects *= (n - 1) ** 2 / (n * (n - 2))
        freedom = n * (n - 3) if distinct else (n - 1) * (m - 1)
        return cls(mean, by_row, by_column, max(squares - pairs * mean**2 - effects, 0.0) / freedom)


def _frechet(mean: np.ndarray, root: np.ndarray, other_mean: np.ndarray, other_root: np.ndarray) -> float:
    """The distance from the means [F] and from roots R [K, F] of the covariances R^T R."""
    # The trace of the square root of S T is the sum of the singular values of the product of the roots. These are
    # never negative or complex, whatever the rank, and small ones are not the roots of rounding errors.
    overlap = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    distance = np.sum((mean - other_mean) ** 2) + np.sum(root**2) + np.sum(other_root**2) - 2 * overlap
    return max(float(distance), 0.0)


def _shares(real: np.ndarray, generated: np.ndarray, num_neighbors: int) -> tuple[float, float]:
    """Precision and recall."""
    return _within(generated, real, num_neighbors), _within(real, generated, num_neighbors)


def _within(x: np.ndarray, y: np.ndarray, num_neighbors: int) -> float:
    """The share of the rows x [N, F] that are in the manifold of y [M, F]."""
    radii = np.empty(len(y))
    for rows in chunks.slices(len(y), chunks.rows_within(_PAIRS, len(y))):
        squares = _squared_distances(y[rows], y)
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf
        radii[rows] = np.partition(squares, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
    parts = chunks.slices(len(x), chunks.rows_within(_PAIRS, len(y)))
    count = sum(np.count_nonzero((_squared_distances(x[rows], y) <= radii).any(axis=1)) for rows in parts)
    return float(count / len(x))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The squared distances between rows [N, M]; exactly 0 for equal rows."""
    norms = np.sum(x**2, axis=1)[:, np.newaxis] + np.sum(y**2, axis=1)
    squares = norms - 2 * (x @ y.T)
    squares[squares <= x.shape[1] * np.finfo(float).eps * norms] = 0
    return squares


def _groups(count: int, num_groups: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Numbers of rows in random groups of equal size, or nearly so."""
    return np.array_split(generator.permutation(count), num_groups)


def _checked(real: Any, generated: Any, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    """The features [N, F] and [M, F], as float64.

    Raises:
        ValueError: they are invalid, or have fewer rows than `fewest`.
    """
    arrays = []
    for name, array, letter in (("real", real, "N"), ("generated", generated, "M")):
        array = checks.to_numpy(array, name)
        if array.ndim != 2 or array.shape[1] == 0:
            raise ValueError(
                f"`{name}` must be features of the shape [{letter}, F], as tfvae.evaluation.features(network, x) "
                f"computes them. Received: {name} of shape {list(array.shape)}"
            )
        if len(array) < fewest:
            raise ValueError(f"`{name}` must have at least {fewest} rows. Received: {name} of {len(array)} rows")
        checks.check_finite(array, name)
        arrays.append(array.astype(float))
    if len({array.shape[1] for array in arrays}) > 1:
        raise ValueError(
            "`real` and `generated` must have the same features. Received: "
            + " and ".join(f"{array.shape[1]} columns" for array in arrays)
        )
    if not np.ptp(arrays[0], axis=0).any():
        raise ValueError(
            "`real` must vary; does the network get pictures in its own units? Received: real with the same row "
            f"{len(arrays[0])} times"
        )
    return arrays[0], arrays[1]
