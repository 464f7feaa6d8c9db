"""Small models of texts and of sequences, also with decoders whose probabilities are known."""

import keras
import numpy as np

import tfvae
from tfvae.data import Vocabulary

LATENT_DIM = 2
TEXTS = ["abba", "ab", "bab", "aabb", "b", "baba", "a"]
VOCABULARY = Vocabulary(["a", "b"])
# The probabilities of the end, a and b after the end (which is never shown), a, b, and nothing, at the start.
BIGRAMS = np.array([[0.2, 0.3, 0.5], [0.3, 0.1, 0.6], [0.4, 0.5, 0.1], [0.05, 0.8, 0.15]])


def indices(x, num_classes):
    """Codes as integers, with another one for NaN."""
    return keras.ops.cast(keras.ops.where(keras.ops.absolute(x) > -1, x, float(num_classes)), "int32")[..., 0]


def encoder(num_classes, width=8):
    """An encoder of codes that ignores padding."""
    x = keras.Input((None, 1))
    embedded = keras.layers.Embedding(num_classes + 1, width)(indices(x, num_classes))
    features = keras.layers.Conv1D(width, 2, padding="causal", activation="tanh")(embedded)
    observed = keras.ops.cast(keras.ops.absolute(x) > -1, features.dtype)
    summed = keras.ops.sum(features * observed, axis=1)
    return keras.Model(x, keras.layers.Dense(width, activation="silu")(summed))


def decoder(num_classes, width=8):
    """A recurrent decoder of codes."""
    z, before = keras.Input((LATENT_DIM,)), keras.Input((None, 1))
    embedded = keras.layers.Embedding(num_classes + 1, width)(indices(before, num_classes))
    shown = embedded + keras.layers.Dense(width)(z)[:, None]
    states = keras.layers.GRU(width, return_sequences=True)(shown)
    return keras.Model([z, before], keras.layers.Dense(num_classes)(states))


def bigram_decoder():
    """A decoder without z that has the probabilities of BIGRAMS."""
    z, before = keras.Input((LATENT_DIM,)), keras.Input((None, 1))
    logits = keras.layers.Embedding(4, 3, weights=[np.log(BIGRAMS).astype("float32")])(indices(before, 3))
    return keras.Model([z, before], logits + 0.0 * keras.ops.sum(z, axis=-1)[:, None, None])


def bigrams(**arguments):
    """A model of texts of a and b, in which z says nothing."""
    return tfvae.AutoregressiveVAE(encoder(3), bigram_decoder(), LATENT_DIM, vocabulary=VOCABULARY, **arguments)


def text_vae(**arguments):
    """A model of texts of a and b."""
    return tfvae.AutoregressiveVAE(encoder(3), decoder(3), LATENT_DIM, vocabulary=VOCABULARY, **arguments)


def series_encoder(channels):
    """A recurrent encoder of numbers."""
    x = keras.Input((None, channels))
    shown = keras.ops.where(keras.ops.absolute(x) > -1, x, keras.ops.zeros_like(x))
    return keras.Model(x, keras.layers.GRU(8)(shown))


def series_decoder(channels, outputs):
    """A recurrent decoder of numbers."""
    z, before = keras.Input((LATENT_DIM,)), keras.Input((None, channels))
    shown = keras.ops.where(keras.ops.absolute(before) > -1, before, keras.ops.zeros_like(before))
    shown = keras.layers.Dense(8)(shown) + keras.layers.Dense(8)(z)[:, None]
    states = keras.layers.GRU(8, return_sequences=True)(shown)
    return keras.Model([z, before], keras.layers.Dense(outputs)(states))
