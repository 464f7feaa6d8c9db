"""Data for `fit`: named data sets, files, folders and arrays become `tf.data` pipelines of float32 batches."""

from tfvae.data.loading import IMAGE_SUFFIXES, NAMES, Arrays, Pipelines, load, read

__all__ = ["IMAGE_SUFFIXES", "NAMES", "Arrays", "Pipelines", "load", "read"]
