"""The map of a normal distribution of a few global variables and of many local ones, each local of a few neighbours."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


class ConditionalChain(tfb.Bijector):
    """Maps noise epsilon [..., L] to z [..., L]: first the global variables, then the local ones given these.

        v = loc + T epsilon_global,  z_global = root v
        z_local = R^-T (shift + slope v) + (I + K(v))^-T (exp(-log_precision(v)) epsilon_local)

    T and root are lower triangular, K(v) and R - I lower triangular with zeros on and more than W places below the
    diagonal. So the precision of the local variables given the global ones is (I + K) exp(2 log_precision) (I + K)^T,
    and log_precision and K are linear in v: the conditional scales and correlations depend on the global variables.

    Args:
        parameters: `loc` [G], `tril` [G, G] and `root` [G, G]; `shift` [N], `slope` [N, G], `log_precision` [N] and
            `log_precision_slope` [N, G]; and `band` [W, N], `band_slope` [W, N, G] and `start_band` [W, N], where row k
            and column j hold the element (j, j - k - 1) of K(0), of its derivative and of R.
        order: the places in z of the global variables and then of the local ones, a permutation of 0 ... L - 1.

    Reference: Tan et al. 2020, Conditionally Structured Variational Gaussian Approximation with Importance Weights,
    section 3.
    """

    def __init__(self, parameters: Mapping[str, tf.Tensor], order: np.ndarray) -> None:
        self._given = dict(parameters)
        self._order, self._inverse_order = np.asarray(order, np.int32), np.argsort(order).astype(np.int32)
        self._globals = int(parameters["loc"].shape[0])
        self._width = int(parameters["band"].shape[0])
        super().__init__(forward_min_event_ndims=1, name="conditional_chain")

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        given = self._given
        noise = x[..., self._globals :]
        v = given["loc"] + tf.matmul(_rows(x[..., : self._globals]), given["tril"], transpose_b=True)
        center, log_precision, band = self._conditional(v)
        local = center + _solve(band, tf.exp(-log_precision) * _rows(noise))
        z = tf.concat([tf.matmul(v, given["root"], transpose_b=True), local], axis=-1)
        return tf.reshape(_permute(z, self._inverse_order, self._order), tf.shape(x))

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        return self._noise(y)[0]

    def _forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        given = self._given
        v = given["loc"] + tf.matmul(_rows(x[..., : self._globals]), given["tril"], transpose_b=True)
        return tf.reshape(self._log_det(self._log_precision(v)), tf.shape(x)[:-1])

    def _inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        return tf.reshape(-self._log_det(self._noise(y)[1]), tf.shape(y)[:-1])

    def _noise(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The noise [..., L] that is mapped to y, and the log precisions [S, N] there."""
        given = self._given
        z = _permute(_rows(y), self._order, self._inverse_order)
        v = _solve_rows(given["root"], z[:, : self._globals])
        noise = _solve_rows(given["tril"], v - given["loc"])
        center, log_precision, band = self._conditional(v)
        local = tf.exp(log_precision) * _multiply(band, z[:, self._globals :] - center)
        return tf.reshape(tf.concat([noise, local], axis=-1), tf.shape(y)), log_precision

    def _log_precision(self, v: tf.Tensor) -> tf.Tensor:
        return self._given["log_precision"] + tf.matmul(v, self._given["log_precision_slope"], transpose_b=True)

    def _conditional(self, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The centre and the log precisions [S, N] of the local variables given v [S, G], and the rows of K [S, N]."""
        given = self._given
        center = given["shift"] + tf.matmul(v, given["slope"], transpose_b=True)
        center = _solve([given["start_band"][k] for k in range(self._width)], center)
        band = [given["band"][k] + tf.matmul(v, given["band_slope"][k], transpose_b=True) for k in range(self._width)]
        return center, self._log_precision(v), band

    def _log_det(self, log_precision: tf.Tensor) -> tf.Tensor:
        diagonals = [tf.linalg.diag_part(self._given[name]) for name in ("tril", "root")]
        constant = tf.add_n([tf.reduce_sum(tf.math.log(tf.abs(diagonal))) for diagonal in diagonals])
        return constant - tf.reduce_sum(log_precision, axis=-1)


def _rows(x: tf.Tensor) -> tf.Tensor:
    """Flattens all axes but the last."""
    return tf.reshape(x, [-1, x.shape[-1]])


def _solve_rows(lower: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Solves lower x = row for each of the rows [S, G]."""
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
