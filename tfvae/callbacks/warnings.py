"""Warnings that `fit` gives by itself: of a loss that is not finite, frozen weights, and a collapsed posterior."""

import math
import warnings
from typing import Any

import keras

# In nats per example. The noise of training leaves a collapsed posterior a KL divergence of up to about this much, with
# up to some 30 latent dimensions.
COLLAPSED = 0.05
# What helps against it, wherever it is found.
COLLAPSE_ADVICE = (
    "Try `tfvae.callbacks.KLWarmUp`, free bits, a smaller `beta`, a weaker decoder, or a likelihood with a smaller "
    "`scale`."
)


class NonFiniteLossWarning(keras.callbacks.Callback):
    """Warns at the end of an epoch whose loss was NaN or infinite, which Keras only prints. Every `fit` adds this."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns if the epoch's loss is not finite."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            warnings.warn(
                f"The loss was {loss} in epoch {epoch + 1}. Try a lower learning rate or the optimizer's `clipnorm`, "
                "and look for values that are not finite in the data; `keras.callbacks.TerminateOnNaN` stops training "
                "at the first such loss.",
                stacklevel=2,
            )


class FrozenWarning(keras.callbacks.Callback):
    """Warns if training changes nothing, or changes q(z|x) although its encoder is frozen. Every `fit` adds this."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Warns according to which variables are trainable."""
        if not self.model.trainable_variables:
            warnings.warn("The model has no trainable weights, so that `fit` changes nothing.", stacklevel=2)
        parts = self.model.inference_parts() if hasattr(self.model, "inference_parts") else []
        for encoder, posterior in parts:
            if encoder.weights and not encoder.trainable_variables and posterior.trainable_variables:
                warnings.warn(
                    f"The encoder {encoder.name!r} is frozen, but q(z|x) still changes, because the layers of the "
                    "posterior that compute its parameters are trained. To freeze q(z|x), set `trainable = False` of "
                    "the posterior too.",
                    stacklevel=2,
                )


class PosteriorCollapseWarning(keras.callbacks.Callback):
    """Warns if z, or layers of it, carry almost no information about x. The `fit` of every autoencoder adds this.

    Nothing else reveals a collapsed posterior. The warning is given when the mean of KL(q(z|x) || p(z)) was below
    0.05 nats per example in the previous epoch and has not grown in this one, with the weight of the KL divergence 1 in
    both. So it is given neither in the first epoch, nor during a warm-up, nor while the KL divergence still grows from
    near 0. The metric is `kl`; for a `tfvae.SemiSupervisedVAE` `kl_z`; for a `tfvae.DeepHierarchicalVAE` and a
    `tfvae.HierarchicalVAE` `kl_1` to `kl_T`, or of the latter without `ladder` only `kl_T`. There is one warning of
    each metric.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the KL divergences and the warnings of an earlier training."""
        self._last: dict[str, float] = {}
        self._warned: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warns if the posterior has collapsed."""
        is_whole = float(keras.ops.convert_to_numpy(self.model.kl_weight)) == 1.0
        names = getattr(self.model, "collapsing", ("kl",))
        now = {name: float((logs or {}).get(name, math.inf)) if is_whole else math.inf for name in names}
        collapsed = [name for name, kl in now.items() if kl <= self._last.get(name, math.inf) < COLLAPSED]
        self._last = now
        new = [name for name in collapsed if name not in self._warned]
        if not new:
            return
        self._warned.update(new)
        values = ", ".join(f"the metric `{name}`, was {now[name]:.2g} nats" for name in new)
        # The metrics of layers end in their numbers.
        is_layered = new[0][-1].isdigit()
        where, advice = (f" in {len(new)} of its layers", " Or take fewer layers.") if is_layered else ("", "")
        warnings.warn(
            f"The posterior has collapsed to the prior: KL(q(z|x) || p(z)), {values} in epoch {epoch + 1}, so z says "
            f"almost nothing about x{where}. {COLLAPSE_ADVICE}{advice}",
            stacklevel=2,
        )
