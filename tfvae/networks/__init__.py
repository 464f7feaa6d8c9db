"""Ready-made encoders and decoders: functions that return a functional `keras.Model`; and layers of them.

They are plain Keras layers, so a `.keras` file loads in safe mode and TFLite converts them to built-in ops. Any Keras
model with the same shapes can take their place.
"""

from tfvae.networks.convolutional import convolutional_decoder, convolutional_encoder
from tfvae.networks.dense import dense_decoder, dense_encoder, row_encoder, set_encoder
from tfvae.networks.layers import MissingMask, RowFeatures, SetMean

__all__ = [
    "MissingMask",
    "RowFeatures",
    "SetMean",
    "convolutional_decoder",
    "convolutional_encoder",
    "dense_decoder",
    "dense_encoder",
    "row_encoder",
    "set_encoder",
]
