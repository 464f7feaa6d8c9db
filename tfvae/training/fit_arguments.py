"""The arguments of `fit` and `evaluate`, looked at before Keras gets them."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfvae.distribute import replicas


def arguments_of(model: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name, once they are checked.

    Args:
        model: a `tfvae.VariationalModel`.
        method: `keras.Model.fit` or `keras.Model.evaluate`.
        args: the arguments of the call.
        kwargs: the arguments of the call.

    Raises:
        ValueError: the model is not compiled as it must be, or cannot take the data.
    """
    arguments = inspect.signature(method).bind(model, *args, **kwargs).arguments
    arguments.pop("self")
    _check_compiled(model, method.__name__)
    replicas.check(model)
    arguments["x"] = model.check_source(arguments["x"], "x")
    if arguments.get("y") is None:
        if arguments.get("class_weight") is not None:
            raise ValueError("`class_weight` needs the classes as `y`. Received: y=None")
        # Keras drops the weights of x without y; y is not used.
        arguments["y"] = arguments.get("sample_weight")
    return {**arguments, **arguments.pop("kwargs", {})}


def callbacks_of(arguments: dict[str, Any]) -> list[keras.callbacks.Callback]:
    """The callbacks that `fit` was given, as a list that the arguments hold from here on."""
    given = arguments.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList):
        return given.callbacks
    arguments["callbacks"] = [given] if isinstance(given, keras.callbacks.Callback) else list(given or [])
    return arguments["callbacks"]


def check_validation(model: Any, arguments: dict[str, Any]) -> None:
    """Checks `validation_data`, and gives it the form in which Keras keeps the sample weights.

    Args:
        model: a `tfvae.VariationalModel`.
        arguments: those of `keras.Model.fit`, by name.
    """
    validation = arguments.get("validation_data")
    if isinstance(validation, tuple | list):
        model.check_source(next(iter(validation), None), "validation_data")
        x_validation, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(validation))
        arguments["validation_data"] = (x_validation, sample_weight if y is None else y, sample_weight)
    elif validation is not None:
        arguments["validation_data"] = model.check_source(validation, "validation_data")


def _check_compiled(model: keras.Model, method: str) -> None:
    if not model.compiled:
        raise ValueError(f"Call `compile()` before `{method}()`. Received: a model that is not compiled")
    config = model.get_compile_config() or {}
    for argument in ("loss", "metrics", "weighted_metrics"):
        if config.get(argument) is not None:
            raise ValueError(
                f"`compile({argument}=...)` has no meaning here: the model's objective is its loss, and its "
                f"metrics are loss, elbo, log_likelihood and kl. Received: {argument}={config[argument]!r}"
            )
