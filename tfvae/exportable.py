"""What a model must offer to be exported: its functions of tensors by name, and what files of them are compared on."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function of an export: a signature of a SavedModel or of a .tflite file.

    Args:
        function: takes the tensors of `inputs` in their order and gives its outputs by name, float32. All of them lead
            with the batch. TensorFlow must be able to trace it into a graph.
        inputs: the name, the dtype float32 and the shape of each input; the first size, that of the batch, is None.
        expected: what the model itself gives of the same inputs: takes arrays by name and gives arrays by name. Files
            are compared with it. None means `function`, evaluated eagerly.
        terms: by name, of how many terms an output is the sum, where it is one: each may add a rounding error.
        request: an example of one row for REST, ready for JSON, to be written to requests/ beside a served model: the
            inputs by name, or the value of the only one. None means that there is none.
    """

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: tuple[tf.TensorSpec, ...]
    expected: Callable[..., Mapping[str, ArrayLike]] | None = None
    terms: Mapping[str, int] = dataclasses.field(default_factory=dict)
    request: Any = None

    def of_model(self, inputs: Arrays) -> Arrays:
        """What the model itself gives.

        Args:
            inputs: arrays by name, as `Exportable.export_examples` gives them.
        """
        outputs: Mapping[str, Any]
        if self.expected is None:
            outputs = self.function(*(tf.constant(inputs[spec.name], spec.dtype) for spec in self.inputs))
        else:
            outputs = self.expected(**inputs)
        return {name: np.asarray(output) for name, output in outputs.items()}


class Exportable(metaclass=abc.ABCMeta):
    """A `keras.Model` that can be exported.

    `tfvae.export` knows a model by this class alone. A model of your own has to say what its functions are
    (`export_signatures`) and which weights they read (`export_weights`); the rest has defaults, which suit a model
    whose signatures take nothing but data.
    """

    built: bool
    predict: Callable[..., Any]
    # The names of the formats that can hold the model; None means all of them.
    export_formats: ClassVar[tuple[str, ...] | None] = None
    # The signature that gives what `predict` does, whose latency `tfvae.export.verify` measures.
    timed_signature: ClassVar[str] = "serving_default"
    # Whether x = (raw - offset) / scale may bring raw data into the model's units.
    takes_units: ClassVar[bool] = True

    @abc.abstractmethod
    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name, one of which is `serving_default`. None may be called "serve".

        Args:
            x: the data that the export was given, or None. Only a model that cannot know the shapes of its inputs
                without them reads them.

        Raises:
            ValueError: x is not what it must be.
            NotImplementedError: a part of the model cannot be exported.
        """

    @abc.abstractmethod
    def export_weights(self) -> list[Any]:
        """The Keras variables that the functions read, which an export holds once."""

    def check_exportable(self) -> None:
        """Raises an error where the model has no export, or none yet.

        Raises:
            ValueError: the model is not ready: here, not built.
            NotImplementedError: a model of this kind has no export.
        """
        if not self.built:
            raise ValueError("`model` must be built before it is exported: fit it, or call it. Received: a new model")

    def in_float32(self) -> Self:
        """The model itself, or a copy where it computes in half precision, which many devices lack."""
        return self

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data to compare or to calibrate an export with, in the form in which `predict` takes them.

        Args:
            x: what the export was given: an array [N, ...] or a dictionary of arrays. None means that nothing was,
                and that the model may draw data itself.
            rows: how many rows to take; None means all.

        Returns:
            An array, or a dictionary of arrays; float32 where the model computes with float32.

        Raises:
            ValueError: x is not data of the model.
        """
        if x is None:
            raise ValueError("`x` must hold data to compare the export with. Received: x=None")
        return tf.nest.map_structure(lambda array: checks.to_numpy(array)[:rows], x)

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature by name, each with N rows.

        Unless a model overrides this, they are the data themselves: an array is the input `x`, and a dictionary has
        the inputs by name.

        Args:
            x: what `export_data` gave, N rows.
            calibrating: whether the ranges of activations are taken from the examples, rather than files compared.
        """
        given = x if isinstance(x, dict) else {"x": x}
        return {
            name: {spec.name: given[spec.name] for spec in signature.inputs}
            for name, signature in self.export_signatures(x).items()
        }

    def export_description(self) -> dict[str, Any]:
        """What a caller must know of the model, ready for JSON.

        `tfvae.export.load` reads `missing_values`, whether NaN may stand in x for what is missing, and `num_classes`,
        below which an input `label` must be.
        """
        return {}

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README that is written beside a served model.

        Args:
            signatures: what `export_signatures` gave.

        Returns:
            For each section a file of `tfvae/export/templates`, and the values of its fields beside those that
            `tfvae.export.documents` has for all of them.
        """
        return [("model.md", {})]
