"""Data for `fit`: named data sets, files, folders and arrays become `tf.data` pipelines of float32 batches.

Each name here is imported when it is first used, so that reading an array or a table for an exported
model needs no TensorFlow.
"""

from typing import TYPE_CHECKING

from tfvae._lazy import lazy_attributes

if TYPE_CHECKING:
    from tfvae.data.loading import IMAGE_SUFFIXES, NAMES, Arrays, Pipelines, load, read
    from tfvae.data.table import Table

__all__ = ["IMAGE_SUFFIXES", "NAMES", "Arrays", "Pipelines", "Table", "load", "read"]

__getattr__, __dir__ = lazy_attributes(
    __name__, {"tfvae.data.loading": [name for name in __all__ if name != "Table"], "tfvae.data.table": ["Table"]}
)
