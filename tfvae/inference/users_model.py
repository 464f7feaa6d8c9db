"""What models of the latent variables of a user's own Bayesian model have in common: their files and descriptions."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras

from tfvae.exportable import Exportable, Signature, as_markdown


class UsersModel(Exportable, keras.Model):
    """The base class of `tfvae.VariationalInference` and `tfvae.AmortizedInference`.

    The constructor of a subclass sets `space`, `posterior`, and `_given`, the arguments that are the user's own code.
    """

    # The layers and objects among the constructor's arguments, which a file holds.
    _saved: ClassVar[tuple[str, ...]]
    # The user's own code without which a loaded model still says what q is.
    _optional: ClassVar[tuple[str, ...]] = ()
    export_tags = ("variational-inference",)
    export_limits = (
        "The posterior is an approximation, which is as good as its importance weights say (k-hat), to that of a "
        "model which may be wrong."
    )
    # The section of an export's README.
    _readme: ClassVar[str]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments that a file can hold, and the names of those that are the user's own code."""
        saved = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self._saved}
        texts = {name: value for name, value in self._given.items() if isinstance(value, str)}
        own = [name for name, value in self._given.items() if value is not None and name not in texts]
        return {**super().get_config(), **saved, **texts, "own": own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Makes the model that `get_config` described, with new weights.

        A file holds q, but not the user's own distributions and functions. Pass those that are needed, under the names
        of the constructor's arguments, as `keras.saving.load_model(path, custom_objects={"model": model, ...})`.
        """
        config = dict(config)
        own = {name: keras.saving.get_registered_object(name, custom_objects) for name in config.pop("own")}
        missing = [name for name, value in own.items() if value is None and name not in cls._optional]
        if missing:
            raise ValueError(
                f"`custom_objects` must hold {missing}, which a file cannot hold: load_model(path, custom_objects="
                f"{{{missing[0]!r}: ...}}). Received: nothing under these names"
            )
        saved = {name: keras.saving.deserialize_keras_object(config[name]) for name in cls._saved}
        return cls(**{**config, **saved, **own})

    def export_description(self) -> dict[str, Any]:
        """The latent variables with their shapes, the dimension of the unconstrained space, and the family of q."""
        return {
            "latents": {name: list(shape) for name, shape in self.space.shapes.items()},
            "dim": self.space.dim,
            "posterior": type(self.posterior).__name__,
        }

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README: see `Exportable`.

        Args:
            signatures: has no effect.
        """
        latents = ", ".join(f"{as_markdown(name)} {list(shape)}" for name, shape in self.space.shapes.items())
        return [(self._readme, {"latents": latents})]
