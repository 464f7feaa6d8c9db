"""Copies in float32 of models that compute in half precision, for exports."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def policy_of_new_layers(policy: str) -> Iterator[None]:
    """Sets Keras's global dtype policy for layers made within this context, such as those a user's network makes.

    Keras keeps the policy per thread, so other threads do not see the change. A separate thread would not work instead:
    the custom objects that the user has registered, as by `keras.saving.custom_object_scope`, are per thread too.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def with_float32(config: Any) -> Any:
    """A copy of a Keras configuration in which every dtype policy is float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {key: with_float32(value) for key, value in config.items()}
    return [with_float32(value) for value in config] if isinstance(config, list) else config
