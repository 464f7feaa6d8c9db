"""Normalizing flows: invertible functions of noise, with their networks, for posteriors and priors alike."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

# The diagonals of a Sylvester flow stay below this: at 1 a flow may collapse a direction in float32.
_MAX_DIAGONAL = 0.99
# Scales of a coupling whose halves are mixed are between exp(-3) and exp(3).
_MAX_LOG_SCALE = 3.0


def check_latent_dim(flow: str, latent_dim: int) -> None:
    """Raises ValueError if z has one dimension, which has no other to depend on.

    Args:
        flow: the name of the flow's class, for the message.
        latent_dim: L.
    """
    if latent_dim < 2:
        raise ValueError(
            f"`latent_dim` must be at least 2 for {flow}; for 1 take a normal distribution or a SylvesterFlow. "
            f"Received: latent_dim={latent_dim}"
        )


def coupling_networks(latent_dim: int, num_couplings: int, hidden: int, num_features: int) -> list[keras.Model]:
    """Makes the networks, with one hidden layer each, of a flow of couplings that starts as the identity.

    Args:
        latent_dim: L.
        num_couplings: the number of couplings.
        hidden: units of the hidden layer.
        num_features: F, the number of features that a network reads besides the half of z that its coupling keeps.
    """
    kept = latent_dim // 2
    networks = []
    for index in range(num_couplings):
        network = keras.Sequential(
            [
                keras.layers.Dense(hidden, activation="tanh", dtype="float32"),
                keras.layers.Dense(2 * (latent_dim - kept), kernel_initializer="zeros", dtype="float32"),
            ],
            name=f"coupling_{index}",
        )
        network.build((None, kept + num_features))
        networks.append(network)
    return networks


def couplings(
    networks: list[keras.Model], latent_dim: int, features: tf.Tensor | None = None, *, mixed: bool = False
) -> list[tfb.Bijector]:
    """Makes affine couplings; the half of the input that is kept alternates from one to the next.

    Args:
        networks: those of `coupling_networks`, one for each coupling.
        latent_dim: L.
        features: [B, F], or None if the networks read no features.
        mixed: whether each pair of couplings divides the dimensions into other halves, and whether each scale may be
            between exp(-3) and exp(3); otherwise it is between 1/e and e.

    Reference: Dinh et al. 2017, Density Estimation Using Real NVP, equations 7 and 8.
    """
    kept = latent_dim // 2
    bound = _MAX_LOG_SCALE if mixed else 1.0
    chain: list[tfb.Bijector] = []
    for index, network in enumerate(networks):
        order = np.random.default_rng(index // 2).permutation(latent_dim)
        if mixed and index % 2 == 0:
            chain.append(Reorder(order))
        # A negative number keeps the last dimensions, a positive one the first.
        shift_and_log_scale = functools.partial(_shift_and_log_scale, network, features, bound)
        chain.append(tfb.RealNVP(kept if index % 2 == 0 else -kept, shift_and_log_scale_fn=shift_and_log_scale))
        if mixed and (index % 2 == 1 or index == len(networks) - 1):
            chain.append(Reorder(np.argsort(order)))
    return chain


class Reorder(tfb.Bijector):
    """The map from u [..., L] to its dimensions in another order.

    It stands in for `Permute` of TFP, which computes the inverse order by an op that TFLite lacks.

    Args:
        order: the dimension of u at each place of the result [L].
    """

    def __init__(self, order: np.ndarray) -> None:
        self.order, self.inverse_order = order.astype(np.int32), np.argsort(order).astype(np.int32)
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            parameters={"order": tuple(order.tolist())},
            name="reorder",
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        # No parameter has a batch shape: the batch shape is that of the noise.
        return {}

    def _forward(self, u: tf.Tensor) -> tf.Tensor:
        return tf.gather(u, self.order, axis=-1)

    def _inverse(self, z: tf.Tensor) -> tf.Tensor:
        return tf.gather(z, self.inverse_order, axis=-1)

    def _forward_log_det_jacobian(self, u: tf.Tensor) -> tf.Tensor:
        return tf.zeros([], u.dtype)


class Affine(tfb.Bijector):
    """The map loc + scale u, with log |det| = sum_l log scale_l.

    It stands in for `Scale` of TFP, from whose graph TFLite drops this sum where loc and scale are constants.

    Args:
        loc: [B, L].
        scale: [B, L], positive.
    """

    def __init__(self, loc: tf.Tensor, scale: tf.Tensor) -> None:
        self.loc, self.scale = loc, scale
        parameters = {"loc": loc, "scale": scale}
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name="affine")

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        # No parameter has a batch shape: the batch shape is that of the noise.
        return {}

    def _forward(self, u: tf.Tensor) -> tf.Tensor:
        return self.loc + self.scale * u

    def _inverse(self, z: tf.Tensor) -> tf.Tensor:
        return (z - self.loc) / self.scale

    def _forward_log_det_jacobian(self, u: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.math.log(self.scale), axis=-1)


class MaskedDense(keras.layers.Dense):
    """A dense layer without the connections where a mask is 0.

    Args:
        mask: [inputs, units].
        kwargs: the arguments of `keras.layers.Dense`.
    """

    def __init__(self, mask: np.ndarray, **kwargs: Any) -> None:
        super().__init__(mask.shape[1], **kwargs)
        self.mask = mask.astype("float32")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Computes activation(inputs (kernel * mask) + bias) [B, units]."""
        return self.activation(tf.matmul(inputs, self.kernel * self.mask) + self.bias)


def autoregressive_networks(latent_dim: int, num_flows: int, hidden: int, num_features: int) -> list[keras.Model]:
    """Makes networks whose outputs for a dimension of z depend on the dimensions before it and on all features.

    The order of the dimensions is reversed from one network to the next.

    Args:
        latent_dim: L.
        num_flows: the number of networks.
        hidden: units of the one hidden layer of each; L or more, so that no connection is lost.
        num_features: F, the number of features that a network reads besides z.

    Reference: Germain et al. 2015, MADE: Masked Autoencoder for Distribution Estimation, equations 12 and 13.
    """
    # A unit of degree d sees the first d dimensions of z; features have degree 0.
    units = np.arange(hidden) % latent_dim
    networks = []
    for index in range(num_flows):
        order = np.arange(1, latent_dim + 1)[:: -1 if index % 2 else 1]
        inputs = np.concatenate([order, np.zeros(num_features)])
        outputs = np.tile(order, 2)
        first, last = inputs[:, np.newaxis] <= units, units[:, np.newaxis] < outputs
        network = keras.Sequential(
            [
                MaskedDense(first, activation="tanh", dtype="float32"),
                MaskedDense(last, kernel_initializer="zeros", dtype="float32"),
            ],
            name=f"autoregressive_{index}",
        )
        network.build((None, latent_dim + num_features))
        networks.append(network)
    return networks


class InverseAutoregressive(tfb.Bijector):
    """The map from u to m(u) + s(u) u, where m and s of a dimension depend on the dimensions before it.

        log |det| = sum_l log s_l(u)

    The inverse is the fixed point of u = (z - m(u)) / s(u), which L steps reach exactly, one dimension at a time. Its
    gradient is that of an implicit function, by L steps too: XLA cannot differentiate a loop where B is not known.

    Args:
        network: one of `autoregressive_networks`.
        features: [B, F].

    Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, section 3.
    """

    def __init__(self, network: keras.Model, features: tf.Tensor) -> None:
        # A new object each time: TFP caches the values of bijectors by their parameters, and would give old values
        # once the weights of the network have changed.
        self.shift_and_log_scale = functools.partial(_shift_and_log_scale, network, features, 1.0)
        parameters = {"shift_and_log_scale": self.shift_and_log_scale}
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name="inverse_autoregressive")

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        # No parameter has a batch shape: the batch shape is that of the noise.
        return {}

    def _forward(self, u: tf.Tensor) -> tf.Tensor:
        shift, log_scale = self.shift_and_log_scale(u)
        return shift + tf.exp(log_scale) * u

    def _forward_log_det_jacobian(self, u: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self.shift_and_log_scale(u)[1], axis=-1)

    def _inverse(self, z: tf.Tensor) -> tf.Tensor:
        def step(u: tf.Tensor) -> tf.Tensor:
            shift, log_scale = self.shift_and_log_scale(u)
            return (z - shift) * tf.exp(-log_scale)

        def repeat(function: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor) -> tf.Tensor:
            loop = tf.while_loop(lambda _: True, lambda u: (function(u),), (start,), maximum_iterations=z.shape[-1])
            return loop[0]

        fixed = tf.stop_gradient(repeat(lambda u: tf.stop_gradient(step(u)), tf.zeros_like(z)))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # Applies the sum over k of ((d step / du)^T)^k, whose terms vanish from k = L on: the matrix is triangular.
            def add(total: tf.Tensor) -> tf.Tensor:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(fixed)
                    stepped = step(fixed)
                return upstream + tape.gradient(stepped, fixed, output_gradients=total)

            return repeat(add, upstream)

        return tf.custom_gradient(lambda u: (tf.identity(u), gradient))(step(fixed))


def _shift_and_log_scale(
    network: keras.Model, features: tf.Tensor | None, bound: float, z: tf.Tensor, *_: Any, **kwargs: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """The shift and log scale [..., B, units] of the dimensions a flow changes, from those it reads [..., B, K]."""
    leading = tf.shape(z)[:-1]
    if features is not None:
        features = tf.broadcast_to(features, tf.concat([leading, tf.shape(features)[-1:]], axis=0))
        z = tf.concat([z, features], axis=-1)
    # A Keras network takes only one batch axis.
    outputs = network(tf.reshape(z, [-1, z.shape[-1]]))
    outputs = tf.reshape(outputs, tf.concat([leading, tf.shape(outputs)[-1:]], axis=0))
    shift, log_scale = tf.split(outputs, 2, axis=-1)
    # Scales between exp(-bound) and exp(bound), so that several flows do not carry a draw far from all others.
    return shift, bound * tf.tanh(log_scale / bound)


class Sylvester(tfb.Bijector):
    """The map from z to z + P R tanh(R~ P^T z + b), R and R~ upper triangular, P the identity or the reversed order.

        log |det| = sum_l log(1 + tanh'(R~ P^T z + b)_l R_ll R~_ll)

    It can be inverted, because |R_ll R~_ll| < 1, but not in closed form.

    Args:
        raw: [B, L, L + 2]. The first L columns hold R above the diagonal and the transpose of R~ below it; the diagonal
            and the next column hold the diagonals of R and R~, before a tanh; the last column holds b. All zeros make
            the identity.
        is_reversed: whether P reverses the order.

    Reference: van den Berg et al. 2018, Sylvester Normalizing Flows for Variational Inference, section 3:
    triangular Sylvester flows.
    """

    def __init__(self, raw: tf.Tensor, is_reversed: bool) -> None:
        parameters = {"raw": raw, "is_reversed": is_reversed}
        self.is_reversed = is_reversed
        matrix, self.bias = raw[..., :-2], raw[..., -1]
        identity = tf.eye(matrix.shape[-1])
        self.diagonals = (
            _MAX_DIAGONAL * tf.tanh(tf.reduce_sum(matrix * identity, axis=-1)),
            # Shifted by 1, because at R = R~ = 0 the gradient of both would be 0.
            _MAX_DIAGONAL * tf.tanh(raw[..., -2] + 1),
        )
        halves = matrix, tf.linalg.matrix_transpose(matrix)
        above = tf.linalg.band_part(tf.ones_like(identity), 0, -1) - identity
        self.matrices = [
            half * above + diagonal[..., tf.newaxis] * identity
            for half, diagonal in zip(halves, self.diagonals, strict=True)
        ]
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name="sylvester")

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        # No parameter has a batch shape: the batch shape is that of the noise.
        return {}

    def _forward(self, z: tf.Tensor) -> tf.Tensor:
        return z + self._order(tf.linalg.matvec(self.matrices[0], tf.tanh(self._inner(z))))

    def _forward_log_det_jacobian(self, z: tf.Tensor) -> tf.Tensor:
        slope = 1 - tf.tanh(self._inner(z)) ** 2
        return tf.reduce_sum(tf.math.log1p(slope * self.diagonals[0] * self.diagonals[1]), axis=-1)

    def _inverse(self, z: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError(
            "A SylvesterFlow has no inverse in closed form, so log q(z|x) can be evaluated at its own draws alone: "
            "objectives with path gradients (sticking_the_landing, doubly_reparameterized), and whatever else needs it "
            "at other z, need another posterior, such as CouplingFlow or InverseAutoregressiveFlow"
        )

    def _inner(self, z: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matvec(self.matrices[1], self._order(z)) + self.bias

    def _order(self, z: tf.Tensor) -> tf.Tensor:
        return tf.reverse(z, axis=[-1]) if self.is_reversed else z
