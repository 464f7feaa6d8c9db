"""Methods that only the exported models with a certain signature have."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

_Method = TypeVar("_Method", bound=Callable[..., Any])


class _OfSignature:
    """A method that only the models with a certain signature have: others raise AttributeError.

    Args:
        method: the method.
        signature: the name of the signature.
    """

    def __init__(self, method: Callable[..., Any], signature: str) -> None:
        self._method, self._signature = method, signature
        functools.update_wrapper(cast(Any, self), method)

    def __get__(self, model: Any, owner: type) -> Any:
        if model is None:
            return self._method
        if self._signature not in model.signatures:
            name = self._method.__name__
            raise AttributeError(
                f"This model has no `{name}`, because it was exported without the signature {self._signature!r}. It "
                f"has the signatures {list(model.signatures)}",
                name=name,
                obj=model,
            )
        return self._method.__get__(model, owner)


def of_signature(name: str) -> Callable[[_Method], _Method]:
    """Decorates a method that only the models with a signature of this name have."""
    return lambda method: cast(Any, _OfSignature(method, name))
