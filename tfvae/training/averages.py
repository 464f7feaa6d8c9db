"""Averages of the weights over the steps, which an optimizer with `use_ema=True` keeps, in the place of the weights.

Keras's own `SwapEMAWeights` exchanges the two by sums and differences, whose rounding changes the weights; it knows the
optimizer of `compile` alone; and the `fit` of Keras ends by overwriting the weights. Here they are exchanged exactly,
so that training goes on from the same weights as if nobody had looked at the averages.
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from tfvae import private_apis
from tfvae.training.step import Minimizer


def swap(minimizers: Sequence[Minimizer]) -> bool:
    """Exchanges the weights with their averages, those of each optimizer that has some.

    Args:
        minimizers: those of a model that is compiled; an optimizer without `use_ema` keeps no averages.

    Returns:
        Whether any were exchanged: an optimizer has none before its first step.
    """
    averaging = [
        each
        for each in minimizers
        if getattr(each.optimizer, "inner_optimizer", each.optimizer).use_ema
        and int(keras.ops.convert_to_numpy(each.optimizer.iterations)) > 0
    ]
    for each in averaging:
        for variable, average in private_apis.averages(each.optimizer, each.variables):
            weights = tf.identity(variable.value)
            variable.assign(average)
            average.assign(weights)
    return bool(averaging)


@contextlib.contextmanager
def kept(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Keeps Keras's `fit` from overwriting the weights at its end by what the optimizer has as their averages."""
    attributes = vars(optimizer)
    before = {name: attributes[name] for name in ("finalize_variable_values",) if name in attributes}
    attributes["finalize_variable_values"] = lambda variables: None
    try:
        yield
    finally:
        # A `fit` within a `fit` leaves what the outer one has set.
        del attributes["finalize_variable_values"]
        attributes.update(before)
