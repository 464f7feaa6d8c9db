"""TensorFlow ops that tf2onnx does not know or gets wrong, as graphs of ops that ONNX has."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


class _Writer:
    """Adds ONNX ops to a graph; tensors are given and returned by name."""

    def __init__(self, graph: Any, name: str) -> None:
        self._graph, self._name = graph, name

    def __call__(self, op: str, *inputs: str | float, **attributes: Any) -> str:
        """Adds an op and returns its output; a number among its inputs becomes a constant in float32."""
        tensors = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        return self._graph.make_node(op, tensors, name=self._new_name(), attr=attributes).output[0]

    def is_boolean(self, tensor: str) -> bool:
        from onnx import TensorProto

        return self._graph.get_dtype(tensor) == TensorProto.BOOL

    def _constant(self, value: float) -> str:
        return self._graph.make_const(self._new_name(), np.array(value, np.float32)).output[0]

    def _new_name(self) -> str:
        from tf2onnx import utils

        return utils.make_name(self._name)


def _log1p(op: _Writer, x: str) -> str:
    """log(1 + x), which loses the digits of a small x: there it is 2 atanh(x / (2 + x))."""
    small = op("Mul", 2.0, op("Atanh", op("Div", x, op("Add", x, 2.0))))
    return op("Where", op("Less", op("Abs", x), 0.5), small, op("Log", op("Add", x, 1.0)))


def _expm1(op: _Writer, x: str) -> str:
    """exp(x) - 1 = tanh(x / 2) (exp(x) + 1), which keeps the digits of a small x."""
    return op("Mul", op("Tanh", op("Mul", x, 0.5)), op("Add", op("Exp", x), 1.0))


def _select(op: _Writer, condition: str, x: str, y: str) -> str:
    """Selects x where the condition holds, and y elsewhere.

    tf2onnx multiplies both by 0 or 1 and adds them, which makes NaN of a NaN or an infinity that is not selected.
    """
    if op.is_boolean(x):
        return op("Or", op("And", condition, x), op("And", op("Not", condition), y))
    return op("Where", condition, x, y)


_OPS: dict[str, Callable[..., str]] = {"Log1p": _log1p, "Expm1": _expm1, "SelectV2": _select}


def handlers() -> dict[str, tuple[Callable[..., None], list[str]]]:
    """The ops by name, in the form of tf2onnx's argument `custom_op_handlers`."""
    return {name: (functools.partial(_replace, write), []) for name, write in _OPS.items()}


def _replace(write: Callable[..., str], graph: Any, node: Any, name: str, arguments: list[str]) -> None:
    """Replaces a node; called by tf2onnx, with the node's name and further arguments, of which there are none."""
    inputs, output = list(node.input), node.output[0]
    shape, dtype = graph.get_shape(output), graph.get_dtype(output)
    graph.remove_node(name)
    result = write(_Writer(graph, name), *inputs)
    graph.make_node("Identity", [result], outputs=[output], name=name, shapes=[shape], dtypes=[dtype])
