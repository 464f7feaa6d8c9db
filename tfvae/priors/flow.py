"""Priors by normalizing flows."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.distributions import flows, splines
from tfvae.distributions.normal import Normal
from tfvae.numerics import positive
from tfvae.priors.prior import PACKAGE, Prior

tfb = tfp.bijectors
tfd = tfp.distributions


@keras.saving.register_keras_serializable(PACKAGE)
class Flow(Prior):
    """The prior of z = f(eps), eps ~ N(0, I), with f a learned flow of affine couplings: see `CouplingFlow`.

    f starts as the identity, so that training starts at the standard normal distribution.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        num_couplings: the number of couplings, one after the other; the half that is left unchanged alternates.
        hidden: units of the hidden layer of each network.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Dinh et al. 2017, Density Estimation Using Real NVP, equations 7 and 8; Chen et al. 2017, Variational
    Lossy Autoencoder, section 3.2: priors that are flows.
    """

    is_independent = False

    def __init__(self, latent_dim: int | None = None, num_couplings: int = 6, hidden: int = 32, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_couplings = checks.positive_integer("num_couplings", num_couplings)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.networks: list[keras.layers.Layer] = []

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the networks for z [B, L]."""
        flows.check_latent_dim("Flow", self.latent_dim)
        self.networks = flows.coupling_networks(self.latent_dim, self.num_couplings, self.hidden, num_features=0)

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""
        base = tfd.Independent(tfd.Normal(tf.zeros(self.latent_dim), 1.0), 1)
        return tfd.TransformedDistribution(base, self._flow())

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = f(epsilon) [B, L]."""
        return self._flow().forward(epsilon)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_couplings": self.num_couplings, "hidden": self.hidden}

    def _flow(self) -> tfb.Bijector:
        return tfb.Chain(flows.couplings(self.networks, self.latent_dim))


@keras.saving.register_keras_serializable(PACKAGE)
class SplineFlow(Prior):
    """The prior of z = loc + scale * f(eps), eps ~ N(0, I), with f a learned flow of spline couplings.

    loc and scale are learned too, and start at 0 and 1; f, whose couplings are those of `posteriors.SplineFlow`, starts
    as the identity. So training starts at the standard normal distribution. log p(z) and draws are closed forms. It
    fits several modes and sharp edges, and z of one dimension too.

    Args:
        latent_dim: L, or None to take the model's.
        num_couplings: the number of couplings, one after the other; each pair of them divides z in another way.
        bins: the number of bins of each spline.
        hidden: units of each of the two hidden layers of each network.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Durkan et al. 2019, Neural Spline Flows, section 3.
    """

    is_independent = False

    def __init__(
        self, latent_dim: int | None = None, num_couplings: int = 6, bins: int = 8, hidden: int = 64, **kwargs: Any
    ) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_couplings = checks.positive_integer("num_couplings", num_couplings)
        self.bins = checks.positive_integer("bins", bins, minimum=2, maximum=100)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.networks: list[keras.layers.Layer] = []
        self._loc: keras.Variable = None
        self._raw_scale: keras.Variable = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the networks for z [B, L], and the variables of loc and scale."""
        arguments = {"shape": (self.latent_dim,), "initializer": "zeros", "dtype": "float32", "autocast": False}
        self._loc = self.add_weight(name="loc", **arguments)
        self._raw_scale = self.add_weight(name="raw_scale", **arguments)
        self.networks = splines.networks(self.latent_dim, self.num_couplings, self.bins, self.hidden, num_features=0)

    def start_near(self, loc: tf.Tensor, raw_scale: tf.Tensor) -> None:
        """Sets loc and the raw scale [L]: see `Prior.start_near`."""
        self._loc.assign(loc)
        self._raw_scale.assign(raw_scale)

    def distribution(self) -> tfd.Distribution:
        """p(z), with batch shape [] and event shape [L]."""
        base = tfd.Independent(Normal(tf.zeros(self.latent_dim), tf.ones(self.latent_dim)), 1)
        return tfd.TransformedDistribution(base, self._flow())

    def sample_from(self, epsilon: tf.Tensor) -> tf.Tensor:
        """The sample z = loc + scale * f(epsilon) [B, L]."""
        return self._flow().forward(epsilon)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in ("num_couplings", "bins", "hidden")}
        return {**super().get_config(), **own}

    def _flow(self) -> tfb.Bijector:
        affine = flows.Affine(tf.convert_to_tensor(self._loc), positive(self._raw_scale.value))
        no_features = tf.zeros([1, 0])
        return tfb.Chain(
            [affine, *(splines.SplineCoupling(each, index, no_features) for index, each in enumerate(self.networks))]
        )
