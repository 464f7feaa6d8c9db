"""The prior by a normalizing flow."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfvae import checks
from tfvae.distributions import flows
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
