"""The map of a normal distribution of a few global variables and of many local ones, each local of a few neighbours."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


class ConditionalChain(tfb.Bijector):
    """Maps noise epsilon [..., L] to z [..., L]: first the global variables, then the local ones given these.

        v = loc + T a(epsilon_global),  z_global = root v,  f = (v, sqrt(1 + v^2) - 1)
        z_local = R^-T (shift + slope f) + (I + K(f))^-T (exp(-log_precision(f)) epsilon_local)

    T and root are lower triangular; a, which acts on each element, is the sinh-arcsinh map of Jones & Pewsey 2009,
    moved so that a(0) = 0. K(f) and R - I are lower triangular with zeros on and more than W places below the diagonal.
    So the precision of the local variables given the global ones is (I + K) exp(2 log_precision) (I + K)^T. Its parts,
    as the means, are linear in f: they depend on a global variable in one way below its centre, in another above it.

    Args:
        parameters: `loc`, `skewness` and `log_tailweight` [G], `tril` and `root` [G, G]; `shift` [N], `slope` [N, 2G],
            `log_precision` [N] and `log_precision_slope` [N, 2G]; and `band` [W, N], `band_slope` [W, N, 2G] and
            `start_band` [W, N], where row k and column j hold the element (j, j - k - 1) of K(0), of its derivative and
            of R.
        order: the places in z of the global variables and then of the local ones, a permutation of 0 ... L - 1.

    Reference: Tan et al. 2020, Conditionally Structured Variational Gaussian Approximation with Importance Weights,
    section 3, with functions f that are not linear.
    """

    def __init__(self, parameters: Mapping[str, tf.Tensor], order: np.ndarray) -> None:
        self._given = dict(parameters)
        self._order, self._inverse_order = np.asarray(order, np.int32), np.argsort(order).astype(np.int32)
        self._globals = int(parameters["loc"].shape[0])
        self._width = int(parameters["band"].shape[0])
        super().__init__(forward_min_event_ndims=1, name="conditional_chain")

    def log_prob_of_globals(self, z: tf.Tensor) -> tf.Tensor:
        """The log density [S] of the global variables of z [S, L] alone, in nats, if the noise is normal."""
        noise, _ = self._global_noise(tf.gather(z, self._order[: self._globals], axis=1))
        log_noise = -0.5 * tf.reduce_sum(noise**2, axis=-1) - 0.5 * self._globals * math.log(2.0 * math.pi)
        return log_noise - self._global_log_det(noise)

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        rows = _rows(x)
        v = self._v(rows[:, : self._globals])
        center, log_precision, band = self._conditional(v)
        local = center + _solve(band, tf.exp(-log_precision) * rows[:, self._globals :])
        z = tf.concat([linear(v, self._given["root"]), local], axis=-1)
        return tf.reshape(_permute(z, self._inverse_order, self._order), tf.shape(x))

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.concat(self._noise(y)[:2], axis=-1), tf.shape(y))

    def _forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        noise = _rows(x)[:, : self._globals]
        log_det = self._global_log_det(noise) - tf.reduce_sum(self._log_precision(_features(self._v(noise))), axis=-1)
        return tf.reshape(log_det, tf.shape(x)[:-1])

    def _inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        noise, _, log_precision = self._noise(y)
        log_det = self._global_log_det(noise) - tf.reduce_sum(log_precision, axis=-1)
        return tf.reshape(-log_det, tf.shape(y)[:-1])

    def _v(self, noise: tf.Tensor) -> tf.Tensor:
        skewness, tailweight = self._given["skewness"], tf.exp(self._given["log_tailweight"])
        bent = tf.sinh(tailweight * (tf.asinh(noise) + skewness)) - tf.sinh(tailweight * skewness)
        return self._given["loc"] + linear(bent, self._given["tril"])

    def _global_noise(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The noise [S, G] and v [S, G] of global variables [S, G]."""
        v = _solve_rows(self._given["root"], z)
        skewness, tailweight = self._given["skewness"], tf.exp(self._given["log_tailweight"])
        bent = _solve_rows(self._given["tril"], v - self._given["loc"])
        return tf.sinh(tf.asinh(bent + tf.sinh(tailweight * skewness)) / tailweight - skewness), v

    def _global_log_det(self, noise: tf.Tensor) -> tf.Tensor:
        """The log determinant [S] of the Jacobian of the global variables."""
        log_tailweight = self._given["log_tailweight"]
        argument = tf.exp(log_tailweight) * (tf.asinh(noise) + self._given["skewness"])
        # log cosh, which would overflow.
        size = tf.abs(argument)
        log_cosh = size + tf.math.log1p(tf.exp(-2.0 * size)) - math.log(2.0)
        bent = tf.reduce_sum(log_cosh + log_tailweight - 0.5 * tf.math.log1p(noise**2), axis=-1)
        diagonals = [tf.linalg.diag_part(self._given[name]) for name in ("tril", "root")]
        return bent + tf.add_n([tf.reduce_sum(tf.math.log(diagonal)) for diagonal in diagonals])

    def _noise(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The noise that is mapped to y, global [S, G] and local [S, N], and the log precisions [S, N] there."""
        z = _permute(_rows(y), self._order, self._inverse_order)
        noise, v = self._global_noise(z[:, : self._globals])
        center, log_precision, band = self._conditional(v)
        return noise, tf.exp(log_precision) * _multiply(band, z[:, self._globals :] - center), log_precision

    def _log_precision(self, features: tf.Tensor) -> tf.Tensor:
        slope = self._given["log_precision_slope"]
        return self._given["log_precision"] + linear(features, slope)

    def _conditional(self, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The centre and the log precisions [S, N] of the local variables given v [S, G], and the rows of K [S, N]."""
        given, features = self._given, _features(v)
        center = given["shift"] + linear(features, given["slope"])
        center = _solve([given["start_band"][k] for k in range(self._width)], center)
        band = [given["band"][k] + linear(features, given["band_slope"][k]) for k in range(self._width)]
        return center, self._log_precision(features), band


def _features(v: tf.Tensor) -> tf.Tensor:
    """The functions f [S, 2G] of v [S, G]: see `ConditionalChain`."""
    # The difference of the roots would lose digits near 0.
    return tf.concat([v, v**2 / (1.0 + tf.sqrt(1.0 + v**2))], axis=-1)


def _rows(x: tf.Tensor) -> tf.Tensor:
    """Flattens all axes but the last."""
    return tf.reshape(x, [-1, x.shape[-1]])


def linear(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Multiplies the rows x [S, G] by a matrix [N, G]. Where G or N is 0, oneDNN would abort the process."""
    if 0 in matrix.shape:
        return tf.zeros([tf.shape(x)[0], matrix.shape[0]])
    return tf.matmul(x, matrix, transpose_b=True)


def _solve_rows(lower: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Solves lower x = row for each of the rows [S, G]."""
    if 0 in lower.shape:
        return rows
    return tf.transpose(tf.linalg.triangular_solve(lower, tf.transpose(rows)))


def _permute(x: tf.Tensor, order: np.ndarray, inverse: np.ndarray) -> tf.Tensor:
    """Takes the columns of x [S, L] in an order; the gradient takes them in the inverse order, which is fast."""
    if np.array_equal(order, np.arange(len(order))):
        return x

    def permuted(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.gather(x, order, axis=1), lambda upstream: _permute(upstream, inverse, order)

    return tf.custom_gradient(permuted)(x)


def _multiply(band: list[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Multiplies x [S, N] by (I + K)^T, of which K has the rows [S, N] or [N] below its diagonal."""
    product = x
    for k, row in enumerate(band, 1):
        product += tf.pad((row * x)[:, k:], [[0, 0], [0, k]])
    return product


def _solve(band: list[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Multiplies x [S, N] by (I + K)^-T: see `_multiply`.

    TensorFlow's own gradient with respect to the band takes a product of [N, N] for each of S.
    """
    if not band:
        return x

    def solved(x: tf.Tensor, *band: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        is_shared = band[0].shape.rank == 1
        ones = tf.ones_like(band[0])
        bands = tf.stack([ones, *band], axis=-2)

        def solve(x: tf.Tensor, adjoint: bool) -> tf.Tensor:
            columns = tf.transpose(x) if is_shared else x[..., tf.newaxis]
            solution = tf.linalg.banded_triangular_solve(bands, columns, lower=True, adjoint=adjoint)
            return tf.transpose(solution) if is_shared else solution[..., 0]

        solution = solve(x, True)

        def gradient(upstream: tf.Tensor) -> Any:
            of_x = solve(upstream, False)
            of_band = []
            for k in range(1, len(band) + 1):
                product = -tf.pad(of_x[:, :-k] * solution[:, k:], [[0, 0], [k, 0]])
                of_band.append(tf.reduce_sum(product, axis=0) if is_shared else product)
            return of_x, *of_band

        return solution, gradient

    return tf.custom_gradient(solved)(x, *band)
