"""Compares exported files with the Keras model, and measures what they cost."""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks
from tfvae.export import formats, tolerances, units
from tfvae.export.client import ExportedModel, load
from tfvae.export.endpoints import check_kind
from tfvae.export.report import TIMED_BATCHES, Agreement, Cost, Verification
from tfvae.exportable import Arrays, Exportable, Signature

# How many rows a file is given at a time before it is published. The last is enough to reveal a wrong weight or op; the
# others reveal shapes that are right for one size only.
_COMPARED_BATCHES = (64, 7, 1)

# The place of an exported model, or of several of one format.
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class DisagreementError(ValueError):
    """An exported file does not agree with the Keras model, so it is not published."""


def verify(
    model: Exportable,
    *,
    saved_model: Paths | None = None,
    tflite: Paths | None = None,
    onnx: Paths | None = None,
    x: ArrayLike,
    timed_calls: int = 50,
    **others: Paths | None,
) -> Verification:
    """Compares every signature of exported files with the Keras model on the same inputs and noise, and times them.

    Args:
        model: the model that was exported.
        saved_model: the folder of a version, or a folder of versions, of which the newest is taken.
        tflite: the .tflite file, or several, such as one for any batch and one for a batch of 1.
        onnx: the folder of ONNX models.
        x: data as for `fit` of the model, in its units: an array [N, ...], or a dictionary of arrays with N rows.
            Files that take raw data are given them in raw units.
        timed_calls: the number of calls over which the median latency is taken; 0 measures no latency.
        others: the file or folder of any other format, by its key in `tfvae.export.formats.FORMATS`.

    Returns:
        The differences of each output; and, for each format, its size, the difference of its ELBO, and its latency.

    Raises:
        ValueError: no file is given, or x is not valid data for the model.
        TypeError: a key of `others` is not a format.
    """
    paths = _given({"saved_model": saved_model, "tflite": tflite, "onnx": onnx, **others})
    if not paths:
        expected, received = (separator.join(formats.FORMATS) for separator in ("` or `", "=None, "))
        raise ValueError(f"`{expected}` must be given. Received: {received}=None")
    timed_calls = checks.positive_integer("timed_calls", timed_calls, minimum=0)
    check_kind(model)
    x = model.export_data(x)
    model.check_exportable()
    opened = [_opened(model, path) for _, path in paths]
    names = [_name(argument, exported) for (argument, _), exported in zip(paths, opened, strict=True)]
    asked = _questions_by_file(model, x, opened)
    answers = [_answers(exported, questions) for exported, questions in zip(opened, asked, strict=True)]
    agreements = [
        row
        for name, questions, outputs in zip(names, asked, answers, strict=True)
        for row in _agreements(name, questions, outputs)
    ]
    questions = asked[0]
    elbo = questions["score"].outputs.get("elbo") if "score" in questions else None
    latency = _latency(lambda batch: model.predict(batch, verbose=0), x, timed_calls)
    costs = [Cost("Keras", None, None, None, None if elbo is None else 0.0, latency)]
    for name, (_, given), exported, questions, outputs in zip(names, paths, opened, asked, answers, strict=True):
        path = formats.find(Path(given))[1]
        difference = None
        if elbo is not None:
            difference = float(np.mean(outputs["score"]["elbo"] - questions["score"].outputs["elbo"]))
        timed = functools.partial(_call, exported, model.timed_signature)
        latency = _latency(timed, questions[model.timed_signature].inputs, timed_calls)
        quantize = exported.metadata.get("quantize")
        costs.append(Cost(name, str(path), quantize, _size(path), difference, latency))
    return Verification(len(tf.nest.flatten(x)[0]), agreements, costs)


def check_agreement(
    model: Exportable, *, x: Any = None, own_tolerance: float | None = None, **files: str | os.PathLike[str] | None
) -> None:
    """Raises DisagreementError unless files agree with the Keras model, at every batch size and in every runtime.

    Args:
        model: the model that was exported.
        x: data as for `verify`; None lets the model draw them.
        own_tolerance: given for a file that is not as exact as the Keras model, because it is quantised. It must then
            agree with what it gives itself in its usual runtime for many rows at once, to this tolerance.
        files: the file or folder of each format, by its key in `tfvae.export.formats.FORMATS`.
    """
    most = max(_COMPARED_BATCHES)
    x = model.export_data(x, most)
    given = _given(files)
    opened = [_opened(model, path) for _, path in given]
    for (argument, path), exported, questions in zip(
        given, opened, _questions_by_file(model, x, opened, most), strict=True
    ):
        file_format = formats.FORMATS[argument]
        expected, reference, tolerance = questions, "the Keras model", file_format.tolerance
        if own_tolerance is not None:
            answers = _published(file_format.name, functools.partial(_answers, exported, questions))
            expected = {name: each.answered_by(answers[name]) for name, each in questions.items()}
            reference, tolerance = "its own answers to many rows", own_tolerance
        by_column = tolerance <= file_format.tolerance
        for size in _COMPARED_BATCHES:
            asked = {name: question.first(size) for name, question in expected.items()}
            answers = _published(file_format.name, functools.partial(_answers, exported, asked))
            _check(file_format.name, asked, answers, tolerance, reference, by_column)
        # Here the questions are of one row.
        for runtime, answer in file_format.other_runtimes.items():
            inputs = {name: question.inputs for name, question in asked.items()}
            in_runtime = f"{file_format.name} in {runtime}"
            answers = _published(in_runtime, functools.partial(answer, Path(path), inputs))
            _check(in_runtime, asked, answers, tolerance, reference, by_column)


def _check(
    name: str,
    questions: "dict[str, _Question]",
    answers: dict[str, Arrays],
    tolerance: float,
    reference: str,
    by_column: bool,
) -> None:
    """Raises DisagreementError if an output of an export is not what it should be.

    Args:
        name: the name of the format.
        questions: the questions, with the outputs that are expected.
        answers: the outputs, by signature and name.
        tolerance: the largest difference allowed, relative to the largest value.
        reference: what the export was compared with.
        by_column: whether each column must also agree for its own size. Columns of int8 share one step.
    """
    for signature, question in questions.items():
        for output in question.outputs:
            expected = question.numbers(output)
            received = question.settled(output, answers[signature])
            _check_shape(name, signature, output, received, expected)
            sizes = question.sizes[output] if by_column else tolerances.sizes(output, expected, None, {})
            differences = sizes.differences(received, expected)
            terms = question.signature.terms.get(output, 1)
            # The score of an example is a sum, of which the spread does not say how large its terms are; nor does that
            # of a column of terms.
            is_sum = expected.ndim == 1 or output in question.signature.terms
            allowed = sizes.allowed(tolerance, terms, by_column and not is_sum)
            wrong = ~((differences <= allowed) & np.isfinite(differences))
            if wrong.any():
                column = int(np.argmax(wrong))
                where = f" in column {column}" if len(wrong) > 1 else ""
                raise DisagreementError(
                    f"The {name} must agree with {reference} to {tolerance} before it is published. Received: "
                    f"`{signature}` gives `{output}` with a difference of {differences[column]:.2e}{where} where its "
                    f"size allows {allowed[column]:.2e}, both in the model's units"
                )


def agreement(format: str, signature: str, output: str, answers: Arrays, question: "_Question") -> Agreement:
    """Compares an output of an exported file with the Keras model's."""
    received = question.settled(output, answers)
    expected, sizes = question.numbers(output), question.sizes[output]
    _check_shape(format, signature, output, received, expected)
    difference = np.abs(received - expected)
    relative = sizes.differences(received, expected) / np.maximum(sizes.spread, np.finfo(float).tiny)
    values = (difference.max(), difference.mean(), np.abs(expected).max(), relative.max())
    return Agreement(format, signature, output, *map(float, values))


def _check_shape(format: str, signature: str, output: str, received: np.ndarray, expected: np.ndarray) -> None:
    if received.shape != expected.shape:
        raise DisagreementError(
            f"The {format} must give `{output}` of `{signature}` in the shape {expected.shape} of the Keras model's. "
            f"Received: the shape {received.shape}"
        )


class _Question(NamedTuple):
    """One signature, called with the same inputs in the Keras model and in a file.

    Attributes:
        signature: the signature.
        inputs: its inputs by name.
        outputs: the Keras model's outputs by name.
        sizes: how large these are, over all rows.
    """

    signature: Signature
    inputs: Arrays
    outputs: Arrays
    sizes: dict[str, tolerances.Sizes]

    def first(self, rows: int) -> "_Question":
        """The question about the first rows alone."""
        inputs, outputs = (
            {name: array[:rows] for name, array in arrays.items()} for arrays in (self.inputs, self.outputs)
        )
        return self._replace(inputs=inputs, outputs=outputs)

    def settled(self, output: str, answers: Arrays) -> np.ndarray:
        """An answer, but what is expected in rows where a difference of another output makes it jump.

        That difference is compared by itself. Where NaN is expected, the answer is 0 for NaN and infinite for a number.

        Args:
            output: the name of the output.
            answers: the outputs of an export by name.
        """
        received, expected = answers[output], self.outputs[output]
        if output in self.signature.with_nan and received.shape == expected.shape:
            return np.where(np.isnan(expected), np.where(np.isnan(received), 0.0, np.inf), received)
        if output not in self.signature.jumps:
            return received
        other, limit = self.signature.jumps[output]
        difference = np.abs(answers[other] - self.outputs[other])
        return np.where(np.abs(self.outputs[other] - limit) <= difference, self.outputs[output], received)

    def numbers(self, output: str) -> np.ndarray:
        """What is expected, with 0 where NaN is right."""
        expected = self.outputs[output]
        return np.where(np.isnan(expected), 0.0, expected) if output in self.signature.with_nan else expected

    def answered_by(self, outputs: Arrays) -> "_Question":
        """The question with other outputs in the place of the Keras model's."""
        return self._replace(outputs=outputs)


def _questions(model: Exportable, x: Any, scaling: units.Units | None, rows: int | None = None) -> dict[str, _Question]:
    """The question for each signature, by the name of the signature; with a number of rows, x is repeated up to it."""
    examples = units.examples(model, scaling, x)
    if rows is not None:
        examples = {
            name: {argument: np.resize(array, (rows, *np.shape(array)[1:])) for argument, array in inputs.items()}
            for name, inputs in examples.items()
        }
    signatures = units.signatures(model, scaling, x)
    is_table = signatures["serving_default"].columns is not None
    spread = tolerances.spread_of_data(model, examples["serving_default"] if is_table else x, is_table)
    questions = {}
    for name, signature in signatures.items():
        outputs = signature.of_model(examples[name])
        of_signature = None if name.endswith(units.SUFFIX) else scaling
        sizes = {output: tolerances.sizes(output, array, of_signature, spread) for output, array in outputs.items()}
        questions[name] = _Question(signature, examples[name], outputs, sizes)
    return questions


def _questions_by_file(
    model: Exportable, x: Any, opened: Sequence[ExportedModel], rows: int | None = None
) -> list[dict[str, _Question]]:
    """The questions for each file, in the units that its description says; files of the same units share them."""
    found: dict[str, dict[str, _Question]] = {}
    asked = []
    for exported in opened:
        scaling = exported.metadata.get("scaling")
        if scaling is None and any(name.endswith(units.SUFFIX) for name in exported.signatures):
            raise ValueError(
                "An exported file must lie beside its description, which says how it scales x. Received: "
                f"{exported!r}, which takes raw data, without it"
            )
        key = repr(scaling)
        if key not in found:
            found[key] = _questions(model, x, units.read(model, exported.metadata, x), rows)
        own = found[key].items()
        asked.append({name: each for name, each in own if name in exported.signatures or not _may_lack(each.signature)})
    return asked


def _may_lack(signature: Signature) -> bool:
    """Whether a file may be without a signature: one that draws, or one that decides, if it is from before that."""
    return signature.draws or bool(signature.jumps)


def _given(files: Mapping[str, Paths | None]) -> list[tuple[str, str | os.PathLike[str]]]:
    """The files that are given, each with the key of its format, in the order of the formats."""
    for argument, value in files.items():
        if argument not in formats.FORMATS:
            names = ", ".join(f"`{name}`" for name in formats.FORMATS)
            raise TypeError(
                f"The keyword arguments must be {names}, each for the files of a format, `x`, or `timed_calls`, of "
                f"which 0 measures no latency. Received: {argument}={checks.shown(value)}"
            )
    given = []
    for argument in formats.FORMATS:
        paths = files.get(argument)
        several = () if paths is None else [paths] if isinstance(paths, str | os.PathLike) else paths
        given += [(argument, path) for path in several]
    return given


def _name(argument: str, exported: ExportedModel) -> str:
    """The name of an exported model in a table."""
    batch_size = exported.metadata.get("batch_size")
    return formats.FORMATS[argument].name + (f" batch {batch_size}" if batch_size else "")


def _opened(model: Exportable, path: str | os.PathLike[str]) -> ExportedModel:
    exported = load(path)
    # Fills in what is missing if the file has lost its description.
    for name, value in model.export_description().items():
        exported.metadata.setdefault(name, value)
    return exported


def _call(exported: ExportedModel, signature: str, inputs: Arrays) -> Arrays:
    return exported.run(signature, **inputs)


def _answers(exported: ExportedModel, questions: dict[str, _Question]) -> dict[str, Arrays]:
    return {name: exported.run(name, **question.inputs) for name, question in questions.items()}


def _published(name: str, answers: Callable[[], dict[str, Arrays]]) -> dict[str, Arrays]:
    """The answers of a file that is about to be published, which must be able to give them."""
    try:
        return answers()
    except RuntimeError as error:
        # For example an int8 file that divides by what has been rounded to 0.
        raise DisagreementError(f"The {name} must run before it is published. Received: {error}") from error


def _agreements(format: str, questions: dict[str, _Question], answers: dict[str, Arrays]) -> list[Agreement]:
    return [
        agreement(format, name, output, answers[name], question)
        for name, question in questions.items()
        for output in question.outputs
    ]


def _latency(call: Callable[[Any], Any], x: Any, calls: int) -> dict[int, tuple[float, float, float]]:
    """The median and quartiles of the seconds per example, by batch size."""
    latency: dict[int, tuple[float, float, float]] = {}
    if not calls:
        return latency
    for batch_size in TIMED_BATCHES:
        batch = tf.nest.map_structure(lambda array, size=batch_size: np.resize(array, (size, *array.shape[1:])), x)
        call(batch)
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call(batch)
            times.append((time.perf_counter() - start) / batch_size)
        median, low, high = np.quantile(times, [0.5, 0.25, 0.75])
        latency[batch_size] = (float(median), float(low), float(high))
    return latency


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
