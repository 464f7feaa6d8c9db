"""Which model has a part: no two models may train the same critic or prior of codes."""

import weakref

import keras


def refuse_shared(name: str, part: keras.layers.Layer, model: keras.Model, what: str | None = None) -> None:
    """Raises ValueError if another model has a part: see `claim`.

    Args:
        name: the argument's name.
        part: the part.
        model: the model that is to have it.
        what: what is shared, for the message; None means the argument itself.
    """
    owner = getattr(part, "_owner", lambda: None)()
    if owner is None or owner is model:
        return
    raise ValueError(
        f"`{name}` must be one that no other model has: {what or 'it'} would be shared, and trained by both. Make a "
        f"new {name} for each model. Received: {name} of another {type(owner).__name__}"
    )


def claim(part: keras.layers.Layer, model: keras.Model) -> None:
    """Makes a part that of a model, as long as there is the model, so that no other one can have it.

    Args:
        part: the part.
        model: the model, of which all parts fit together.
    """
    # Through __dict__, and weakly, because a part has no model among its layers, nor keeps one.
    part.__dict__["_owner"] = weakref.ref(model)
