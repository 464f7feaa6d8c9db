"""Plots of a model: reconstructions, samples, the latent space, the training history, tables, and recovered latents.

Each function returns a `matplotlib.figure.Figure`, to be saved by `figure.savefig(path)`. It is made without pyplot, so
there is no global state, no figure to close and no need for a display.
"""

from tfvae.plots.models import history, latent, reconstructions, samples
from tfvae.plots.recovery import contraction, recovery
from tfvae.plots.tables import contributions, marginals

__all__ = [
    "contraction",
    "contributions",
    "history",
    "latent",
    "marginals",
    "reconstructions",
    "recovery",
    "samples",
]
