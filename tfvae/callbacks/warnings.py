"""What every `fit` watches for: a loss that is not finite, a posterior that collapses."""

import math
import warnings
from typing import Any

import keras

# In nats per example: what is left of the KL divergence by the noise of training, with up to some 30 latent dimensions.
_COLLAPSED = 0.05


class NonFiniteLossWarning(keras.callbacks.Callback):
    """Says at the end of an epoch when the loss was NaN or infinite, which Keras only prints; `fit` adds it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns of a loss that is not finite."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            warnings.warn(
                f"The loss was {loss} in epoch {epoch + 1}. Try a lower learning rate or the optimizer's `clipnorm`, "
                "and look for values that are not finite in the data; `keras.callbacks.TerminateOnNaN` stops at the "
                "first.",
                stacklevel=2,
            )


class PosteriorCollapseWarning(keras.callbacks.Callback):
    """Says once when z tells next to nothing of x, which no error shows; the `fit` of every autoencoder adds it.

    It does where the mean of KL(q(z|x) || p(z)) over an epoch was below 0.05 nats per example, as in the epoch before,
    and has not grown since, both with the whole weight of the KL divergence: not in the first epoch, nor in a warm-up,
    nor where training has yet to find a use for z. Instead of `kl` it watches those of the layers of a
    `tfvae.HierarchicalVAE`, and `kl_z` of a `tfvae.SemiSupervisedVAE`.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the training before."""
        self._last: dict[str, float] = {}
        self._has_warned = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns of a posterior that has collapsed."""
        is_whole = float(keras.ops.convert_to_numpy(self.model.kl_weight)) == 1.0
        for name in getattr(self.model, "collapsing", ("kl",)):
            kl = float((logs or {}).get(name, math.inf)) if is_whole else math.inf
            if kl <= self._last.get(name, math.inf) < _COLLAPSED and not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"The posterior has collapsed to the prior: KL(q(z|x) || p(z)), the metric `{name}`, was {kl:.2g} "
                    f"nats in epoch {epoch + 1}, so that z tells next to nothing of x. Try `tfvae.callbacks.KLWarmUp`, "
                    "free bits, a smaller `beta`, a weaker decoder, or a likelihood with a smaller `scale`.",
                    stacklevel=2,
                )
            self._last[name] = kl
