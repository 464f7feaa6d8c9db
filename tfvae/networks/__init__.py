"""Ready-made encoders and decoders: functions that return a functional `keras.Model`; and layers of them.

They are plain Keras layers, so a `.keras` file loads in safe mode and TFLite converts them to built-in ops. Any Keras
model with the same shapes can take their place.
"""

from tfvae.networks.convolutional import convolutional_decoder, convolutional_encoder
from tfvae.networks.dense import dense_decoder, dense_encoder, row_encoder
from tfvae.networks.ladder import Ladder, ladder
from tfvae.networks.layers import LearnedMap, MissingMask, RowFeatures, SetAttention, SetMean
from tfvae.networks.recomputed import Recomputed
from tfvae.networks.recurrent import recurrent_decoder, recurrent_encoder
from tfvae.networks.residual import residual_decoder, residual_encoder
from tfvae.networks.sequence_layers import (
    Codes,
    Positions,
    RotaryAttention,
    SeriesSummary,
    StepMask,
)
from tfvae.networks.sets import set_encoder, set_transformer
from tfvae.networks.step_layers import ConvolutionStep, RecurrentStep
from tfvae.networks.stepwise import Stepwise, stepwise
from tfvae.networks.temporal import temporal_decoder, temporal_encoder
from tfvae.networks.transformer import transformer_decoder, transformer_encoder

__all__ = [
    "Codes",
    "ConvolutionStep",
    "Ladder",
    "LearnedMap",
    "MissingMask",
    "Positions",
    "Recomputed",
    "RecurrentStep",
    "RotaryAttention",
    "RowFeatures",
    "SeriesSummary",
    "SetAttention",
    "SetMean",
    "StepMask",
    "Stepwise",
    "convolutional_decoder",
    "convolutional_encoder",
    "dense_decoder",
    "dense_encoder",
    "ladder",
    "recurrent_decoder",
    "recurrent_encoder",
    "residual_decoder",
    "residual_encoder",
    "row_encoder",
    "set_encoder",
    "set_transformer",
    "stepwise",
    "temporal_decoder",
    "temporal_encoder",
    "transformer_decoder",
    "transformer_encoder",
]
