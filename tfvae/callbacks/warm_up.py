"""Warm-up of the KL divergence: its weight in the objective rises to 1 early in training."""

import warnings
from typing import Any

import keras

from tfvae import checks


class KLWarmUp(keras.callbacks.Callback):
    """Multiplies the KL divergence in the objective by a weight that rises from `start` to 1.

    weight = start + (1 - start) * min(1, t / steps), t the number of steps that the optimizer has taken

    This keeps a posterior from collapsing to the prior before the decoder has learnt to use z. Each step computes its
    own weight, also where many steps run in one execution. The weight is 1 in evaluation and after training.

    Args:
        steps: the number of optimizer steps until the weight is 1; a shorter training gives a warning.
        start: the initial weight, from 0 to 1.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1; Sonderby et al. 2016,
    Ladder Variational Autoencoders, section 2.3.
    """

    def __init__(self, steps: int, start: float = 0.0) -> None:
        super().__init__()
        self.steps = checks.positive_integer("steps", steps)
        self.start = checks.number("start", start, 0)
        if self.start > 1:
            raise ValueError(f"`start` must be from 0 to 1. Received: start={checks.shown(start)}")
        self._has_warned = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the warm-up, and warns if the training is known to end before the weight reaches 1."""
        self.model.warm_up_kl(self.start, self.steps)
        self._has_warned = False
        # `params` is None in a `CallbackList` that the user made without it.
        batches_per_epoch = (self.params or {}).get("steps")
        if batches_per_epoch is not None:
            optimizer = self.model.optimizers()[0]
            optimizer = getattr(optimizer, "inner_optimizer", optimizer)
            batches = batches_per_epoch * self.params["epochs"]
            # An optimizer may accumulate the gradients of several batches before it takes a step.
            self._warn_where_short(self._taken + batches // (optimizer.gradient_accumulation_steps or 1))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the warm-up, and warns if training ended (by its data or a callback) before the weight was 1."""
        self.model.warm_up_kl()
        self._warn_where_short(self._taken)

    @property
    def _taken(self) -> int:
        """The number of steps that the optimizer has taken."""
        return int(keras.ops.convert_to_numpy(self.model.steps_taken))

    def _warn_where_short(self, steps: int) -> None:
        if steps < self.steps and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"The KL warm-up takes longer than the training, {steps} steps, so that the bound is never maximised. "
                f"Received: steps={self.steps}",
                stacklevel=3,
            )
