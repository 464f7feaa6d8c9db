"""Variational inference for a user's own Bayesian model: its joint density, how q is fitted, draws and predictions."""

from tfvae._lazy import lazy_attributes

__all__ = ["enumerated"]

__getattr__, __dir__ = lazy_attributes(__name__, {"tfvae.inference.enumeration": ["enumerated"]})
