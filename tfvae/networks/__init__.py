"""Ready-made encoders and decoders: functions that return a functional `keras.Model`; and layers of them.

They are plain Keras layers, so a `.keras` file loads in safe mode and TFLite converts them to built-in ops. Any Keras
model with the same shapes can take their place.
"""

from tfvae.networks.convolutional import convolutional_decoder, convolutional_encoder
from tfvae.networks.dense import dense_decoder, dense_encoder, row_encoder
from tfvae.networks.layers import MissingMask, RowFeatures, SeriesSummary, SetAttention, SetMean
from tfvae.networks.sequences import series_encoder, set_encoder, set_transformer

__all__ = [
    "MissingMask",
    "RowFeatures",
    "SeriesSummary",
    "SetAttention",
    "SetMean",
    "convolutional_decoder",
    "convolutional_encoder",
    "dense_decoder",
    "dense_encoder",
    "row_encoder",
    "series_encoder",
    "set_encoder",
    "set_transformer",
]
