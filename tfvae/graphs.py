"""Functions as graphs, of which each object is counted by itself."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def graph(function: Callable[..., Any], **kwargs: Any) -> Any:
    """A `tf.function` of a function that is defined anew for each model, or for each call.

    TensorFlow counts how often a line of code is traced, and warns of retracing where a process makes many models,
    although each function is traced once. It counts a `functools.partial` by the object.

    Args:
        function: the function, without control flow that AutoGraph would have to convert.
        kwargs: the other arguments of `tf.function`.

    Returns:
        The function as a graph.
    """
    return tf.function(functools.partial(function), autograph=False, **kwargs)
