"""Plots of a model: reconstructions, samples, the latent space, the training history, tables, and checks of inference.

Each function returns a `matplotlib.figure.Figure`, to be saved by `figure.savefig(path)`. It is made without pyplot, so
there is no global state, no figure to close and no need for a display; or it is drawn in the place of the axes `ax`, of
a figure that the user made.
"""

from tfvae.plots.examples import interpolations, reconstructions, samples, traversals
from tfvae.plots.inference import calibration, predictive_check
from tfvae.plots.models import history, latent
from tfvae.plots.posterior import posterior, predictive
from tfvae.plots.recovery import contraction, recovery
from tfvae.plots.scores import anomalies
from tfvae.plots.series import series, series_traversals
from tfvae.plots.tables import contributions, marginals

__all__ = [
    "anomalies",
    "calibration",
    "contraction",
    "contributions",
    "history",
    "interpolations",
    "latent",
    "marginals",
    "posterior",
    "predictive",
    "predictive_check",
    "reconstructions",
    "recovery",
    "samples",
    "series",
    "series_traversals",
    "traversals",
]
