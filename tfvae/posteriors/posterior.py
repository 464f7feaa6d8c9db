"""The base classes of all posteriors, and the heads: the layers that compute their parameters."""

import abc
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae.numerics import positive

tfd = tfp.distributions

PACKAGE = "tfvae.posteriors"


class Posterior(keras.layers.Layer, abc.ABC):
    """A family of distributions over the latent space, with the heads that turn features into its parameters.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.

    Attributes:
        support: the space in which z lies, which must be that of the prior: "real", "sphere", or "simplex" with its
            number of categories.
        scales_only: whether the family fits a rescaled z but not a rotated one; variational inference then brings z to
            unit scale but does not decorrelate it.
        is_independent: whether the dimensions of z are independent given x: `distribution` is then a `tfd.Independent`.
        has_density: whether q(z|x) has a density. If it is a point, `distribution` is a `tfd.VectorDeterministic`.
        has_log_prob: whether log q(z|x) can be evaluated at any z, and not only at draws of q(z|x).
        is_fast_by_xla: whether it draws by `tfvae.distributions.normal.Normal`, which is fast under XLA, or not at all;
            with other draws `fit` uses XLA only where `compile` asks for it.
    """

    support = "real"
    scales_only = True
    is_independent = True
    has_density = True
    has_log_prob = True
    is_fast_by_xla = False
    latent_dim: int

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # None until the model gives its own.
        self.latent_dim = latent_dim  # type: ignore[assignment]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of z, (None, L), for `keras.Model.summary`."""
        return (None, self.latent_dim)

    @abc.abstractmethod
    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the parameters.

        Args:
            features: the encoder's output [B, F].

        Returns:
            The parameters by name, each float32 with leading dimension B.
        """

    @abc.abstractmethod
    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.Distribution:
        """Wraps the parameters into q(z|x), with batch shape [B] and event shape [L].

        Args:
            parameters: what `call` returns.
        """

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The z [B, L] that represents q(z|x), as in a reconstruction: its mean, unless a subclass overrides it.

        Args:
            parameters: what `call` returns.
        """
        return self.distribution(parameters).mean()

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """Maps noise epsilon ~ N(0, I) to a sample z [B, L] of q(z|x). Exports need it: noise is their input.

        Args:
            parameters: what `call` returns.
            epsilon: the noise [B, L].

        Raises:
            NotImplementedError: this posterior has no such map.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `sample_from`, which an export needs")

    def sample_and_log_prob_from(
        self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The sample z [B, L] of `sample_from`, and log q(z|x) at that z [B], in nats; None without a density.

        Args:
            parameters: what `call` returns.
            epsilon: the noise [B, L]; None takes the `center`.

        Raises:
            NotImplementedError: this posterior has no such map.
        """
        z = self.center(parameters) if epsilon is None else self.sample_from(parameters, epsilon)
        return z, self.distribution(parameters).log_prob(z)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "latent_dim": self.latent_dim}

    def _head(self, name: str, units: int, input_shape: tuple[int | None, int], **kwargs: Any) -> keras.layers.Dense:
        """Makes a head: linear in the features or, where there are no features (F = 0), a trainable constant."""
        kind = keras.layers.Dense if input_shape[-1] else _Constant
        head = kind(units, dtype=self.dtype_policy, name=name, **kwargs)
        head.build(input_shape)
        return head


class LocationScalePosterior(Posterior):
    """A posterior with the parameters loc and scale, each [B, L].

    Both heads are linear in the features; scale = softplus(raw + log(e - 1)), which is 1 where raw is 0.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, latent_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.loc_head: keras.layers.Layer = None
        self.scale_head: keras.layers.Layer = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads for features [B, F]."""
        self.loc_head = self._head("loc", self.latent_dim, input_shape)
        self.scale_head = self._head("scale", self.latent_dim, input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale`, each float32 [B, L], from features [B, F]."""
        scale = positive(float32(self.scale_head(features)))
        return {"loc": float32(self.loc_head(features)), "scale": scale}

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The location loc [B, L], the mean of q(z|x)."""
        return tf.convert_to_tensor(parameters["loc"])


def known_density(posterior: Posterior) -> str:
    """What is known of a density of q(z|x) that has no `log_prob`, to follow its name in an error message."""
    return "whose density is known at its own draws alone" if posterior.has_density else "which has no density"


class TransformedPosterior(Posterior):
    """A posterior of standard normal noise transformed by a bijector: z = g(epsilon; x), epsilon ~ N(0, I).

    Its `center` is g(0; x), and log q(z|x) at g(epsilon; x) needs no inverse of g:

        log q(z|x) = log N(epsilon | 0, I) - log |det dg / d epsilon|
    """

    scales_only = False
    is_independent = False

    @abc.abstractmethod
    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.TransformedDistribution:
        """Wraps the parameters, `loc` [B, L] among them, into q(z|x), with batch shape [B] and event shape [L].

        Args:
            parameters: what `call` returns.
        """

    def center(self, parameters: dict[str, tf.Tensor]) -> tf.Tensor:
        """The z [B, L] of epsilon = 0: the mean of a normal posterior; the mean of a flow has no closed form."""
        return self.sample_from(parameters, tf.zeros_like(parameters["loc"]))

    def sample_from(self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = g(epsilon) [B, L]."""
        return self.distribution(parameters).bijector.forward(epsilon)

    def sample_and_log_prob_from(
        self, parameters: dict[str, tf.Tensor], epsilon: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The sample z [B, L] of `sample_from`, and log q(z|x) at that z [B]: see `Posterior`."""
        epsilon = tf.zeros_like(parameters["loc"]) if epsilon is None else epsilon
        bijector = self.distribution(parameters).bijector
        log_noise = tfd.Independent(tfd.Normal(tf.zeros_like(epsilon), 1.0), 1).log_prob(epsilon)
        return bijector.forward(epsilon), log_noise - bijector.forward_log_det_jacobian(epsilon, event_ndims=1)


class _Constant(keras.layers.Layer):
    """Stands in for a dense layer without inputs, on which oneDNN aborts: gives each row the same bias [units].

    Args:
        units: the number of outputs.
        bias_initializer: the initializer of the bias.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    def __init__(self, units: int, bias_initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.bias_initializer = bias_initializer

    def build(self, input_shape: tuple[int | None, int]) -> None:
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        return keras.ops.broadcast_to(self.bias, (keras.ops.shape(features)[0], self.units))


def float32(x: tf.Tensor) -> tf.Tensor:
    """Casts the output of a head, which is in half precision under a mixed-precision policy."""
    return keras.ops.cast(x, "float32")
