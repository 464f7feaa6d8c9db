"""Restarting a program when another worker is lost: the public names of `tfvae.distribute.restart`."""

from tfvae.distribute.restart import on_lost_worker

__all__ = ["on_lost_worker"]
