"""The client: opens and calls an exported model, a SavedModel by plain TensorFlow or a .tflite file by LiteRT.

Keras and TFP are not needed here, and TensorFlow only for a SavedModel.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfvae import checks, chunks
from tfvae.export import expected_range, formats
from tfvae.export.formats.format import Call, Shapes

# The most rows that are computed at a time, so that memory does not grow with the data.
_BATCH_SIZE = 256
# The signatures of a VAE, and those of variational inference, by which a file is recognised if its metadata are lost.
_SIGNATURES = ({"encode", "decode", "reconstruct", "generate", "score"}, {"sample", "serving_default"})


class ExportedModel:
    """An exported model, with methods like those of the original model.

    In the shapes, N is the number of examples, `...` the event shape and L the latent dimension. x and means are in the
    units that `metadata["units"]` says: "raw", those of the source, which the export scales itself; or "model". For an
    exported `tfvae.ConditionalVAE` the methods also take `condition=` [N, C], for a `tfvae.SemiSupervisedVAE` `label=`
    [N].

    Args:
        call: a function that calls a signature, from its name and its inputs by name to its outputs by name.
        shapes: the shape of each input of each signature; the first size is None for a batch of any size.
        metadata: the description that was written with the export: event shape, normalisation and more; empty if its
            file is missing.
    """

    def __init__(self, call: Call, shapes: Shapes, metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self.signatures = tuple(shapes)
        self._call = call
        self._shapes = shapes
        self._ranges = _ranges(metadata)

    def encode(self, x: ArrayLike, **condition: ArrayLike) -> dict[str, np.ndarray]:
        """The parameters of q(z|x) by name, each [N, L], for x [N, ...]."""
        return self.run("encode", x=x, **condition)

    def decode(self, z: ArrayLike, **condition: ArrayLike) -> np.ndarray:
        """The mean of p(x|z) [N, ...], for z [N, L]."""
        return self.run("decode", z=z, **condition)["mean"]

    def reconstruct(self, x: ArrayLike, **condition: ArrayLike) -> np.ndarray:
        """The mean of p(x|z) [N, ...] at the mean of q(z|x), for x [N, ...]."""
        return self.run("reconstruct", x=x, **condition)["mean"]

    def generate(self, epsilon: ArrayLike, **condition: ArrayLike) -> np.ndarray:
        """The mean of p(x|z) [N, ...] at the draws z from the prior computed from noise epsilon ~ N(0, I) [N, L]."""
        return self.run("generate", epsilon=epsilon, **condition)["mean"]

    def score(self, x: ArrayLike, epsilon: ArrayLike, **condition: ArrayLike) -> dict[str, np.ndarray]:
        """`elbo`, `log_likelihood` and `kl`, each [N] in nats, for x [N, ...] and noise epsilon ~ N(0, I) [N, L]."""
        return self.run("score", x=x, epsilon=epsilon, **condition)

    def classify(self, x: ArrayLike) -> np.ndarray:
        """Semi-supervised models: the probabilities of the classes [N, K] under q(y|x), for x [N, ...]."""
        return self.run("classify", x=x)["probabilities"]

    def sample(self, epsilon: ArrayLike) -> dict[str, np.ndarray]:
        """Variational inference: draws of the latent variables by name, each [N, ...], from noise epsilon [N, L]."""
        return self.run("sample", epsilon=epsilon)

    def predict(self, **x: ArrayLike) -> dict[str, np.ndarray]:
        """Variational inference: `mean` and `stddev` [N, ...] of the predictive distribution, for new data by name."""
        return self.run("predict", **x)

    def run(self, signature: str, **arguments: ArrayLike) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature: its name, one of `signatures`.
            arguments: its inputs by name, each with N rows.

        Returns:
            Its outputs by name, float32.

        Raises:
            ValueError: there is no such signature or input, or an input has the wrong shape or dtype, no rows, or a
                value that is not finite in float32.

        Warns:
            UserWarning: x is beyond the range of the data of the export by more than its width. Pixels that were scaled
                although the export scales them are within the range, and so are told by their score alone.
        """
        if signature not in self._shapes:
            raise ValueError(f"`signature` must be one of {list(self._shapes)}. Received: signature={signature!r}")
        shapes = self._shapes[signature]
        if set(arguments) != set(shapes):
            expected = " and ".join(f"`{name}`" for name in shapes)
            raise ValueError(f"The inputs of {signature} must be {expected}. Received: {list(arguments)}")
        arrays = {}
        for name, shape in shapes.items():
            array = checks.to_numpy(arguments[name], name)
            checks.check_shape(array, shape[1:], name)
            if array.dtype != np.float32:
                with np.errstate(over="ignore"):
                    array = array.astype(np.float32)
            # Only counted at first, because finding the position takes several times as long.
            if np.count_nonzero(np.isfinite(array)) < array.size:
                may_miss = name == "x" and self.metadata.get("missing_values", False)
                checks.check_finite(array, name, allow_nan=may_miss)
            arrays[name] = array
            if name == "label" and "num_classes" in self.metadata:
                # -1 stands for the most probable label, which can be inferred if the signature takes x.
                _check_labels(arrays[name], -1 if "x" in shapes else 0, self.metadata["num_classes"])
        checks.check_same_length(**arrays)
        if self._ranges and "x" in arrays:
            self._ranges[signature.endswith("_normalized")].check(arrays["x"])
        rows = len(next(iter(arrays.values())))
        fixed = next(iter(shapes.values()))[0]
        if fixed is not None and rows % fixed:
            raise ValueError(f"This file takes examples in batches of {fixed}. Received: {rows} examples")
        batch = fixed or _BATCH_SIZE
        if rows <= batch:
            return self._call(signature, arrays)
        outputs = [
            self._call(signature, {name: array[part] for name, array in arrays.items()})
            for part in chunks.slices(rows, batch)
        ]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def load(path: str | os.PathLike[str], *, num_threads: int | None = None) -> ExportedModel:
    """Opens an exported model.

    Args:
        path: a .tflite file, a SavedModel folder, or a folder of versions, of which the newest is taken.
        num_threads: how many threads LiteRT uses; None lets it choose.

    Returns:
        The model.

    Raises:
        FileNotFoundError: there is no exported model at the path.
        ValueError: the model was not exported by tfvae.
    """
    file_format, path = formats.find(Path(path))
    call, shapes = file_format.open(path, num_threads)
    description = file_format.description(path)
    metadata = json.loads(description.read_text()) if description.is_file() else {}
    if "tfvae_version" not in metadata and not any(set(shapes) >= signatures for signatures in _SIGNATURES):
        raise ValueError(
            f"`path` must be a model that tfvae exported. Received: path={str(path)!r}, with the signatures "
            f"{list(shapes)}"
        )
    return ExportedModel(call, shapes, metadata)


def _ranges(metadata: dict[str, Any]) -> dict[bool, expected_range.ExpectedRange]:
    """The expected ranges of x, in the units of most signatures, and of those that take the model's units (True)."""
    expected, scaling = metadata.get("expected_range"), metadata.get("scaling")
    if expected is None:
        return {}
    ranges = {False: expected_range.ExpectedRange(expected)}
    if scaling is not None:
        ranges[True] = expected_range.ExpectedRange(expected, scaling["offset"], scaling["scale"])
    return ranges


def _check_labels(label: np.ndarray, lowest: int, num_classes: int) -> None:
    wrong = checks.find(label, lambda part: (part < lowest) | (part >= num_classes) | (part != np.floor(part)))
    if wrong is not None:
        raise ValueError(
            f"`label` must hold integers from {lowest} to {num_classes - 1}. Received: label with the value "
            f"{label[wrong]:g}"
        )
