"""Posteriors by normalizing flows: standard normal noise, transformed by invertible functions."""

import abc
from typing import Any, Self

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.distributions import flows, splines
from tfvae.distributions.normal import Normal
from tfvae.posteriors.posterior import PACKAGE, LocationScalePosterior, TransformedPosterior, float32

tfb = tfp.bijectors
tfd = tfp.distributions


class FlowPosterior(TransformedPosterior, LocationScalePosterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a flow that the subclass defines.

    Args:
        latent_dim: L, or None to take the model's.
        kwargs: the arguments of `keras.layers.Layer`.
    """

    is_fast_by_xla = True

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale` [B, L], and `features` [B, F] for the flow, float32, from features [B, F]."""
        return {**super().call(features), "features": float32(features)}

    def distribution(self, parameters: dict[str, tf.Tensor]) -> tfd.TransformedDistribution:
        """q(z|x), with batch shape [B] and event shape [L]."""
        base = tfd.Independent(Normal(tf.zeros_like(parameters["loc"]), 1.0), 1)
        affine = flows.Affine(parameters["loc"], parameters["scale"])
        return tfd.TransformedDistribution(base, tfb.Chain([affine, *self._flow(parameters)]))

    @abc.abstractmethod
    def _flow(self, parameters: dict[str, tf.Tensor]) -> list[tfb.Bijector]:
        """The bijectors that make up f, the last of which is applied first."""


@keras.saving.register_keras_serializable(PACKAGE)
class CouplingFlow(FlowPosterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a flow of affine couplings.

    Each coupling leaves one half of its input unchanged, and shifts and scales the other half by functions of the first
    half and of the features, which are networks with one hidden layer. f starts as the identity.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        num_couplings: the number of couplings, one after the other; the half that is left unchanged alternates.
        hidden: units of the hidden layer of each network.
        mixed: whether each pair of couplings divides z into other halves, so that all dimensions can depend on each
            other, and whether each may scale by up to exp(3) in place of e. Flows that were saved before this argument
            existed load with False.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Dinh et al. 2017, Density Estimation Using Real NVP, equations 7 and 8; Rezende & Mohamed 2015,
    Variational Inference with Normalizing Flows, section 3.
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        num_couplings: int = 6,
        hidden: int = 32,
        mixed: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_couplings = checks.positive_integer("num_couplings", num_couplings)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.mixed = checks.boolean("mixed", mixed)
        self.networks: list[keras.layers.Layer] = []

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads and the networks for features [B, F]."""
        flows.check_latent_dim("CouplingFlow", self.latent_dim)
        super().build(input_shape)
        self.networks = flows.coupling_networks(self.latent_dim, self.num_couplings, self.hidden, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in ("num_couplings", "hidden", "mixed")}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the flow that `get_config` described."""
        return super().from_config({"mixed": False, **config})

    def _flow(self, parameters: dict[str, tf.Tensor]) -> list[tfb.Bijector]:
        return flows.couplings(self.networks, self.latent_dim, parameters["features"], mixed=self.mixed)


@keras.saving.register_keras_serializable(PACKAGE)
class InverseAutoregressiveFlow(FlowPosterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a chain of autoregressive flows.

    Each flow maps u to m(u; x) + s(u; x) u, where m and s of each dimension are functions of the earlier dimensions of
    u and of the features, computed by masked networks with one hidden layer. The order of the dimensions is reversed
    from one flow to the next. f starts as the identity.

    A draw and its density take one pass through the networks. The density at any other z, which objectives with path
    gradients (`sticking_the_landing`, `doubly_reparameterized`) need, takes L passes one after the other: it is exact,
    but slow for a large L.

    Args:
        latent_dim: L, at least 2, or None to take the model's.
        num_flows: the number of flows, one after the other.
        hidden: units of the hidden layer of each network; with fewer than L, dimensions miss some of the earlier ones.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, section 3, with the
    affine map of the encoder after the flows in place of before them.
    """

    def __init__(self, latent_dim: int | None = None, num_flows: int = 4, hidden: int = 64, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_flows = checks.positive_integer("num_flows", num_flows)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.networks: list[keras.layers.Layer] = []

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads and the networks for features [B, F]."""
        flows.check_latent_dim("InverseAutoregressiveFlow", self.latent_dim)
        super().build(input_shape)
        self.networks = flows.autoregressive_networks(self.latent_dim, self.num_flows, self.hidden, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_flows": self.num_flows, "hidden": self.hidden}

    def _flow(self, parameters: dict[str, tf.Tensor]) -> list[tfb.Bijector]:
        return [flows.InverseAutoregressive(network, parameters["features"]) for network in self.networks]


@keras.saving.register_keras_serializable(PACKAGE)
class SplineFlow(FlowPosterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a flow of spline couplings.

    Each coupling leaves one half of its input unchanged, and maps each dimension of the other half by a monotone
    spline, a shift and a scale, which are functions of the first half and of the features, by networks with two hidden
    layers. f starts as the identity. It fits several modes and sharp edges, where affine couplings do not, and z of one
    dimension, whose splines depend on the features alone.

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

    def __init__(
        self, latent_dim: int | None = None, num_couplings: int = 6, bins: int = 8, hidden: int = 64, **kwargs: Any
    ) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_couplings = checks.positive_integer("num_couplings", num_couplings)
        self.bins = checks.positive_integer("bins", bins, minimum=2, maximum=100)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.networks: list[keras.layers.Layer] = []

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads and the networks for features [B, F]."""
        super().build(input_shape)
        self.networks = splines.networks(self.latent_dim, self.num_couplings, self.bins, self.hidden, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in ("num_couplings", "bins", "hidden")}
        return {**super().get_config(), **own}

    def _flow(self, parameters: dict[str, tf.Tensor]) -> list[tfb.Bijector]:
        features = parameters["features"]
        return [splines.SplineCoupling(network, index, features) for index, network in enumerate(self.networks)]


@keras.saving.register_keras_serializable(PACKAGE)
class SylvesterFlow(FlowPosterior):
    """The posterior of z = loc(x) + scale(x) * f(eps; x), eps ~ N(0, I), with f a chain of triangular Sylvester flows.

    Each flow maps u to u + P R tanh(R~ P^T u + b). R and R~ are upper triangular; a head that is linear in the features
    gives them, their diagonals through a tanh, and b. P reverses the order of the dimensions in every second flow. f is
    the identity where the head gives 0.

    There is no inverse in closed form, so log q(z|x) can be evaluated at its own draws alone: objectives with path
    gradients (`sticking_the_landing`, `doubly_reparameterized`) and variational inference need another posterior.

    Args:
        latent_dim: L, or None to take the model's.
        num_flows: the number of flows, one after the other.
        kwargs: the arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference: van den Berg et al. 2018, Sylvester Normalizing Flows for Variational Inference, section 3.
    """

    has_log_prob = False

    def __init__(self, latent_dim: int | None = None, num_flows: int = 4, **kwargs: Any) -> None:
        super().__init__(latent_dim, **kwargs)
        self.num_flows = checks.positive_integer("num_flows", num_flows)
        self.flow_head: keras.layers.Layer = None

    def build(self, input_shape: tuple[int | None, int]) -> None:
        """Creates the heads for features [B, F]."""
        super().build(input_shape)
        self.flow_head = self._head("flow", self.num_flows * self.latent_dim * (self.latent_dim + 2), input_shape)

    def call(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes `loc` and `scale` [B, L], and `flow` [B, num_flows, L, L + 2], float32, from features [B, F]."""
        parameters = LocationScalePosterior.call(self, features)
        shape = [-1, self.num_flows, self.latent_dim, self.latent_dim + 2]
        return {**parameters, "flow": tf.reshape(float32(self.flow_head(features)), shape)}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_flows": self.num_flows}

    def _flow(self, parameters: dict[str, tf.Tensor]) -> list[tfb.Bijector]:
        return [flows.Sylvester(parameters["flow"][:, index], index % 2 == 1) for index in range(self.num_flows)]
