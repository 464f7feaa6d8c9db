"""Strategies by name, and which worker this process is: the public names of `tfvae.distribute.strategies`."""

from tfvae.distribute.strategies import Name, is_chief, strategy, workers

__all__ = ["Name", "is_chief", "strategy", "workers"]
