"""Data larger than memory, streamed from several files: the public names of `tfvae.data.shards`."""

from tfvae.data.shards import SUFFIXES, Shards, look, stream, write_tfrecords

__all__ = ["SUFFIXES", "Shards", "look", "stream", "write_tfrecords"]
