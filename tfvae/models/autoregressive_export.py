"""Exports."""

from tfvae.models.signatures import AutoencoderExport


class AutoregressiveExport(AutoencoderExport):
    """To be done."""
