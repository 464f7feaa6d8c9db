"""Data for `fit`: named data sets, files, folders and arrays become `tf.data` pipelines of float32 batches.

Each name here is imported when it is first used, so that reading an array or a table for an exported
model needs no TensorFlow.
"""

from typing import TYPE_CHECKING

from tfvae._lazy import lazy_attributes

if TYPE_CHECKING:
    from tfvae.data.loading import IMAGE_SUFFIXES, NAMES, Arrays, Pipelines, load, read
    from tfvae.data.loading_rows import Rows, load_rows
    from tfvae.data.loading_series import LoadedSeries, load_series
    from tfvae.data.sequences import Windows, pad, windows
    from tfvae.data.series import Series
    from tfvae.data.table import Table
    from tfvae.data.vocabulary import Vocabulary

__all__ = [
    "IMAGE_SUFFIXES",
    "NAMES",
    "Arrays",
    "LoadedSeries",
    "Pipelines",
    "Rows",
    "Series",
    "Table",
    "Vocabulary",
    "Windows",
    "load",
    "load_rows",
    "load_series",
    "pad",
    "read",
    "windows",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.data.loading": ["IMAGE_SUFFIXES", "NAMES", "Arrays", "Pipelines", "load", "read"],
        "tfvae.data.loading_rows": ["Rows", "load_rows"],
        "tfvae.data.loading_series": ["LoadedSeries", "load_series"],
        "tfvae.data.table": ["Table"],
        "tfvae.data.vocabulary": ["Vocabulary"],
        "tfvae.data.sequences": ["Windows", "pad", "windows"],
        "tfvae.data.series": ["Series"],
    },
)
