"""The units of exports: with an offset and a scale they take and give raw data, and scale inside the graph."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks
from tfvae.exportable import Arrays, Exportable, Signature

# Signatures of this suffix take and give the model's own units, where those without it have raw units.
SUFFIX = "_normalized"
_FORMULA = "model units = (x - offset) / scale, which the export computes itself"
# The largest rounding of raw data, relative to the scale.
_LARGEST_STEP = 1e-3
# How far from a whole number a value may be by rounding alone.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """How raw data become those of the model: x = (raw - offset) / scale.

    Args:
        offset: float32, broadcasts to the event shape.
        scale: as `offset`.
        of: the offset and the scale of each input and output that is in the units of the data, by name; None for an
            input that has no raw units.
    """

    offset: np.ndarray
    scale: np.ndarray
    of: Mapping[str, tuple[np.ndarray, np.ndarray] | None]

    def to_raw(self, arrays: Mapping[str, Any]) -> Arrays:
        """Inputs or outputs by name, in raw units, from those in the model's units."""
        return {name: self._apply(name, array, lambda x, o, s: x * s + o) for name, array in arrays.items()}

    def to_model(self, arrays: Mapping[str, Any]) -> Arrays:
        """Inputs or outputs by name, in the model's units, from those in raw units.

        A value that is a whole number but for rounding becomes it, because a model may refuse a code or a bit that is
        not exact.
        """

        def normalized(raw: np.ndarray, offset: np.ndarray, scale: np.ndarray) -> np.ndarray:
            x = (raw - offset) / scale
            whole = np.round(x)
            return np.where(np.abs(x - whole) <= _ROUNDING * np.maximum(np.abs(whole), 1), whole, x)

        return {name: self._apply(name, array, normalized) for name, array in arrays.items()}

    def describe(self) -> dict[str, Any]:
        """The units, ready for JSON."""
        return {"formula": _FORMULA, "offset": self.offset.tolist(), "scale": self.scale.tolist()}

    def _apply(self, name: str, array: Any, function: Callable[..., np.ndarray]) -> np.ndarray:
        # With Python's own numbers, not to leave float32 where the data are float32.
        own = self.of.get(name)
        return np.asarray(array) if own is None else function(np.asarray(array), *own)


def make(model: Exportable, offset: ArrayLike | None, scale: ArrayLike | None, x: Any = None) -> Units | None:
    """Checks the units of an export.

    Args:
        model: the model.
        offset: with `scale`, how raw data become those of the model, x = (raw - offset) / scale; numbers, or arrays
            that broadcast to the event shape. None means those of the model, `own_units`, or, if it has none, that the
            export takes x in the model's units.
        scale: see `offset`.
        x: the data that were passed to the export, or None.

    Raises:
        ValueError: only one of them is given, the model takes neither, or one has a value or a shape that is invalid.
    """
    if not model.takes_units:
        if offset is not None or scale is not None:
            raise ValueError(
                "`offset` and `scale` must be None, because this model takes raw data. Received: "
                f"offset={checks.shown(offset)}, scale={checks.shown(scale)}"
            )
        return None
    if offset is None and scale is None and model.own_units is not None:
        offset, scale = model.own_units
    if (offset is None) != (scale is None):
        received = f"offset={checks.shown(offset)}, scale={checks.shown(scale)}"
        raise ValueError(f"`offset` and `scale` must be given together. Received: {received}")
    if offset is None or scale is None:
        return None
    specs = [spec for signature in model.export_signatures(x).values() for spec in signature.inputs]
    arrays = _float32("offset", offset), _float32("scale", scale)
    if not arrays[1].all():
        raise ValueError(f"`scale` must not hold 0. Received: scale={checks.shown(scale)}")
    of = model.export_units(*arrays)
    for spec in specs:
        for argument, array in zip(("offset", "scale"), of.get(spec.name) or (), strict=False):
            _check_broadcasts(argument, array, tuple(spec.shape[1:]))
    _check_digits(*arrays)
    return Units(*arrays, of)


def read(model: Exportable, metadata: Mapping[str, Any], x: Any = None) -> Units | None:
    """The units of an exported file, from its description; None if its signatures take the model's units.

    Args:
        model: the model that was exported.
        metadata: the description of the file.
        x: the data that were passed to the export, or None.
    """
    scaling = metadata.get("scaling")
    return None if scaling is None else make(model, scaling["offset"], scaling["scale"], x)


def signatures(model: Exportable, units: Units | None, x: Any = None) -> dict[str, Signature]:
    """The functions of an export.

    Args:
        model: the model.
        units: None means that the functions are the model's own. Otherwise they take and give raw units, and all of
            them except `serving_default` and draws are there in the model's units too, by a name with "_normalized".
        x: the data that were passed to the export, or None.
    """
    own = model.export_signatures(x)
    if units is None:
        return own
    return {name: _in_raw_units(each, units) for name, each in own.items() if _is_in_raw_units(each, units)} | {
        f"{name}{SUFFIX}": dataclasses.replace(signature, request=None)
        for name, signature in own.items()
        if _is_in_both_units(name, signature)
    }


def examples(model: Exportable, units: Units | None, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
    """The inputs of each function of an export, each with N rows.

    Args:
        model: the model.
        units: as for `signatures`.
        x: the result of `export_data`.
        calibrating: see `Exportable.export_examples`.
    """
    own = model.export_examples(x, calibrating)
    if units is None:
        return own
    named = model.export_signatures(x)
    return {name: units.to_raw(own[name]) for name, each in named.items() if _is_in_raw_units(each, units)} | {
        f"{name}{SUFFIX}": own[name] for name, each in named.items() if _is_in_both_units(name, each)
    }


def _is_in_both_units(name: str, signature: Signature) -> bool:
    """Whether a function is there in the model's units too: not the default, and not draws, which stand for data."""
    return name != "serving_default" and not signature.draws


def _is_in_raw_units(signature: Signature, units: Units) -> bool:
    """Whether all inputs of a function that are in the units of the data have raw units."""
    return all(units.of.get(spec.name, ()) is not None for spec in signature.inputs)


def _in_raw_units(signature: Signature, units: Units) -> Signature:
    """The signature with the same names, which takes and gives raw units."""
    names = [spec.name for spec in signature.inputs]

    def function(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = (_normalized(tensor, *(units.of.get(name) or ())) for name, tensor in zip(names, tensors, strict=True))
        outputs = signature.function(*inputs)
        return {name: _raw(output, *(units.of.get(name) or ())) for name, output in outputs.items()}

    return dataclasses.replace(
        signature,
        function=function,
        expected=lambda **inputs: units.to_raw(signature.of_model(units.to_model(inputs))),
        request=_raw_request(signature, units),
    )


def _normalized(tensor: tf.Tensor, offset: np.ndarray | float = 0.0, scale: np.ndarray | float = 1.0) -> tf.Tensor:
    """The tensor in the model's units, (tensor - offset) / scale, without an op that changes nothing."""
    if np.any(offset):
        tensor = tensor - offset
    return tensor / scale if np.any(scale != np.float32(1)) else tensor


def _raw(tensor: tf.Tensor, offset: np.ndarray | float = 0.0, scale: np.ndarray | float = 1.0) -> tf.Tensor:
    """The tensor in raw units, tensor * scale + offset, without an op that changes nothing."""
    # A constant shape, because the converter would put one that the graph computes between the ops.
    if None not in tensor.shape[1:]:
        tensor = tf.reshape(tensor, [-1, *tensor.shape[1:]])
    if np.any(scale != np.float32(1)):
        # The bound changes nothing, but keeps TFLite's converter from multiplying the weights of the last layer
        # instead, of which the file would then hold a second copy.
        tensor = tf.minimum(tensor, tensor.dtype.max) * scale
    return tensor + offset if np.any(offset) else tensor


def _raw_request(signature: Signature, units: Units) -> Any:
    """The example request in raw units."""
    if signature.request is None:
        return None
    is_named = isinstance(signature.request, dict)
    named = signature.request if is_named else {signature.inputs[0].name: signature.request}
    raw = {name: array.tolist() for name, array in units.to_raw(named).items()}
    return raw if is_named else raw[signature.inputs[0].name]


def _float32(argument: str, value: ArrayLike) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{argument}` must be a number or an array. Received: {argument}={checks.shown(value)}"
        ) from error
    if not np.isfinite(array).all():
        raise ValueError(f"`{argument}` must be finite in float32. Received: {argument}={checks.shown(value)}")
    return array


def _check_digits(offset: np.ndarray, scale: np.ndarray) -> None:
    """Raises ValueError if float32, in which an export takes x, has too few digits for raw data near the offset."""
    step = np.max(np.spacing(np.abs(offset)) / np.abs(scale))
    if step > _LARGEST_STEP:
        raise ValueError(
            f"`offset` must be at most some {_LARGEST_STEP / np.finfo(np.float32).eps:.0e} times `scale`, because an "
            "export takes x in float32, which would round raw data too much: subtract a constant from them before, or "
            f"give neither and scale by hand. Received: raw data near `offset` are rounded to {step:.1e} of `scale`"
        )


def _check_broadcasts(argument: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    # What differs along an axis of any size cannot be said.
    sizes = tuple(1 if size is None else size for size in shape)
    try:
        broadcasts = np.broadcast_shapes(array.shape, sizes) == sizes
    except ValueError:
        broadcasts = False
    if not broadcasts:
        raise ValueError(
            f"`{argument}` must be a number or an array that broadcasts to the shape of an example, {list(shape)}. "
            f"Received: {argument} of shape {list(array.shape)}"
        )
