"""How variational inference is exported: it implements the contract of `tfvae.exportable`."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.exportable import Arrays, Signature
from tfvae.inference import observations
from tfvae.inference.users_model import UsersModel

# Enough to reveal a wrong weight or op, and few enough to take no time.
_DRAWS = 64
_OF_DRAWS = "one draw of the latent variables from q for each row of noise epsilon from N(0, I)"
_OF_PREDICTIONS = "the mean and the standard deviation of the posterior predictive distribution"


class PosteriorExport(UsersModel):
    """The signatures of a fitted posterior: see `tfvae.export.PosteriorEndpoints`."""

    export_formats = ("SavedModel",)
    takes_units = False
    _readme = "posterior.md"

    def check_exportable(self) -> None:
        """Raises an error if the model cannot be exported: see `Exportable`."""
        if self.local is not None:
            raise NotImplementedError("a model with local latent variables has no export")
        if self.compute_dtype == "float64":
            raise NotImplementedError("a model in float64 has no export, because exports take and give float32")
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
        of_draws = Signature(sample, (epsilon,), request={"epsilon": [0.0] * self.space.dim}, meaning=_OF_DRAWS)
        if self.predictive is not None:
            function, specs, first_row = self._prediction(x)
            predict = Signature(function, specs, meaning=_OF_PREDICTIONS)
            by_default = dataclasses.replace(predict, request=first_row)
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

    def _prediction(
        self, x: Any
    ) -> tuple[Callable[..., dict[str, tf.Tensor]], tuple[tf.TensorSpec, ...], dict[str, Any]]:
        """The function that predicts from new data, its inputs, and the first row of x by name, ready for JSON."""
        arrays = _columns(x)

        def predict(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            # All inputs of a signature are float32, whatever dtype the model's own data have.
            given, wrong = dict(zip(arrays, tensors, strict=True)), []
            for name, array in arrays.items():
                if array.dtype.kind in "biu":
                    given[name], nan = _whole(given[name], array)
                    wrong.append(nan)
            moments = self.predict_moments(given if isinstance(x, dict) else given["x"])
            for nan in wrong:
                moments = {
                    name: moment + tf.reshape(nan, [-1] + [1] * (moment.shape.rank - 1))
                    for name, moment in moments.items()
                }
            return moments

        specs = tuple(tf.TensorSpec([None, *array.shape[1:]], tf.float32, name) for name, array in arrays.items())
        return predict, specs, {name: array[0].tolist() for name, array in arrays.items()}


def _whole(tensor: tf.Tensor, array: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Values in the dtype of an array, and for each row 0, or NaN if a value is none of that dtype, such as 1.5 or NaN.

    Such a value is replaced by one of the array, because in a lookup it could fail for all rows.
    """
    whole = tf.cast(tensor, array.dtype)
    is_whole = tf.equal(tf.cast(whole, tf.float32), tensor)
    is_right = tf.reduce_all(is_whole, axis=list(range(1, tensor.shape.rank)))
    return tf.where(is_whole, whole, array[:1]), tf.where(is_right, 0.0, math.nan)


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
