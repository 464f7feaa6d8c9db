"""Compares exported files with the Keras model, and measures what they cost."""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import checks
from tfvae.export import formats
from tfvae.export.client import ExportedModel, load
from tfvae.export.endpoints import check_kind
from tfvae.exportable import Arrays, Exportable, Signature

# The absolute tolerance, for outputs close to 0, for each of the terms that the output is the sum of.
_FLOOR = 1e-6
# How many rows a file is given at a time before it is published. The last is enough to reveal a wrong weight or op; the
# others reveal shapes that are right for one size only.
_COMPARED_BATCHES = (64, 7, 1)
_TIMED_BATCHES = (1, 64)


class DisagreementError(ValueError):
    """An exported file does not agree with the Keras model, so it is not published."""


class Agreement(NamedTuple):
    """How far one output of an exported file is from the Keras model's, over all elements and examples.

    Attributes:
        format: the name of the format, such as "SavedModel" or "TFLite".
        signature: the name of the signature that was called.
        output: the output's name.
        max_difference: the largest absolute difference.
        mean_difference: the mean absolute difference.
        max_value: the largest absolute value of the Keras model's output, to compare with.
    """

    format: str
    signature: str
    output: str
    max_difference: float
    mean_difference: float
    max_value: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return self._asdict()


class Cost(NamedTuple):
    """What one format costs in size, accuracy and time.

    Attributes:
        format: "Keras", or the name of a format, such as "SavedModel" or "TFLite".
        path: the file or folder; None for the Keras model, which is in memory.
        quantize: how a .tflite file was made smaller; None for float32.
        size: bytes on disk; None for the Keras model.
        elbo_difference: the mean ELBO minus that of the Keras model, in nats per example; None if the model has no
            `score`.
        latency: for each batch size, the median and the quartiles of the seconds per example that one signature takes:
            `reconstruct` for a VAE, and in general `Exportable.timed_signature`.
    """

    format: str
    path: str | None
    quantize: str | None
    size: int | None
    elbo_difference: float | None
    latency: dict[int, tuple[float, float, float]]

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        latency = {
            batch: dict(zip(("median", "lower_quartile", "upper_quartile"), seconds, strict=True))
            for batch, seconds in self.latency.items()
        }
        return {**self._asdict(), "latency": latency}


@dataclasses.dataclass(frozen=True)
class Verification:
    """The comparison of exported files with the original model. `str` gives two tables.

    Args:
        num_examples: how many examples were compared.
        agreements: one for each format, signature and output.
        costs: one for the Keras model and one for each format.
    """

    num_examples: int
    agreements: list[Agreement]
    costs: list[Cost]

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {
            "num_examples": self.num_examples,
            "agreements": [row.to_dict() for row in self.agreements],
            "costs": [row.to_dict() for row in self.costs],
        }

    def __str__(self) -> str:
        """Two tables, to print."""
        lines = [
            f"{'format':<12}{'signature':<18}{'output':<16}{'max |diff|':>12}{'mean |diff|':>13}{'max |value|':>13}"
        ]
        lines += [
            f"{row.format:<12}{row.signature:<18}{row.output:<16}{row.max_difference:>12.2e}"
            f"{row.mean_difference:>13.2e}{row.max_value:>13.4g}"
            for row in self.agreements
        ]
        batches = "".join(f"{f'batch {batch}: us per example':>32}" for batch in _TIMED_BATCHES)
        lines += ["", f"{'format':<12}{'bytes':>10}{'ELBO diff':>12}{batches}"]
        for row in self.costs:
            times = "".join(
                f"{f'{1e6 * median:.1f} ({1e6 * low:.1f} to {1e6 * high:.1f})':>32}"
                for median, low, high in row.latency.values()
            )
            size = "" if row.size is None else row.size
            elbo = "" if row.elbo_difference is None else f"{row.elbo_difference:.2e}"
            lines.append(f"{row.format:<12}{size:>10}{elbo:>12}{times}")
        return "\n".join(lines)


def verify(
    model: Exportable,
    *,
    saved_model: str | os.PathLike[str] | None = None,
    tflite: str | os.PathLike[str] | None = None,
    onnx: str | os.PathLike[str] | None = None,
    x: ArrayLike,
    timed_calls: int = 50,
    **others: str | os.PathLike[str] | None,
) -> Verification:
    """Compares every signature of exported files with the Keras model on the same inputs and noise, and times them.

    Args:
        model: the model that was exported.
        saved_model: the folder of a version, or a folder of versions, of which the newest is taken.
        tflite: the .tflite file.
        onnx: the folder of ONNX models.
        x: data as for `fit` of the model: an array [N, ...], or a dictionary of arrays with N rows.
        timed_calls: the number of calls over which the median latency is taken.
        others: the file or folder of any other format, by its key in `tfvae.export.formats.FORMATS`.

    Returns:
        The differences of each output; and, for each format, its size, the difference of its ELBO, and its latency.

    Raises:
        ValueError: no file is given, or x is not valid data for the model.
        TypeError: a key of `others` is not a format.
    """
    paths = _given({"saved_model": saved_model, "tflite": tflite, "onnx": onnx, **others})
    if not paths:
        names, received = (separator.join(formats.FORMATS) for separator in ("` or `", "=None, "))
        raise ValueError(f"`{names}` must be given. Received: {received}=None")
    timed_calls = checks.positive_integer("timed_calls", timed_calls)
    check_kind(model)
    x = model.export_data(x)
    model.check_exportable()
    questions = _questions(model, x)
    opened = {argument: _opened(model, path) for argument, path in paths.items()}
    answers = {argument: _answers(exported, questions) for argument, exported in opened.items()}
    agreements = [
        row
        for argument, outputs in answers.items()
        for row in _agreements(formats.FORMATS[argument].name, questions, outputs)
    ]
    elbo = questions["score"].outputs.get("elbo") if "score" in questions else None
    latency = _latency(lambda batch: model.predict(batch, verbose=0), x, timed_calls)
    costs = [Cost("Keras", None, None, None, None if elbo is None else 0.0, latency)]
    for argument, exported in opened.items():
        path = formats.find(Path(paths[argument]))[1]
        difference = None if elbo is None else float(np.mean(answers[argument]["score"]["elbo"] - elbo))
        timed = functools.partial(_call, exported, model.timed_signature)
        latency = _latency(timed, questions[model.timed_signature].inputs, timed_calls)
        quantize = exported.metadata.get("quantize")
        name = formats.FORMATS[argument].name
        costs.append(Cost(name, str(path), quantize, _size(path), difference, latency))
    return Verification(len(tf.nest.flatten(x)[0]), agreements, costs)


def check_agreement(model: Exportable, *, x: Any = None, **files: str | os.PathLike[str] | None) -> None:
    """Raises DisagreementError unless float32 files agree with the Keras model.

    Args:
        model: the model that was exported.
        x: data as for `verify`; None lets the model draw them.
        files: the file or folder of each format, by its key in `tfvae.export.formats.FORMATS`.
    """
    questions = _questions(model, model.export_data(x, max(_COMPARED_BATCHES)))
    for argument, path in _given(files).items():
        file_format = formats.FORMATS[argument]
        exported = _opened(model, path)
        for size in _COMPARED_BATCHES:
            asked = {name: question.first(size) for name, question in questions.items()}
            _check_rows(_agreements(file_format.name, asked, _answers(exported, asked)), asked, file_format.tolerance)
        # Here the questions are of one row.
        for runtime, answer in file_format.other_runtimes.items():
            answers = answer(Path(path), {name: question.inputs for name, question in asked.items()})
            rows = _agreements(f"{file_format.name} in {runtime}", asked, answers)
            _check_rows(rows, asked, file_format.tolerance)


def check_row(row: Agreement, terms: int, tolerance: float) -> None:
    """Raises DisagreementError if an output of an export does not agree with the Keras model's.

    Args:
        row: the comparison of the output.
        terms: the number of terms that the output is the sum of.
        tolerance: the largest difference allowed, relative to the largest value.
    """
    agrees = row.max_difference <= tolerance * row.max_value + _FLOOR * terms
    if not (agrees and math.isfinite(row.max_difference)):
        raise DisagreementError(
            f"The {row.format} must agree with the Keras model to {tolerance} before it is published. "
            f"Received: `{row.signature}` gives `{row.output}` with a difference of {row.max_difference:.2e} where "
            f"the largest value is {row.max_value:.2e}"
        )


def _check_rows(rows: list[Agreement], questions: dict[str, "_Question"], tolerance: float) -> None:
    for row in rows:
        check_row(row, questions[row.signature].signature.terms.get(row.output, 1), tolerance)


def agreement(format: str, signature: str, output: str, received: np.ndarray, expected: np.ndarray) -> Agreement:
    """Compares an output of an exported file with the Keras model's."""
    if received.shape != expected.shape:
        raise DisagreementError(
            f"The {format} must give `{output}` of `{signature}` in the shape {expected.shape} of the Keras model's. "
            f"Received: the shape {received.shape}"
        )
    difference = np.abs(received - expected)
    values = (difference.max(), difference.mean(), np.abs(expected).max())
    return Agreement(format, signature, output, *map(float, values))


class _Question(NamedTuple):
    """One signature, called with the same inputs in the Keras model and in a file.

    Attributes:
        signature: the signature.
        inputs: its inputs by name.
        outputs: the Keras model's outputs by name.
    """

    signature: Signature
    inputs: Arrays
    outputs: Arrays

    def first(self, rows: int) -> "_Question":
        """The question about the first rows alone."""
        inputs, outputs = (
            {name: array[:rows] for name, array in arrays.items()} for arrays in (self.inputs, self.outputs)
        )
        return self._replace(inputs=inputs, outputs=outputs)


def _questions(model: Exportable, x: Any) -> dict[str, _Question]:
    """The question for each signature, by the name of the signature."""
    examples = model.export_examples(x)
    return {
        name: _Question(signature, examples[name], signature.of_model(examples[name]))
        for name, signature in model.export_signatures(x).items()
    }


def _given(files: dict[str, str | os.PathLike[str] | None]) -> dict[str, str | os.PathLike[str]]:
    """The files that are given, in the order of the formats."""
    for argument in files:
        if argument not in formats.FORMATS:
            raise TypeError(f"{argument!r} is not a key of `tfvae.export.formats.FORMATS`, {list(formats.FORMATS)}")
    given = {argument: files.get(argument) for argument in formats.FORMATS}
    return {argument: path for argument, path in given.items() if path is not None}


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


def _agreements(format: str, questions: dict[str, _Question], answers: dict[str, Arrays]) -> list[Agreement]:
    return [
        agreement(format, name, output, answers[name][output], expected)
        for name, question in questions.items()
        for output, expected in question.outputs.items()
    ]


def _latency(call: Callable[[Any], Any], x: Any, calls: int) -> dict[int, tuple[float, float, float]]:
    """The median and quartiles of the seconds per example, by batch size."""
    latency = {}
    for batch_size in _TIMED_BATCHES:
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
