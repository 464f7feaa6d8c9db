"""What an exported approximate posterior can be asked: draws of it, and predictions."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfvae import checks
from tfvae.export.client import load
from tfvae.export.endpoints import checked
from tfvae.export.verification import agreement, check_row
from tfvae.inference import observations
from tfvae.inference.variational_inference import VariationalInference

# Enough to see a wrong weight or op, few enough to take no time.
_COMPARED_ROWS = 64

_Arrays = dict[str, np.ndarray]
_Function = Callable[..., dict[str, tf.Tensor]]


class PosteriorEndpoints(tf.Module):
    """The functions of a fitted `tfvae.VariationalInference`, in float32, over one copy of its weights.

    Each takes and gives tensors that lead with the batch. B batch, L the dimension of the unconstrained space:

    - `sample(epsilon [B, L])`: the latent variables by name, each [B, ...]: the draws of q that the noise
      epsilon ~ N(0, I) stands for;
    - `predict(x [B, ...])`: `mean` and `stddev` [B, ...] of the posterior predictive distribution, where the model has
      `predictive`; of a dictionary the inputs have the names;
    - `serving_default`: `predict` where it is there, and else `sample`.

    Args:
        model: a model that is fitted.
        x: new data as `predictive` takes them, an array or a dictionary of arrays; needed where the model has that.

    Raises:
        ValueError: the model is not fitted, or x is not what it must be.
        NotImplementedError: a part of the model cannot be exported.
    """

    def __init__(self, model: VariationalInference, x: Any = None) -> None:
        super().__init__(name="tfvae")
        if model.local is not None:
            raise NotImplementedError("a model with local latent variables has no export")
        if float(model.approximation.standardized) == 0.0:
            raise ValueError("`model` must be fitted before it is exported. Received: a model that is not")
        self.parameters = [weight.value for weight in model.approximation.weights]
        self.signatures_by_name = {}
        for name, (inputs, function) in _questions(model, x).items():
            specs = tuple(tf.TensorSpec([None, *array.shape[1:]], tf.float32, key) for key, array in inputs.items())
            graph = tf.function(checked(function, specs), input_signature=specs)
            self.signatures_by_name[name] = graph.get_concrete_function()


def check_posterior_agreement(model: VariationalInference, x: Any, folder: Path) -> None:
    """Raises ValueError unless a SavedModel gives what the Keras model does.

    Args:
        model: the model that was exported.
        x: as for `PosteriorEndpoints`.
        folder: the SavedModel.
    """
    exported = load(folder)
    for signature, (inputs, function) in _questions(model, x).items():
        received = exported.run(signature, **inputs)
        for output, value in function(*inputs.values()).items():
            check_row(agreement("SavedModel", signature, output, received[output], value.numpy()))


def metadata(model: VariationalInference) -> dict[str, Any]:
    """Describes a fitted posterior: its latent variables, its family and the version of tfvae, ready for JSON."""
    return {
        "tfvae_version": importlib.metadata.version("tfvae"),
        "latents": {name: list(shape) for name, shape in model.space.shapes.items()},
        "dim": model.space.dim,
        "posterior": type(model.posterior).__name__,
    }


def _questions(model: VariationalInference, x: Any) -> dict[str, tuple[_Arrays, _Function]]:
    """For each signature inputs by name, and the function of the model behind it."""

    def sample(epsilon: tf.Tensor) -> dict[str, tf.Tensor]:
        # An output that is the input itself would lose its name.
        latents = model.space.constrain(model.approximation.sample_from(tf.convert_to_tensor(epsilon)))[0]
        return {name: tf.identity(value) for name, value in latents.items()}

    noise = np.random.default_rng(0).standard_normal([_COMPARED_ROWS, model.space.dim]).astype(np.float32)
    questions: dict[str, tuple[_Arrays, _Function]] = {"sample": ({"epsilon": noise}, sample)}
    if model.predictive is not None:
        questions["predict"] = _prediction(model, x)
    elif x is not None:
        raise ValueError("`x` must be None for a model without `predictive`")
    return {**questions, "serving_default": questions.get("predict", questions["sample"])}


def _prediction(model: VariationalInference, x: Any) -> tuple[_Arrays, _Function]:
    if x is None or isinstance(x, tf.data.Dataset | tuple | list):
        raise ValueError(
            "`x` must hold new data as `predictive` takes them, an array or a dictionary of arrays, whose shapes the "
            f"export takes. Received: {type(x).__name__}"
        )
    arrays = {name: checks.to_numpy(array, name) for name, array in (x if isinstance(x, dict) else {"x": x}).items()}
    observations.check_rows(arrays)
    dtypes = {name: array.dtype if array.dtype.kind in "biu" else np.float32 for name, array in arrays.items()}

    def predict(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        # A caller sends float32 alone, whatever the model computes with.
        given = {name: tf.cast(tensor, dtypes[name]) for name, tensor in zip(arrays, tensors, strict=True)}
        return model.predict_moments(given if isinstance(x, dict) else given["x"])

    return {name: array[:_COMPARED_ROWS].astype(np.float32) for name, array in arrays.items()}, predict
