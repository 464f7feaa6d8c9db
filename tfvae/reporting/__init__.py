"""A report of a trained model, as one HTML file."""

from tfvae._lazy import lazy_attributes

__all__ = ["report"]

__getattr__, __dir__ = lazy_attributes(__name__, {"tfvae.reporting.document": ["report"]})
