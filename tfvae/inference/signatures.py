"""How variational inference is exported: it implements the contract of `tfvae.exportable`."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.exportable import Arrays, Exportable, Signature
from tfvae.inference import observations

# Enough to reveal a wrong weight or op, and few enough to take no time.
_DRAWS = 64


class PosteriorExport(Exportable, keras.Model):
    """The signatures of a fitted posterior: see `tfvae.export.PosteriorEndpoints`."""

    export_formats = ("SavedModel",)
    takes_units = False

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported: see `Exportable`."""
        if self.local is not None:
            raise NotImplementedError("a model with local latent variables has no export")
        if float(self.approximation.standardized) == 0.0:
            raise ValueError("`model` must be fitted before it is exported. Received: a model that is not")

    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name: see `Exportable`.

        Args:
            x: new data in the form that `predictive` takes, an array or a dictionary of arrays; required if and only if
                the model has `predictive`.
        """

        def sample(epsilon: tf.Tensor) -> dict[str, tf.Tensor]:
            # Without `identity`, an output that is the input tensor itself would lose its name.
            latents = self.space.constrain(self.approximation.sample_from(tf.convert_to_tensor(epsilon)))[0]
            return {name: tf.identity(value) for name, value in latents.items()}

        epsilon = tf.TensorSpec([None, self.space.dim], tf.float32, "epsilon")
        of_draws = Signature(sample, (epsilon,), request={"epsilon": [0.0] * self.space.dim})
        if self.predictive is not None:
            function, specs, first_row = self._prediction(x)
            predict = Signature(function, specs)
            by_default = Signature(function, specs, request=first_row)
            return {"sample": of_draws, "predict": predict, "serving_default": by_default}
        if x is not None:
            raise ValueError(
                f"`x` must be None for a model without `predictive`. Received: x of type {type(x).__name__}"
            )
        return {"sample": of_draws, "serving_default": of_draws}

    def export_weights(self) -> list[Any]:
        """The weights of q, including those of the coordinates in which it is defined."""
        return list(self.approximation.weights)

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data with which an export is compared: see `Exportable`.

        Args:
            x: as for `export_signatures`.
            rows: how many rows to take; None means all.
        """
        if x is None:
            return None
        arrays = {name: array[:rows] for name, array in _columns(x).items()}
        return arrays if isinstance(x, dict) else arrays["x"]

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature: see `Exportable`.

        Args:
            x: the result of `export_data`, N rows; None for a model without `predictive`.
            calibrating: has no effect.
        """
        noise = np.random.default_rng(0).standard_normal([_DRAWS, self.space.dim]).astype(np.float32)
        examples = {"sample": {"epsilon": noise}}
        if x is not None:
            examples["predict"] = {name: array.astype(np.float32) for name, array in _columns(x).items()}
        return {**examples, "serving_default": examples.get("predict", examples["sample"])}

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
            signatures: the result of `export_signatures`.
        """
        latents = ", ".join(f"{name} {list(shape)}" for name, shape in self.space.shapes.items())
        sections = [("posterior.md", {"latents": latents, "dim": self.space.dim})]
        if "predict" in signatures:
            specs = signatures["predict"].inputs
            shapes = [f"{spec.name} [{', '.join(['B', *map(str, spec.shape[1:])])}]" for spec in specs]
            sections.append(("prediction.md", {"inputs": ", ".join(shapes)}))
        return sections

    def _prediction(
        self, x: Any
    ) -> tuple[Callable[..., dict[str, tf.Tensor]], tuple[tf.TensorSpec, ...], dict[str, Any]]:
        """The function that predicts from new data, its inputs, and the first row of x by name, ready for JSON."""
        arrays = _columns(x)
        dtypes = {name: array.dtype if array.dtype.kind in "biu" else np.float32 for name, array in arrays.items()}

        def predict(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            # All inputs of a signature are float32, whatever dtype the model's own data have.
            given = {name: tf.cast(tensor, dtypes[name]) for name, tensor in zip(arrays, tensors, strict=True)}
            return self.predict_moments(given if isinstance(x, dict) else given["x"])

        specs = tuple(tf.TensorSpec([None, *array.shape[1:]], tf.float32, name) for name, array in arrays.items())
        return predict, specs, {name: array[0].tolist() for name, array in arrays.items()}


def _columns(x: Any) -> Arrays:
    """Checks new data, and returns the arrays by name."""
    if x is None or isinstance(x, tf.data.Dataset | tuple | list):
        raise ValueError(
            "`x` must hold new data as `predictive` takes them, an array or a dictionary of arrays, to define the "
            f"shapes of the export's inputs. Received: {type(x).__name__}"
        )
    arrays = {name: checks.to_numpy(array, name) for name, array in (x if isinstance(x, dict) else {"x": x}).items()}
    observations.check_rows(arrays)
    return arrays
