"""Warm-up requests for TF Serving: one for each signature, which the server replays before it announces a version.

The records are PredictionLog messages of tensorflow/serving (`apis/prediction_log.proto`, `apis/predict.proto`,
`apis/model.proto`). They are encoded here, because tensorflow-serving-api is a large dependency for so few fields.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfvae.export import units
from tfvae.export.endpoints import Endpoints


def write(path: Path, endpoints: Endpoints, model_name: str, scaling: units.Units | None = None) -> None:
    """Writes the TFRecord file.

    Args:
        path: the file to write.
        endpoints: the functions that are served.
        model_name: the name under which the model is served.
        scaling: the units of the signatures, so that the requests are 0 in the model's units. Texts are missing ones.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, function in endpoints.signatures_by_name.items():
            inputs = {
                spec.name: np.full(
                    [size or 1 for size in spec.shape], b"" if spec.dtype == tf.string else np.float32(0)
                )
                for spec in function.structured_input_signature[0]
            }
            if scaling is not None and not signature.endswith(units.SUFFIX):
                inputs = scaling.to_raw(inputs)
            writer.write(_prediction_log(model_name, signature, inputs))


def _prediction_log(model_name: str, signature: str, inputs: dict[str, np.ndarray]) -> bytes:
    """PredictionLog { predict_log = 6 { request = 1 { model_spec = 1, inputs = 2 (a map) } } }."""
    model_spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for name, value in inputs.items():
        request += _field(2, _field(1, name.encode()) + _field(2, tf.make_tensor_proto(value).SerializeToString()))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """Encodes a length-delimited field of a protocol buffer message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
