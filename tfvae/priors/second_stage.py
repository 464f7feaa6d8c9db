"""The prior by a second variational autoencoder, of the latent variables of the first."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.numerics import positive
from tfvae.priors.prior import PACKAGE, Prior

tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class SecondStage(Prior):
    """The prior of a second variational autoencoder: p(z) = E[p(z|u)], u ~ N(0, I), whose encoder is q(u|z).

    z = loc + scale * y,  p(y|u) and q(u|z) normal with independent dimensions, by networks with two hidden layers

    log p(z) has no closed form. Its density is computed at one draw of u ~ q(u|z), as

        log p(z|u) + log p(u) - log q(u|z),

    whose mean over u is a lower bound on log p(z), and the mean of whose exponential is p(z). So the bound of a model
    with this prior is still a lower bound on log p(x), now over z and u, and so is each estimate of `log_likelihood` on
    average, which importance weights of z and u together tighten. The draw of u is a function of the first numbers of
    z, so that the same z give the same density; in `score` and in exports it is given by noise: there epsilon has
    `noise_dim` more columns than z, after those of z. Only a `tfvae.VAE` takes this prior.

    Args:
        latent_dim: L, or None to take the model's.
        second_dim: the dimension of u; None means L.
        hidden: units of each of the two hidden layers of each network.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Dai & Wipf 2019, Diagnosing and Enhancing VAE Models, section 4.
    """

    is_independent = False

    def __init__(
        self, latent_dim: int | None = None, second_dim: int | None = None, hidden: int = 256, **kwargs: Any
    ) -> None:
        super().__init__(latent_dim, **kwargs)
        self.second_dim = None if second_dim is None else checks.positive_integer("second_dim", second_dim)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.encoder: keras.Model = None
        self.decoder: keras.Model = None
        self._loc: keras.Variable = None
        self._raw_scale: keras.Variable = None

    @property
    def noise_dim(self) -> int:
        """The dimension of u."""
        return self.second_dim or self.latent_dim

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the networks, and the variables of loc and scale."""
        arguments = {"shape": (self.latent_dim,), "initializer": "zeros", "dtype": "float32", "autocast": False}
        self._loc = self.add_weight(name="loc", **arguments)
        self._raw_scale = self.add_weight(name="raw_scale", **arguments)
        self.encoder = self._network("encoder", self.latent_dim, 2 * self.noise_dim)
        # p(z|u) starts as N(0, I) for any u, and q(u|z) not for any z: otherwise neither would follow the other.
        self.decoder = self._network("decoder", self.noise_dim, 2 * self.latent_dim, kernel_initializer="zeros")

    def _network(self, name: str, inputs: int, outputs: int, **arguments: Any) -> keras.Model:
        hidden = [keras.layers.Dense(self.hidden, activation="silu", dtype="float32") for _ in range(2)]
        network = keras.Sequential([*hidden, keras.layers.Dense(outputs, dtype="float32", **arguments)], name=name)
        network.build((None, inputs))
        return network

    def start_near(self, loc: tf.Tensor, raw_scale: tf.Tensor) -> None:
        """Sets loc and the raw scale [L]: see `Prior.start_near`."""
        self._loc.assign(loc)
        self._raw_scale.assign(raw_scale)

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L], whose log-density is at one draw of u."""
        return _Marginal(self)

    def distribution_from(self, noise: tf.Tensor) -> tfd.Distribution:
        """p(z) whose log-density is at the u made from noise [B, M]: see `Prior`."""
        return _Marginal(self, noise)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z [B, L] for noise epsilon [B, L + M], of which the last M columns are u."""
        noise, u = tf.split(epsilon, [self.latent_dim, self.noise_dim], axis=-1)
        loc, scale = self._of_z(u)
        return loc + scale * noise

    def log_prob_at(self, z: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Computes log p(z|u) + log p(u) - log q(u|z) [B], in nats.

        Args:
            z: the latent variables [B, L].
            noise: the noise [B, M], from which u ~ q(u|z) is computed.
        """
        loc, raw = tf.split(self.encoder((z - self._loc) / positive(self._raw_scale.value)), 2, axis=-1)
        scale = positive(raw)
        u = loc + scale * noise
        # As one sum: the terms of log p(u) and log q(u|z) that do not depend on u cancel.
        log_ratio = tf.reduce_sum(0.5 * (noise * noise - u * u) + tf.math.log(scale), axis=-1)
        return log_ratio + tf.reduce_sum(tfd.Normal(*self._of_z(u)).log_prob(z), axis=-1)

    def _of_z(self, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The loc and scale [B, L] of p(z|u)."""
        loc, raw = tf.split(self.decoder(u), 2, axis=-1)
        outer = positive(self._raw_scale.value)
        return self._loc + outer * loc, outer * positive(raw)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "second_dim": self.second_dim, "hidden": self.hidden}


class _Marginal(tfd.Distribution):
    """The density of a `SecondStage`.

    Args:
        prior: the prior.
        noise: that of u [B, M]; None takes noise that is a function of z.
    """

    def __init__(self, prior: SecondStage, noise: tf.Tensor | None = None) -> None:
        self.prior, self.noise = prior, noise
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters={"prior": prior, "noise": noise},
            name="SecondStage",
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: int | None = None) -> dict[str, Any]:
        # No parameter has a batch shape: p(z) is one distribution.
        return {}

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.zeros([0], tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self.prior.latent_dim])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self.prior.latent_dim])

    def _sample_n(self, n: tf.Tensor, seed: Any = None) -> tf.Tensor:
        shape = [n, self.prior.latent_dim + self.prior.noise_dim]
        return self.prior.sample_from(tf.random.stateless_normal(shape, tfp.random.sanitize_seed(seed)))

    def _log_prob(self, z: tf.Tensor) -> tf.Tensor:
        # In an export, the single sample has an axis of its own; a Keras network takes only one batch axis.
        flat = tf.reshape(z, [-1, self.prior.latent_dim])
        noise = self.noise
        if noise is None:
            bits = tf.bitcast(tf.stop_gradient(tf.concat([tf.reshape(flat, [-1]), [0.0, 0.0]], axis=0)[:2]), tf.int32)
            noise = tf.random.stateless_normal([tf.shape(flat)[0], self.prior.noise_dim], bits)
        log_prob = self.prior.log_prob_at(flat, noise)
        return tf.reshape(log_prob, [1, -1] if z.shape.rank == 3 and z.shape[0] == 1 else tf.shape(z)[:-1])
