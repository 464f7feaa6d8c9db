"""Mixture priors: of learned normal distributions, and of the posteriors of learned pseudo-inputs."""

import abc
import statistics
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks, numerics
from tfvae.numerics import positive
from tfvae.posteriors import DiagonalNormal, Posterior
from tfvae.posteriors.posterior import known_density
from tfvae.priors.prior import PACKAGE, Prior

tfd = tfp.distributions

# The smallest p for which float32 tells 1 - p from 1.
_TAIL = 1e-7
# Further out than any draw of N(0, 1) in float32.
_FAR = 10.0


class _Mixture(Prior, abc.ABC):
    """A mixture p(z) = sum over k of w_k q_k(z) of distributions of one family.

    Args:
        latent_dim: L, or None to take the model's.
        num_components: K, the number of components.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    is_independent = False

    def __init__(self, latent_dim: int | None, num_components: int, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_components = checks.positive_integer("num_components", num_components)

    @abc.abstractmethod
    def family(self) -> Posterior:
        """The family of the components."""

    @abc.abstractmethod
    def components(self) -> dict[str, tf.Tensor]:
        """The parameters of the components by name, each [K, ...]."""

    @abc.abstractmethod
    def logits(self) -> tf.Tensor:
        """The logarithms of the weights w_k [K], up to a constant."""

    def edges(self) -> tf.Tensor:
        """The edges [K + 1], from -_FAR to _FAR, of intervals that have the probabilities w_k under N(0, 1)."""
        ends = tf.cumsum(tf.nn.softmax(self.logits()))[:-1]
        inner = numerics.normal_quantile(tf.clip_by_value(ends, _TAIL, 1 - _TAIL))
        return tf.concat([[-_FAR], inner, [_FAR]], axis=0)

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""
        components = self.family().distribution(self.components())
        return tfd.MixtureSameFamily(tfd.Categorical(logits=self.logits()), components)

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """Maps noise epsilon ~ N(0, I) [B, L] to a sample z [B, L].

        The first column chooses the component: the one in whose interval it lies (see `edges`). Its position within the
        interval, by probability, is uniform, and is turned into the N(0, 1) noise of the component's first dimension.
        """
        edges, first = self.edges(), epsilon[:, 0]
        index = tf.reduce_sum(tf.cast(first[:, tf.newaxis] >= edges[1:-1], tf.int32), axis=1)
        below = numerics.normal_mass(tf.gather(edges, index), first)
        above = numerics.normal_mass(first, tf.gather(edges, index + 1))
        # Measured from the nearer edge: a position close to 1 would have few digits.
        nearer = tf.maximum(tf.minimum(below, above) / (below + above), _TAIL)
        left = numerics.normal_quantile(nearer)
        left = tf.where(below < above, left, -left)
        noise = tf.concat([left[:, tf.newaxis], epsilon[:, 1:]], axis=1)
        chosen = {name: tf.gather(parameter, index) for name, parameter in self.components().items()}
        return self.family().sample_from(chosen, noise)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_components": self.num_components}


@keras.saving.register_keras_serializable(PACKAGE)
class NormalMixture(_Mixture):
    """The prior p(z) = sum over k of w_k N(z | loc_k, diag(scale_k^2)), whose weights, locs and scales are learned.

    The locs start as draws from N(0, I), the scales at 1, the weights at 1 / K.

    Args:
        latent_dim: L, or None to take the model's.
        num_components: K, the number of components.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `num_components` is out of its range.

    Reference: Dilokthanakul et al. 2016, Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders.
    """

    def __init__(self, latent_dim: int | None = None, num_components: int = 10, **kwargs: Any) -> None:
        super().__init__(latent_dim, num_components, **kwargs)
        self._logits = self._loc = self._raw_scale = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the variables of the weights, locs and scales."""
        shape = (self.num_components, self.latent_dim)
        options = {"dtype": "float32", "autocast": False}
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self._logits = self.add_weight(name="logits", shape=shape[:1], initializer="zeros", **options)
        self._loc = self.add_weight(name="loc", shape=shape, initializer=normal, **options)
        self._raw_scale = self.add_weight(name="raw_scale", shape=shape, initializer="zeros", **options)

    def family(self) -> Posterior:
        """Normal distributions with independent dimensions."""
        return DiagonalNormal(self.latent_dim)

    def components(self) -> dict[str, tf.Tensor]:
        """The parameters `loc` and `scale` [K, L]."""
        return {"loc": tf.convert_to_tensor(self._loc), "scale": positive(self._raw_scale)}

    def logits(self) -> tf.Tensor:
        """The logarithms of the weights w_k [K], up to a constant."""
        return tf.convert_to_tensor(self._logits)


@keras.saving.register_keras_serializable(PACKAGE)
class VampPrior(_Mixture):
    """The prior p(z) = 1/K sum over k of q(z|u_k), the posteriors of K pseudo-inputs u_k, which are learned.

    It approximates the aggregate posterior, the prior with the highest ELBO. If there are K examples or more, start the
    pseudo-inputs at some of them: `vae.prior.pseudo_inputs.assign(x[:num_components])`.

    Args:
        latent_dim: L, or None to take the model's.
        num_components: K, the number of pseudo-inputs.
        bounds: (low, high), to which pseudo-inputs are clipped, such as (0, 1) for images; they start uniformly
            distributed between these. None for no bounds, and a start at draws from N(0, 1).
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Tomczak & Welling 2018, VAE with a VampPrior, equation 9.
    """

    support = None

    def __init__(
        self,
        latent_dim: int | None = None,
        num_components: int = 500,
        bounds: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(latent_dim, num_components, **kwargs)
        if bounds is not None and not (
            isinstance(bounds, tuple | list)
            and len(bounds) == 2
            and checks.number("bounds", bounds[0]) < checks.number("bounds", bounds[1])
        ):
            raise ValueError(
                f"`bounds` must be (low, high) with low < high, or None. Received: bounds={checks.shown(bounds)}"
            )
        self.bounds = None if bounds is None else [float(bound) for bound in bounds]
        self.pseudo_inputs = None

    def connect(
        self,
        encode: Callable[[tf.Tensor], dict[str, tf.Tensor]],
        posterior: Posterior,
        event_shape: tuple[int, ...],
    ) -> None:
        """Receives the model's encoder and posterior, which turn the pseudo-inputs into components."""
        if not posterior.has_log_prob:
            raise NotImplementedError(
                "`posterior` must be able to evaluate log q(z|x) at any z, for a VampPrior. Received: "
                f"{type(posterior).__name__}, {known_density(posterior)}"
            )
        # Not by setattr, because Keras would then count the weights of the posterior among those of the prior.
        self.__dict__.update(_encode=encode, _posterior=posterior, _event_shape=event_shape)

    def get_build_config(self) -> None:
        """Returns None, so that Keras, when it loads a model, leaves it to the model to build this after `connect`."""
        return

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the pseudo-inputs [K, ...]."""
        uniform, normal = keras.initializers.RandomUniform, keras.initializers.RandomNormal
        self.pseudo_inputs = self.add_weight(
            name="pseudo_inputs",
            shape=(self.num_components, *self._event_shape),
            initializer=normal(stddev=1.0) if self.bounds is None else uniform(*self.bounds),
            dtype="float32",
            autocast=False,
        )

    def family(self) -> Posterior:
        """The model's posterior."""
        return self._posterior

    def components(self) -> dict[str, tf.Tensor]:
        """The parameters of q(z|u_k) by name, each [K, ...]."""
        inputs = tf.convert_to_tensor(self.pseudo_inputs)
        return self._encode(inputs if self.bounds is None else tf.clip_by_value(inputs, *self.bounds))

    def logits(self) -> tf.Tensor:
        """The logarithms of the weights [K], up to a constant: all equal."""
        return tf.zeros(self.num_components)

    def edges(self) -> tf.Tensor:
        """The edges of the intervals [K + 1], as constants, so that every runtime chooses the same component."""
        quantile, count = statistics.NormalDist().inv_cdf, self.num_components
        return tf.constant([-_FAR, *(quantile(k / count) for k in range(1, count)), _FAR])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "bounds": self.bounds}
