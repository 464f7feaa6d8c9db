"""Normal distributions with correlated dimensions, by roots of the covariance that TFLite can multiply by too."""

import abc

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class CovarianceRoot(tf.linalg.LinearOperator, abc.ABC):
    """A matrix T [..., L, L] that stands for the covariance T T^T."""

    @abc.abstractmethod
    def variance(self) -> tf.Tensor:
        """The diagonal of T T^T [..., L]."""


class TriangularRoot(CovarianceRoot):
    """A lower triangular matrix T. TensorFlow's own operator reads the diagonal by an op that TFLite lacks.

    Args:
        scale_tril: T [..., L, L], with zeros above the diagonal.
    """

    def __init__(self, scale_tril: tf.Tensor) -> None:
        parameters = {"scale_tril": scale_tril}
        self.scale_tril = tf.convert_to_tensor(scale_tril)
        super().__init__(self.scale_tril.dtype, is_non_singular=True, is_square=True, parameters=parameters)

    def variance(self) -> tf.Tensor:
        """The diagonal of T T^T [..., L]."""
        return tf.reduce_sum(self.scale_tril**2, axis=-1)

    def _shape(self) -> tf.TensorShape:
        return self.scale_tril.shape

    def _shape_tensor(self) -> tf.Tensor:
        return tf.shape(self.scale_tril)

    def _matmul(self, x: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        return tf.matmul(self.scale_tril, x, transpose_a=adjoint, transpose_b=adjoint_arg)

    def _solve(self, rhs: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        rhs = tf.linalg.adjoint(rhs) if adjoint_arg else rhs
        return tf.linalg.triangular_solve(self.scale_tril, rhs, adjoint=adjoint)

    def _log_abs_determinant(self) -> tf.Tensor:
        diagonal = tf.reduce_sum(self.scale_tril * tf.eye(self.scale_tril.shape[-1]), axis=-1)
        return tf.reduce_sum(tf.math.log(diagonal), axis=-1)


class LowRankRoot(CovarianceRoot):
    """A matrix T [..., L, L] with T T^T = diag(scale^2) + V V^T, in O(L rank^2), without Cholesky and solves.

    T = diag(scale) A_1 ... A_rank, where A_k is the symmetric root of I + w_k w_k^T and w_k the column k of
    diag(1 / scale) V, multiplied by the inverses of A_1 ... A_(k-1). With r = sqrt(1 + |w|^2):

        A = I + w w^T / (1 + r),  A^-1 = I - w w^T / (r (1 + r)),  det A = r

    Args:
        scale: [..., L], positive.
        factor: V [..., L, rank].
    """

    def __init__(self, scale: tf.Tensor, factor: tf.Tensor) -> None:
        parameters = {"scale": scale, "factor": factor}
        self.scale = tf.convert_to_tensor(scale)[..., tf.newaxis]
        self.factor = tf.convert_to_tensor(factor)
        super().__init__(self.scale.dtype, is_non_singular=True, is_square=True, parameters=parameters)
        # Pairs of w [..., L, 1] and r [..., 1, 1].
        self.updates = []
        columns = self.factor / self.scale
        for _ in range(factor.shape[-1]):
            w, columns = columns[..., :1], columns[..., 1:]
            r = tf.sqrt(1 + tf.reduce_sum(w**2, axis=-2, keepdims=True))
            self.updates.append((w, r))
            columns = _inverse_update(w, r, columns)

    def variance(self) -> tf.Tensor:
        """The diagonal of T T^T [..., L]."""
        return self.scale[..., 0] ** 2 + tf.reduce_sum(self.factor**2, axis=-1)

    def _shape(self) -> tf.TensorShape:
        return self.scale.shape[:-1].concatenate(self.scale.shape[-2:-1])

    def _shape_tensor(self) -> tf.Tensor:
        shape = tf.shape(self.scale)
        return tf.concat([shape[:-1], shape[-2:-1]], axis=0)

    def _matmul(self, x: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        x = tf.linalg.adjoint(x) if adjoint_arg else x
        x = self.scale * x if adjoint else x
        for w, r in self.updates if adjoint else reversed(self.updates):
            x += w * tf.reduce_sum(w * x, axis=-2, keepdims=True) / (1 + r)
        return x if adjoint else self.scale * x

    def _solve(self, rhs: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        rhs = tf.linalg.adjoint(rhs) if adjoint_arg else rhs
        rhs = rhs if adjoint else rhs / self.scale
        for w, r in reversed(self.updates) if adjoint else self.updates:
            rhs = _inverse_update(w, r, rhs)
        return rhs / self.scale if adjoint else rhs

    def _log_abs_determinant(self) -> tf.Tensor:
        log_roots = tf.add_n([tf.math.log(r[..., 0, 0]) for _, r in self.updates])
        return tf.reduce_sum(tf.math.log(self.scale[..., 0]), axis=-1) + log_roots


def _inverse_update(w: tf.Tensor, r: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Multiplies x [..., L, N] by A^-1: see `LowRankRoot`."""
    return x - w * tf.reduce_sum(w * x, axis=-2, keepdims=True) / (r * (1 + r))


class CorrelatedNormal(tfd.MultivariateNormalLinearOperator):
    """N(z | loc, T T^T), T a `CovarianceRoot`. Its KL divergence from independent normals has a closed form, below."""


@tfd.RegisterKL(CorrelatedNormal, tfd.Independent)
def _kl_from_independent_normals(q: CorrelatedNormal, p: tfd.Independent, name: str | None = None) -> tf.Tensor:
    """KL(q || p) = 1/2 sum_l ((T T^T)_ll / s_l^2 + (loc_l - m_l)^2 / s_l^2 - 1 + log s_l^2) - log det T, in nats.

    p is N(m, diag(s^2)).

    Raises:
        NotImplementedError: p is not a product of normal distributions.
    """
    if not isinstance(p.distribution, tfd.Normal) or p.event_shape.rank != 1:
        raise NotImplementedError("the KL divergence has a closed form from independent normal distributions only")
    m, s = p.distribution.loc, p.distribution.scale
    terms = (q.scale.variance() + (q.loc - m) ** 2) / s**2 - 1 + 2 * tf.math.log(s)
    return tf.reduce_sum(terms, axis=-1) / 2 - q.scale.log_abs_determinant()
