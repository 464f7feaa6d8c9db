"""From a model to files that run without it, and the proof that they agree."""

from tfvae.export.saved_model import saved_model
from tfvae.export.tflite import tflite
from tfvae.export.verify import Agreement, table, verify

__all__ = ["Agreement", "saved_model", "table", "tflite", "verify"]
