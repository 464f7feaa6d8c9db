"""What a model must offer to be exported: named functions of tensors, and the inputs on which exports are compared."""

import abc
import dataclasses
import html
import importlib
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks

Arrays = dict[str, np.ndarray]
# What Markdown takes for more than text, but for an underscore within a word.
_MARKUP = re.compile(r"([\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def as_markdown(text: str) -> str:
    """A text of the user's, such as the name of a column, as Markdown that shows it as it is, on one line."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


@dataclasses.dataclass(frozen=True)
class NamedColumns:
    """How x is made of named inputs: the numbers and codes of a table [B, D] of its columns, the codes of a text of it.

    Formats that take texts have these inputs in the place of x.

    Args:
        specs: their names, dtypes (float32, or string) and shapes, [None].
        in_graph: a function from their tensors by name to x, which is infinite where a value is not of its column.
        raw: a function from x [N, D] to the inputs by name, each [N].
        arguments: the names of the inputs by those of the columns, which may hold any characters.
        meanings: what each input is, by name, in words.
        called: what all of them together are, in a table of inputs.
        wrong: which of their values are wrong, in words.
        resources: what `in_graph` reads besides weights, such as tables, which an export must hold.
    """

    specs: tuple[tf.TensorSpec, ...]
    in_graph: Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
    raw: Callable[[np.ndarray], Arrays]
    arguments: Mapping[str, str]
    meanings: Mapping[str, str]
    called: str = "the columns"
    wrong: str = "infinity, a number that is not 0 or 1, or not a count, where it must be, or a text that is not a date"
    resources: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function of an export: a signature of a SavedModel or of a .tflite file.

    Args:
        function: a function from the tensors of `inputs`, in that order, to the outputs by name, float32. The first
            axis of every input and output is the batch. TensorFlow must be able to trace the function into a graph.
        inputs: the name, the dtype float32 and the shape of each input; the first size, that of the batch, is None, and
            so is any other that is open, as the steps of a sequence are.
        expected: a function from the same inputs, as arrays by name, to the model's own outputs, as arrays by name.
            Exports are compared with its results. None means `function`, evaluated eagerly.
        terms: for each output that is a sum, by name, how many terms it sums, or how large they are: each may add a
            rounding error of its size.
        request: an example of one row for a REST request, ready for JSON, which is written to requests/ beside a served
            model: the inputs by name, or the value of the only input. None means that no example is written.
        meaning: what it computes, in a few words for the table of the README.
        draws: whether it computes draws, which may jump where a number is rounded. A file whose arithmetic is coarser
            than float32 lacks it, and so may a file of an earlier version.
        jumps: for each output [N] that is 1 where another is above a number and otherwise 0, by name, the name of the
            other and the number. Rounding may put the other on either side of it.
        of_steps: the names of the inputs and outputs whose second axis is the steps of a sequence, if a shorter one may
            be given, which is padded with NaN at its end; outputs are then as long as it. Formats with a fixed length
            take no shorter one.
        with_nan: the names of the outputs in which NaN has a meaning. A file without NaN lacks such a function.
        columns: what stands in the place of the input x in formats that take texts; None means x itself.
    """

    function: Callable[..., dict[str, tf.Tensor]]
    inputs: tuple[tf.TensorSpec, ...]
    expected: Callable[..., Mapping[str, ArrayLike]] | None = None
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    request: Any = None
    meaning: str = ""
    draws: bool = False
    jumps: Mapping[str, tuple[str, float]] = dataclasses.field(default_factory=dict)
    columns: NamedColumns | None = None
    with_nan: tuple[str, ...] = ()
    of_steps: tuple[str, ...] = ()

    @property
    def named_inputs(self) -> tuple[tf.TensorSpec, ...]:
        """The inputs in formats that take texts."""
        if self.columns is None:
            return self.inputs
        parts = (self.columns.specs if spec.name == "x" else (spec,) for spec in self.inputs)
        return tuple(spec for part in parts for spec in part)

    def named(self, inputs: Arrays) -> Arrays:
        """The inputs by name in formats that take texts.

        Args:
            inputs: arrays by the names of `inputs`.
        """
        if self.columns is None:
            return inputs
        others = {name: array for name, array in inputs.items() if name != "x"}
        return {**self.columns.raw(inputs["x"]), **others}

    def of_model(self, inputs: Arrays) -> Arrays:
        """The model's own outputs, by name.

        Args:
            inputs: arrays by name, as returned by `Exportable.export_examples`.
        """
        outputs: Mapping[str, Any]
        if self.expected is None:
            outputs = self.function(*(tf.constant(inputs[spec.name], spec.dtype) for spec in self.inputs))
        else:
            outputs = self.expected(**inputs)
        return {name: np.asarray(output) for name, output in outputs.items()}


class Exportable(metaclass=abc.ABCMeta):
    """A `keras.Model` that can be exported.

    This class is all that `tfvae.export` knows of a model. A model of your own must define its functions
    (`export_signatures`) and the weights that they read (`export_weights`). The other methods have defaults, which suit
    a model whose signatures take nothing but data.
    """

    built: bool
    predict: Callable[..., Any]
    # The names of the formats to which the model can be exported; None means all of them.
    export_formats: ClassVar[tuple[str, ...] | None] = None
    # The signature with the outputs of `predict`, whose latency `tfvae.export.verify` measures.
    timed_signature: ClassVar[str] = "serving_default"
    # The number of steps in formats of one length, of a model of any; None means that of the data passed to the export.
    export_length: int | None = None
    # Whether an export may take raw data and scale them itself: x = (raw - offset) / scale.
    takes_units: bool = True
    # The offset and the scale of an export for which none are given; None leaves x in the model's units.
    own_units: tuple[Any, Any] | None = None
    # For model cards: tags by which the model is found, and sentences on what any model of this kind cannot do.
    export_tags: tuple[str, ...] = ()
    export_limits: ClassVar[str] = "The answers are for data like those of the training."
    # The names of the axes of an input, beside the batch, by their number; others are called by theirs.
    export_axes: ClassVar[Mapping[int, tuple[str, ...]]] = {1: ("column",), 3: ("height", "width", "channel")}

    @abc.abstractmethod
    def export_signatures(self, x: Any = None) -> dict[str, Signature]:
        """The functions by name, one of which is `serving_default`. None may be called "serve".

        Args:
            x: the data that were passed to the export, or None. Only a model that needs data in order to know the
                shapes of its inputs reads them.

        Raises:
            ValueError: x is missing or invalid.
            NotImplementedError: a part of the model cannot be exported.
        """

    @abc.abstractmethod
    def export_weights(self) -> list[Any]:
        """The Keras variables that the functions read, of which an export contains one copy."""

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Keras's `Model.export`, with the signatures and the comparison of `tfvae.export`.

        Args:
            filepath: for "tf_saved_model" and "onnx", the folder to write, which replaces an earlier one; for "litert",
                the .tflite file.
            format: "tf_saved_model", a SavedModel; "litert", the same as `tfvae.export.tflite`; "onnx", the same as
                `tfvae.export.onnx`. `tfvae.export.saved_model` publishes versions for TF Serving instead.
            verbose: whether to print where the export is; None means yes.
            input_signature: must be None, because the signatures of a model are its own.
            kwargs: the other arguments of `tfvae.export.tflite` or `tfvae.export.onnx`; for "tf_saved_model" those are
                `x`, `offset` and `scale`.

        Raises:
            ValueError: an argument is out of its range, the model is not built, or the export does not agree with it.
            NotImplementedError: a part of the model cannot be exported.
            OSError: the export cannot be written.
        """
        # By name, because this module must not depend on the exports, whose libraries are only needed here.
        module = importlib.import_module("tfvae.export.keras_formats")
        module.export(self, filepath, format, verbose, input_signature, **kwargs)

    def check_exportable(self) -> None:
        """Checks that the model can be exported in its present state.

        Raises:
            ValueError: the model is not ready. By default this means that it is not built.
            NotImplementedError: models of this kind cannot be exported.
        """
        if not self.built:
            raise ValueError("`model` must be built before it is exported: fit it, or call it. Received: a new model")

    def in_float32(self) -> Self:
        """The model itself; or, if it computes in half precision, which many devices lack, a copy in float32."""
        return self

    def export_data(self, x: Any, rows: int | None = None) -> Any:
        """The data with which an export is compared or calibrated, in the form that `predict` takes.

        Args:
            x: the data that were passed to the export: an array [N, ...] or a dictionary of arrays. With None, the
                model may draw data itself.
            rows: how many rows to take; None means all.

        Returns:
            An array or a dictionary of arrays; float32 if the model computes in float32.

        Raises:
            ValueError: x is not valid data for the model.
        """
        if x is None:
            raise ValueError("`x` must hold data to compare the export with. Received: x=None")
        return tf.nest.map_structure(lambda array: checks.to_numpy(array)[:rows], x)

    def export_examples(self, x: Any, calibrating: bool = False) -> dict[str, Arrays]:
        """The inputs of each signature by name, each with N rows.

        By default the inputs are the data themselves: an array is the input `x`, and a dictionary holds the inputs by
        name.

        Args:
            x: the result of `export_data`, N rows.
            calibrating: whether the examples calibrate the ranges of activations, rather than compare an export.
        """
        given = x if isinstance(x, dict) else {"x": x}
        return {
            name: {spec.name: given[spec.name] for spec in signature.inputs}
            for name, signature in self.export_signatures(x).items()
        }

    def export_units(self, offset: np.ndarray, scale: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray] | None]:
        """Which inputs and outputs are in the units of the data, x = (raw - offset) / scale.

        An export with an offset and a scale takes and gives these in raw units. By default they are the inputs named x.

        Args:
            offset: float32, broadcasts to the event shape.
            scale: as `offset`.

        Returns:
            For each input or output, by name, its own offset and scale, which broadcast to its shape for one example;
            None for an input that has no raw units, whose functions then take the model's units only.
        """
        return {"x": (offset, scale)}

    def export_example(self, signatures: Mapping[str, Signature]) -> Arrays:
        """One row of inputs of `serving_default`, in the model's units, to show in the description of an export.

        They are published with the model, so they must not come from data. By default they are zeros.

        Args:
            signatures: the result of `export_signatures`.
        """
        specs = signatures["serving_default"].inputs
        return {spec.name: np.zeros([1, *spec.shape[1:]], np.float32) for spec in specs}

    def export_meanings(self) -> Mapping[str, str]:
        """What the inputs and outputs of the signatures mean, by name, for the descriptions of an export."""
        return {}

    def export_description(self) -> dict[str, Any]:
        """What a caller must know about the model, ready for JSON.

        `tfvae.export` reads two of the keys: `missing_values`, whether NaN in x may mark a missing value, and
        `num_classes`, which an input `label` must be less than. Values that are wrong by them are refused by
        `tfvae.export.load`, and answered with NaN by the exported functions.
        """
        return {}

    def export_readme(self, signatures: Mapping[str, Signature]) -> list[tuple[str, dict[str, Any]]]:
        """The sections of the README that is written beside a served model.

        Args:
            signatures: the result of `export_signatures`.

        Returns:
            For each section, the name of a template in `tfvae/export/templates` and the values of its fields, except
            those that `tfvae.export.documents` provides to every template. The values are Markdown.
        """
        return [("model.md", {})]


def weight_count(model: Exportable) -> int:
    """How many numbers the weights of a model are, without the state of its noise, which `count_params` counts too."""
    return sum(math.prod(variable.value.shape) for variable in model.export_weights())
