"""Callbacks for `fit`: checkpoints to go on from, a KL divergence that comes in slowly, and warnings."""

from typing import TYPE_CHECKING

from tfvae._lazy import lazy_attributes

if TYPE_CHECKING:
    from tfvae.callbacks.checkpoints import Checkpoint, Checkpoints
    from tfvae.callbacks.warm_up import KLWarmUp
    from tfvae.callbacks.warnings import NonFiniteLossWarning, PosteriorCollapseWarning
    from tfvae.inference.convergence import Convergence

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Convergence",
    "KLWarmUp",
    "NonFiniteLossWarning",
    "PosteriorCollapseWarning",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "tfvae.callbacks.checkpoints": ["Checkpoint", "Checkpoints"],
        "tfvae.callbacks.warm_up": ["KLWarmUp"],
        "tfvae.callbacks.warnings": ["NonFiniteLossWarning", "PosteriorCollapseWarning"],
        # Its own room, because it knows how q is found; its public name is here, beside the other callbacks.
        "tfvae.inference.convergence": ["Convergence"],
    },
)
