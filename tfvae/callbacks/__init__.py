"""Callbacks for `fit`: checkpoints to resume from, warm-up of the KL divergence, convergence, and warnings."""

from typing import TYPE_CHECKING

from tfvae._lazy import lazy_attributes

if TYPE_CHECKING:
    from tfvae.callbacks.checkpoints import Checkpoint, Checkpoints
    from tfvae.callbacks.warm_up import KLWarmUp
    from tfvae.callbacks.warnings import FrozenWarning, NonFiniteLossWarning, PosteriorCollapseWarning
    from tfvae.inference.annealing import Annealing
    from tfvae.inference.convergence import Convergence
    from tfvae.reporting.pictures import Pictures

__all__ = [
    "Annealing",
    "Checkpoint",
    "Checkpoints",
    "Convergence",
    "FrozenWarning",
    "KLWarmUp",
    "NonFiniteLossWarning",
    "Pictures",
    "PosteriorCollapseWarning",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.callbacks.checkpoints": ["Checkpoint", "Checkpoints"],
        "tfvae.callbacks.warm_up": ["KLWarmUp"],
        "tfvae.callbacks.warnings": ["FrozenWarning", "NonFiniteLossWarning", "PosteriorCollapseWarning"],
        # Defined where what they depend on is; public here, with the other callbacks.
        "tfvae.inference.annealing": ["Annealing"],
        "tfvae.inference.convergence": ["Convergence"],
        "tfvae.reporting.pictures": ["Pictures"],
    },
)
