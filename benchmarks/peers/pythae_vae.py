"""A peer in Pythae: its VAE with an encoder and a decoder of the same widths, in the training loop of the PyTorch peer.

That loop is more favourable to Pythae than its own trainer. For binary data Pythae takes no logits, so the decoder ends
in a sigmoid. Its loss for real data omits log(2 pi), which is added here when losses are compared.
"""

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn
from torch.nn import functional

from peers.architectures import LOG_2_PI, MIN_SCALE, RAW_SHIFT, Architecture, Weights
from peers.pytorch_vae import TorchPeer, load_layer, load_network, network, to_tensor


class Encoder(BaseEncoder):
    """The encoder and the heads of q(z|x).

    Args:
        architecture: the architecture.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.network = network(architecture, architecture.encoder)
        self.loc = nn.Linear(*architecture.head.kernel)
        self.raw_scale = nn.Linear(*architecture.head.kernel)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        """The mean and the log variance of q(z|x)."""
        features = self.network(x)
        scale = functional.softplus(self.raw_scale(features) + RAW_SHIFT) + MIN_SCALE
        return ModelOutput(embedding=self.loc(features), log_covariance=2 * scale.log())


class Decoder(BaseDecoder):
    """The decoder.

    Args:
        architecture: the architecture.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.network = network(architecture, architecture.decoder)
        self.is_binary = architecture.likelihood == "bernoulli"

    def forward(self, z: torch.Tensor) -> ModelOutput:
        """The mean of p(x|z)."""
        outputs = self.network(z)
        return ModelOutput(reconstruction=outputs.sigmoid() if self.is_binary else outputs)


class PythaePeer(TorchPeer):
    """The peer in Pythae."""

    def __init__(self, architecture: Architecture, batch_size: int, k: int) -> None:
        if k > 1:
            raise NotImplementedError("Pythae's VAE has only one draw of z for each example")
        super().__init__(architecture, batch_size, k)

    def _build(self) -> VAE:
        reconstruction_loss = "bce" if self.architecture.likelihood == "bernoulli" else "mse"
        config = VAEConfig(latent_dim=self.architecture.latent_dim, reconstruction_loss=reconstruction_loss)
        return VAE(config, Encoder(self.architecture), Decoder(self.architecture))

    def _training_loss(self, x: torch.Tensor) -> torch.Tensor:
        return self._model({"data": x}).loss

    def load(self, weights: Weights) -> None:
        """Sets the weights, and resets Adam."""
        encoder, decoder = self._model.encoder, self._model.decoder
        load_network(encoder.network, self.architecture, weights.encoder)
        load_network(decoder.network, self.architecture, weights.decoder)
        load_layer(encoder.loc, *weights.loc)
        load_layer(encoder.raw_scale, *weights.scale)
        self._model.to(memory_format=torch.channels_last)
        self._make_optimizer()

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of examples [B, ...] at given noise [k, B, L]."""
        own = self._model._sample_gauss
        self._model._sample_gauss = lambda loc, scale: (loc + scale * torch.from_numpy(epsilon[0]), None)
        with torch.no_grad():
            value = float(self._training_loss(to_tensor(x)))
        self._model._sample_gauss = own
        missing = LOG_2_PI * x[0].size / 2 if self.architecture.likelihood == "normal" else 0.0
        return value + missing
