"""The VAE of windows that the PyTorch one is compared with: tfvae's networks of sequences, with all defaults."""

import keras
import numpy as np
import tensorflow as tf

import tfvae
from peers import sequences, tfvae_vae
from peers.keras_fit import Epochs
from peers.peer import LEARNING_RATE


class TfvaeSequences:
    """`tfvae.VAE` of windows.

    Args:
        kind: "recurrent", "temporal" or "transformer".
        batch_size: B, the number of windows in a step.
        by_xla: whether `compile` asks for XLA; if not, `fit` chooses.
    """

    def __init__(self, kind: str, batch_size: int, by_xla: bool = False) -> None:
        keras.utils.set_random_seed(0)
        step, number = (sequences.CHANNELS,), sequences.NUM_STEPS
        self._model = tfvae.VAE(
            getattr(tfvae.networks, f"{kind}_encoder")(step, number),
            getattr(tfvae.networks, f"{kind}_decoder")(sequences.LATENT_DIM, number, step),
            sequences.LATENT_DIM,
            likelihood=tfvae.likelihoods.Missing(tfvae.likelihoods.Normal(), fill=False),
        )
        self._model.compile(keras.optimizers.Adam(LEARNING_RATE), **({"jit_compile": True} if by_xla else {}))
        self._model.build((None, number, *step))
        self._batch_size = batch_size
        self._epochs = None

    def weights(self) -> list[np.ndarray]:
        """The weights of the encoder, the heads of the posterior and the decoder."""
        posterior = self._model.posterior
        parts = (self._model.encoder, posterior.loc_head, posterior.scale_head, self._model.decoder)
        return [array for part in parts for array in part.get_weights()]

    def load(self, weights: list[np.ndarray]) -> None:
        """Sets the weights."""
        weights = list(weights)
        posterior = self._model.posterior
        for part in (self._model.encoder, posterior.loc_head, posterior.scale_head, self._model.decoder):
            part.set_weights([weights.pop(0) for _ in part.weights])

    def loss(self, x: np.ndarray, epsilon: np.ndarray) -> float:
        """The loss of windows [B, T, C] at given noise [1, B, L]."""
        return tfvae_vae.loss(self._model, x, epsilon)

    def epoch(self, steps: int) -> float:
        """The seconds of an epoch of so many steps, in a new order."""
        if self._epochs is None:
            self._epochs = Epochs(self._model, sequences.data(steps * self._batch_size), self._batch_size)
        return self._epochs.run()

    def threads(self) -> int:
        """The threads of one operation."""
        return tf.config.threading.get_intra_op_parallelism_threads()
