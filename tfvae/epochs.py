"""Datasets whose order can be resumed: the public names of `tfvae.data.epochs`."""

from tfvae.data.epochs import order, ordered, read_ahead, set_epoch, shuffled_batches

__all__ = ["order", "ordered", "read_ahead", "set_epoch", "shuffled_batches"]
