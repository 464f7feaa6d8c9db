"""Pairs of latent variables and data: how `AmortizedInference` checks them, standardises them and trains on them."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.inference.latents import LatentSpace
from tfvae.networks import SetMean
from tfvae.training.batch import unpack_named

# The share of pairs by which it is decided when a training ends.
_HELD_OUT = 0.1


def checked_latents(space: LatentSpace, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The latent variables by name, as float32 arrays [N, ...].

    Args:
        space: the latent variables.
        values: their values by name; other names are ignored.

    Raises:
        ValueError: one is missing, has another shape or NaN, or they differ in length.
    """
    missing = [name for name in space.names if name not in values]
    if missing:
        raise ValueError(
            f"`theta` must hold the latent variables {', '.join(space.names)}. Received: none of the name "
            f"{missing[0]!r}"
        )
    arrays = {name: checks.to_numpy(values[name], name) for name in space.names}
    for name, shape in space.shapes.items():
        checks.check_shape(arrays[name], shape, name)
        checks.check_finite(arrays[name], name)
    checks.check_same_length(**arrays)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def check_latents(space: LatentSpace, values: Mapping[str, Any]) -> None:
    """Raises ValueError unless these are values of the latent variables within their constraints.

    Args:
        space: the latent variables.
        values: their values by name; other names are ignored.
    """
    arrays = checked_latents(space, values)
    z = space.unconstrain(arrays).numpy()
    outside = np.isnan(z).any(axis=1)
    if outside.any():
        row = int(outside.argmax())
        shown = checks.shown({name: array[row].tolist() for name, array in arrays.items()})
        raise ValueError(
            "`x` must hold latent variables within the support of the prior. Received: "
            f"{np.count_nonzero(outside)} rows outside of it, the first at index {row}: {shown}"
        )


def check_shape(x: np.ndarray, shape: tuple[int | None, ...], argument: str) -> None:
    """Raises ValueError unless x is [N, *shape], where sizes that are None are open."""
    if not tf.TensorShape(x.shape[1:]).is_compatible_with(shape):
        expected = ", ".join(["N", *("any" if size is None else str(size) for size in shape)])
        raise ValueError(
            f"`{argument}` must have the shape [{expected}]. Received: {argument} of shape {list(x.shape)}"
        )


def first(x: Any, names: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
    """Some pairs by name: of arrays, rows at equal distances; of a dataset, its first batches.

    Args:
        x: the pairs, as `fit` takes them.
        names: the names of the latent variables and of the data.
        count: about how many.

    Raises:
        ValueError: x is neither a dictionary nor a dataset, or it is empty.
    """
    if isinstance(x, dict):
        step = -(-len(next(iter(x.values()))) // count)
        return {name: x[name][::step] for name in names}
    batches: list[dict[str, np.ndarray]] = []
    rows = 0
    for element in x:
        batch = {name: np.asarray(value) for name, value in unpack_named(element, names)[0].items()}
        if batches and any(batch[name].shape[1:] != batches[0][name].shape[1:] for name in names):
            # Sets of another size.
            continue
        batches.append(batch)
        rows += len(batch[names[0]])
        if rows >= count:
            break
    if not batches:
        raise ValueError("`x` must hold at least one batch. Received: an empty dataset")
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}


def moments(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the standard deviation, over all axes but the last `rank`; 1 in the place of a deviation of 0."""
    axes = tuple(range(values.ndim - rank))
    values = values.astype(np.float64)
    loc, scale = values.mean(axis=axes), values.std(axis=axes)
    return loc, np.where(scale > 1e-6 * (np.abs(loc) + 1e-30), scale, 1.0)


def is_of_numbers(encoder: keras.Model | None) -> bool:
    """Whether an encoder of `tfvae.networks` takes each number of x [B, n] for an element of a set or a series."""
    # A subclassed model has no input shape, and None no layers.
    layers, shape = getattr(encoder, "layers", []), getattr(encoder, "input_shape", ())
    return len(shape) == 2 and any(isinstance(layer, SetMean) for layer in layers)


def has_schedule(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the learning rate follows a schedule of the user's."""
    return isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule)


def automatic(
    optimizer: keras.optimizers.Optimizer,
    given: dict[str, Any],
    online: bool,
    epochs: int,
    most_epochs: int,
    patience: int,
) -> tuple[int, list[keras.callbacks.Callback]]:
    """The number of epochs and the callbacks of a fit without `epochs`.

    Args:
        optimizer: that of the model.
        given: the other arguments of `fit`, to which this adds `validation_split` where pairs must be held out.
        online: whether each batch is simulated anew.
        epochs: the number of epochs online.
        most_epochs: the largest number otherwise.
        patience: after how many epochs without progress the training ends.
    """
    plain = not has_schedule(optimizer)
    if online:
        rate = float(optimizer.learning_rate)

        def cosine(epoch: int, _: float) -> float:
            return rate * 0.5 * (1.0 + np.cos(np.pi * epoch / epochs))

        return epochs, [keras.callbacks.LearningRateScheduler(cosine)] if plain else []
    if given.get("validation_data") is None and not given.get("validation_split"):
        given["validation_split"] = _HELD_OUT
    # Not the loss, to which layers with regularisers add.
    watched: dict[str, Any] = {"monitor": "val_log_posterior", "mode": "max", "min_delta": 0.0}
    slower = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=patience // 3, **watched)
    stopping = keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True, **watched)
    return most_epochs, [slower, stopping] if plain else [stopping]
