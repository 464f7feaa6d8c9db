"""Posteriors q(z|x), amortised: a layer turns the encoder's features into the parameters of a distribution.

`posterior(features)` gives the parameters as a dictionary of tensors [B, L]; `posterior.distribution(parameters)` wraps
them. Two steps, because a Keras layer can hand on tensors but not a distribution.
"""

import abc
import functools
import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.numerics import LowRankRoot, softplus

tfb = tfp.bijectors
tfd = tfp.distributions

PACKAGE = "tfvae.posteriors"

# A softplus that underflows to 0 would make log q(z|x) infinite.
_MIN_SCALE = 1e-6


class Posterior(keras.layers.Layer, abc.ABC):
    """A family of distributions over the latent space, with the heads that turn features into its parameters.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        scales_only: whether the family changes when z is rotated: then z may be rescaled for it, but not decorrelated.
    """

    scales_only = True

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.latent_dim = latent_dim

    @abc.abstractmethod
    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the parameters.

        Args:
            features: what the encoder gives [B, F].

        Returns:
            The parameters by name, each float32 with leading dimension B.
        """

    @abc.abstractmethod
    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """Wraps the parameters into q(z|x), with batch shape [B] and event shape [L].

        Args:
            parameters: what `call` gives.
        """

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The one z [B, L] that stands for q(z|x), as in a reconstruction: its mean, unless a family says otherwise.

        Args:
            parameters: what `call` gives.
        """
        return self.distribution(parameters).mean()

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] of q(z|x) that noise epsilon ~ N(0, I) stands for; what is exported needs it.

        Args:
            parameters: what `call` gives.
            epsilon: the noise [B, L].

        Raises:
            NotImplementedError: a sample of this posterior is no function of such noise.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `sample_from`, which an export needs")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}

    def _head(self, name: str, units: int, input_shape: tuple[int | None, ...], **kwargs: Any) -> keras.layers.Dense:
        """A head: linear in the features or, where there are none, F = 0, a weight alone."""
        kind = keras.layers.Dense if input_shape[-1] else _Constant
        head = kind(units, dtype=self.dtype_policy, name=name, **kwargs)
        head.build(input_shape)
        return head


@keras.saving.register_keras_serializable(PACKAGE)
class DiagonalNormal(Posterior):
    """The posterior q(z|x) = N(z | loc(x), diag(scale(x)^2)), reparameterised: z = loc + scale * eps, eps ~ N(0, I).

    Both heads are linear in the features; scale = softplus(raw + log(e - 1)), which is 1 where raw is 0.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2013, equation 9.
    """

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.loc_head = None
        self.scale_head = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_head = self._head("scale", self.latent_dim, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale`, each float32 [B, L], from features [B, F]."""
        scale = _positive(_float32(self.scale_head(features)))
        return {"loc": _float32(self.loc_head(features)), "scale": scale}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return tfd.Independent(tfd.Normal(parameters["loc"], parameters["scale"]), 1)

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * epsilon [B, L]."""
        return parameters["loc"] + parameters["scale"] * epsilon


@keras.saving.register_keras_serializable(PACKAGE)
class FullCovarianceNormal(Posterior):
    """The posterior q(z|x) = N(z | loc(x), T(x) T(x)^T), T lower triangular: z = loc + T eps, eps ~ N(0, I).

    The heads are linear in the features; T is the identity where its head gives 0.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Reference: Kingma & Welling 2019, An Introduction to Variational Autoencoders, section 2.5.1.
    """

    scales_only = False

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.loc_head = None
        self.scale_tril_head = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_tril_head = self._head("scale_tril", self.latent_dim * (self.latent_dim + 1) // 2, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` [B, L] and `scale_tril` [B, L, L], the matrix T, float32, from features [B, F]."""
        raw = tfp.math.fill_triangular(_float32(self.scale_tril_head(features)))
        # XLA cannot compile the gradient of `set_diag` where B is not known.
        below = raw * (1 - tf.eye(self.latent_dim))
        scale_tril = below + tf.linalg.diag(_positive(tf.linalg.diag_part(raw)))
        return {"loc": _float32(self.loc_head(features)), "scale_tril": scale_tril}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return tfd.MultivariateNormalTriL(parameters["loc"], parameters["scale_tril"])

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + T epsilon [B, L]."""
        return parameters["loc"] + tf.linalg.matvec(parameters["scale_tril"], epsilon)


@keras.saving.register_keras_serializable(PACKAGE)
class LowRankNormal(Posterior):
    """The posterior q(z|x) = N(z | loc(x), diag(scale(x)^2) + V(x) V(x)^T) with V [L, rank], for a large L.

    The heads are linear in the features. V starts small and random: at 0 its gradient would be 0.

    Args:
        latent_dim: L, or None to take the model's.
        rank: the number of columns of V, at least 1.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `rank` is out of its range.

    Reference: Ong et al. 2018, Gaussian Variational Approximation with a Factor Covariance Structure, section 3.
    """

    scales_only = False

    def __init__(self, latent_dim: int | None = None, rank: int = 5, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.rank = checks.positive_integer("rank", rank)
        self.loc_head = None
        self.scale_head = None
        self.factor_head = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_head = self._head("scale", self.latent_dim, input_shape)
        small = keras.initializers.RandomNormal(stddev=0.1)
        self.factor_head = self._head("factor", self.latent_dim * self.rank, input_shape, bias_initializer=small)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale` [B, L] and `factor` [B, L, rank], float32, from features [B, F]."""
        factor = tf.reshape(_float32(self.factor_head(features)), [-1, self.latent_dim, self.rank])
        scale = _positive(_float32(self.scale_head(features)))
        return {"loc": _float32(self.loc_head(features)), "scale": scale, "factor": factor}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        return tfd.MultivariateNormalLinearOperator(
            parameters["loc"], LowRankRoot(parameters["scale"], parameters["factor"])
        )

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] = loc + T epsilon, where T T^T is the covariance."""
        return parameters["loc"] + LowRankRoot(parameters["scale"], parameters["factor"]).matvec(epsilon)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "rank": self.rank}


@keras.saving.register_keras_serializable(PACKAGE)
class CouplingFlow(Posterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a flow of affine couplings.

    Each coupling leaves half of its input as it is and shifts and scales the other half by functions of that half and
    of the features: networks with one hidden layer. f is the identity at the start.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        num_couplings: how many couplings follow each other, which leave the halves in turn.
        hidden: units of the hidden layer of each network.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Dinh et al. 2017, Density Estimation Using Real NVP, equations 7 and 8; Rezende & Mohamed 2015,
    Variational Inference with Normalizing Flows, section 3.
    """

    scales_only = False

    def __init__(self, latent_dim: int | None = None, num_couplings: int = 6, hidden: int = 32, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_couplings = checks.positive_integer("num_couplings", num_couplings)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.loc_head = None
        self.scale_head = None
        self.networks = []

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the heads and the networks for features [B, F]."""
        if self.latent_dim < 2:
            raise ValueError(
                "`latent_dim` must be at least 2 for a CouplingFlow; FullCovarianceNormal takes 1. Received: "
                f"latent_dim={self.latent_dim}"
            )
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_head = self._head("scale", self.latent_dim, input_shape)
        kept = self.latent_dim // 2
        for index in range(self.num_couplings):
            network = keras.Sequential(
                [
                    keras.layers.Dense(self.hidden, activation="tanh", dtype="float32"),
                    keras.layers.Dense(2 * (self.latent_dim - kept), kernel_initializer="zeros", dtype="float32"),
                ],
                name=f"coupling_{index}",
            )
            network.build((None, kept + input_shape[-1]))
            self.networks.append(network)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale` [B, L], and `features` [B, F] for the couplings, float32, from features [B, F]."""
        return {
            "loc": _float32(self.loc_head(features)),
            "scale": _positive(_float32(self.scale_head(features))),
            "features": _float32(features),
        }

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        base = tfd.Independent(tfd.Normal(tf.zeros_like(parameters["loc"]), 1.0), 1)
        return tfd.TransformedDistribution(base, self._flow(parameters))

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The sample z [B, L] of epsilon = 0, the median of the noise: the mean has no closed form."""
        return self.sample_from(parameters, tf.zeros_like(parameters["loc"]))

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * f(epsilon) [B, L]."""
        return self._flow(parameters).forward(epsilon)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_couplings": self.num_couplings, "hidden": self.hidden}

    def _flow(self, parameters: dict[str, tf.Tensor]) -> tfb.Bijector:
        kept = self.latent_dim // 2
        couplings = [
            # A negative number keeps the last ones.
            tfb.RealNVP(
                num_masked=kept if index % 2 == 0 else -kept,
                shift_and_log_scale_fn=functools.partial(_shift_and_log_scale, network, parameters["features"]),
            )
            for index, network in enumerate(self.networks)
        ]
        return tfb.Chain([tfb.Shift(parameters["loc"]), tfb.Scale(parameters["scale"]), *couplings])


class _Constant(keras.layers.Layer):
    """A dense layer of no features, which oneDNN aborts on: a bias [units] for each row.

    Args:
        units: the number of outputs.
        bias_initializer: of the bias.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, units: int, bias_initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.bias_initializer = bias_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return keras.ops.broadcast_to(self.bias, (keras.ops.shape(features)[0], self.units))


def _shift_and_log_scale(
    network: keras.Model, features: tf.Tensor, kept: tf.Tensor, _: int, **kwargs: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """What a coupling does to the half of z that it changes [..., B, L - L // 2], from the half that it keeps."""
    leading = tf.shape(kept)[:-1]
    features = tf.broadcast_to(features, tf.concat([leading, tf.shape(features)[-1:]], axis=0))
    inputs = tf.concat([kept, features], axis=-1)
    # A Keras network takes one batch axis.
    outputs = network(tf.reshape(inputs, [-1, inputs.shape[-1]]))
    outputs = tf.reshape(outputs, tf.concat([leading, tf.shape(outputs)[-1:]], axis=0))
    shift, log_scale = tf.split(outputs, 2, axis=-1)
    # Scales between 1/e and e, so that no draw is far from all others after several couplings.
    return shift, tf.tanh(log_scale)


def _float32(x: tf.Tensor) -> tf.Tensor:
    return keras.ops.cast(x, "float32")


def _positive(raw: tf.Tensor) -> tf.Tensor:
    """Turns a head's output into scales: 1 where it is 0."""
    return softplus(raw + math.log(math.e - 1)) + _MIN_SCALE
