"""The proof that exported files agree with the Keras model, and what they cost."""

import dataclasses
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
from tfvae.export.client import load, resolve
from tfvae.models.autoencoder import Autoencoder
from tfvae.models.semi_supervised import SemiSupervisedVAE

# How far a float32 export may be from the Keras model: relative to the largest value of an output, with a floor for
# outputs that are all but 0, for each of the terms that an output is the sum of.
RELATIVE_TOLERANCE = 1e-4
_FLOOR = 1e-6

_Arrays = dict[str, np.ndarray]

# Enough to see a wrong weight or op, few enough to take no time.
_COMPARED_EXAMPLES = 64
_TIMED_BATCHES = (1, 64)


class Agreement(NamedTuple):
    """How far one output of an exported file is from the Keras model's, over all elements and examples.

    Attributes:
        format: "SavedModel" or "TFLite".
        signature: the signature that was called.
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


class Cost(NamedTuple):
    """What one format costs.

    Attributes:
        format: "Keras", "SavedModel" or "TFLite".
        path: the file or folder, None for the model in memory.
        quantize: how a .tflite file was made smaller, None for float32.
        size: bytes on disk, None for the model in memory.
        elbo_difference: mean of the ELBO less that of the Keras model, nats per example.
        latency: for each batch size, the median and the quartiles of the seconds per example of `reconstruct`.
    """

    format: str
    path: str | None
    quantize: str | None
    size: int | None
    elbo_difference: float
    latency: dict[int, tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Verification:
    """The comparison of exported files with the model they came from.

    Args:
        num_examples: how many examples were compared.
        agreements: one for each format, signature and output.
        costs: one for the Keras model and one for each format.
    """

    num_examples: int
    agreements: list[Agreement]
    costs: list[Cost]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "num_examples": self.num_examples,
            "agreements": [row._asdict() for row in self.agreements],
            "costs": [
                {
                    **row._asdict(),
                    "latency": {
                        batch: dict(zip(("median", "lower_quartile", "upper_quartile"), seconds, strict=True))
                        for batch, seconds in row.latency.items()
                    },
                }
                for row in self.costs
            ],
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
            lines.append(f"{row.format:<12}{size:>10}{row.elbo_difference:>12.2e}{times}")
        return "\n".join(lines)


def verify(
    model: Autoencoder,
    *,
    saved_model: str | os.PathLike[str] | None = None,
    tflite: str | os.PathLike[str] | None = None,
    x: ArrayLike,
    timed_calls: int = 50,
) -> Verification:
    """Calls every signature of exported files on the same inputs and the same noise as the Keras model, and times them.

    Args:
        model: the model that was exported.
        saved_model: the folder of a version, or of versions, of which the newest is taken.
        tflite: the .tflite file.
        x: data as for `fit` of the model: an array [N, ...], or a dictionary of arrays with N rows.
        timed_calls: how many calls a latency is the median of.

    Returns:
        The differences of each output, and for each format its size, its ELBO against the model's and its latency.

    Raises:
        ValueError: no file is given, or x is not data of the model.
    """
    if saved_model is None and tflite is None:
        raise ValueError("`saved_model` or `tflite` must be given. Received: saved_model=None, tflite=None")
    timed_calls = checks.positive_integer("timed_calls", timed_calls)
    x = data_of(model, x)
    agreements, elbos = _compare(model, saved_model, tflite, x)
    costs = [
        Cost("Keras", None, None, None, 0.0, _latency(lambda batch: model.predict(batch, verbose=0), x, timed_calls))
    ]
    for name, path in (("SavedModel", saved_model), ("TFLite", tflite)):
        if path is not None:
            exported, path = load(path), resolve(path)
            latency = _latency(lambda batch, call=exported.run: call("reconstruct", **named(batch)), x, timed_calls)
            difference = float(np.mean(elbos[name] - elbos["Keras"]))
            costs.append(Cost(name, str(path), exported.metadata.get("quantize"), _size(path), difference, latency))
    return Verification(len(tf.nest.flatten(x)[0]), agreements, costs)


def data_of(model: Autoencoder, x: Any) -> Any:
    """Data that were given to an export, in the form in which the model takes them.

    Args:
        model: the model.
        x: the data, as for `fit`.

    Raises:
        ValueError: they are not data of the model.
    """
    x = _arrays_of(model, x)
    model.check_data(x)
    return x


def _arrays_of(model: Autoencoder, x: Any) -> Any:
    """Arrays in the form in which the model takes them; x itself is float32, as callers send it."""
    arrays = model._arrays(x)
    if isinstance(arrays, dict):
        return {**arrays, "x": arrays["x"].astype(np.float32)}
    return arrays.astype(np.float32)


def named(x: Any) -> _Arrays:
    """Data by the names of the inputs of a signature."""
    return x if isinstance(x, dict) else {"x": x}


def conditions_of(model: Autoencoder, given: _Arrays) -> _Arrays:
    """What `decode` and `generate` take beside z or noise, by name, where the data say what it is.

    Args:
        model: the model.
        given: the data by name.
    """
    conditions = {name: given[name] for name in model._given_shapes}
    if isinstance(model, SemiSupervisedVAE):
        # These take no -1, which in data stands for no label: any class serves.
        conditions["label"] = np.maximum(conditions["label"], 0)
    return conditions


def check_agreement(
    model: Autoencoder,
    *,
    saved_model: str | os.PathLike[str] | None = None,
    tflite: str | os.PathLike[str] | None = None,
    x: ArrayLike | None = None,
) -> None:
    """Raises ValueError unless float32 files agree with the Keras model.

    Args:
        model: the model that was exported.
        saved_model: as for `verify`.
        tflite: as for `verify`.
        x: data as for `verify`; None draws them from the model, at conditions that are one-hot where it has some.
    """
    if x is None:
        z = np.random.default_rng(0).standard_normal([_COMPARED_EXAMPLES, model._z_dim], np.float32)
        conditions = model._example_conditions(len(z))
        x = model._draw_x(tf.constant(z), *(tf.constant(array, tf.float32) for array in conditions)).numpy()
        if not np.isfinite(x).all():
            raise ValueError("`model` must generate finite data. Received: a model that generates NaN or infinity")
        if model.likelihood.allows_missing:
            x = np.where(np.random.default_rng(2).uniform(size=x.shape) < 0.5, np.float32(np.nan), x)
        x = model._together(x, *conditions)
    x = tf.nest.map_structure(lambda array: array[:_COMPARED_EXAMPLES], _arrays_of(model, x))
    elements = math.prod(model.event_shape)
    for row in _compare(model, saved_model, tflite, x)[0]:
        terms = {"elbo": elements, "log_likelihood": elements, "kl": model._epsilon_dim}.get(row.output, 1)
        check_row(row, terms)


def check_row(row: Agreement, terms: int = 1) -> None:
    """Raises ValueError where an output of an export does not agree with the Keras model's.

    Args:
        row: the output.
        terms: how many terms it is the sum of.
    """
    agrees = row.max_difference <= RELATIVE_TOLERANCE * row.max_value + _FLOOR * terms
    if not (agrees and math.isfinite(row.max_difference)):
        raise ValueError(
            f"The {row.format} must agree with the Keras model to {RELATIVE_TOLERANCE} before it is published. "
            f"Received: `{row.signature}` gives `{row.output}` with a difference of {row.max_difference:.2e} where "
            f"the largest value is {row.max_value:.2e}"
        )


def agreement(format: str, signature: str, output: str, received: np.ndarray, expected: np.ndarray) -> Agreement:
    """How far an output of an exported file is from the Keras model's."""
    difference = np.abs(received - expected)
    values = (difference.max(), difference.mean(), np.abs(expected).max())
    return Agreement(format, signature, output, *map(float, values))


def _compare(
    model: Autoencoder, saved_model: str | os.PathLike[str] | None, tflite: str | os.PathLike[str] | None, x: np.ndarray
) -> tuple[list[Agreement], dict[str, np.ndarray]]:
    """The agreement of every output, and the ELBO [N] at the same noise by format."""
    rows = len(tf.nest.flatten(x)[0])
    epsilon = np.random.default_rng(1).standard_normal([rows, model._epsilon_dim], np.float32)
    questions = _questions(model, x, epsilon)
    agreements = []
    elbos = {"Keras": questions["score"][1]["elbo"]}
    for name, path in (("SavedModel", saved_model), ("TFLite", tflite)):
        if path is None:
            continue
        exported = load(path)
        # What is compared before it is published has no metadata yet.
        exported.metadata.setdefault("missing_values", model.likelihood.allows_missing)
        for signature, (inputs, outputs) in questions.items():
            received = exported.run(signature, **inputs)
            if signature == "score":
                elbos[name] = received["elbo"]
            for output, value in outputs.items():
                agreements.append(agreement(name, signature, output, received[output], value))
    return agreements, elbos


def _questions(model: Autoencoder, x: Any, epsilon: np.ndarray) -> dict[str, tuple[_Arrays, _Arrays]]:
    """For each signature its inputs, and what the Keras model says that it should give."""
    mean = {"mean": model.reconstruct(x)}
    given = named(x)
    conditions = conditions_of(model, given)
    z = np.asarray(model._from_prior(tf.constant(epsilon), *map(tf.constant, conditions.values())))
    drawn = {"mean": model.decode(z, *conditions.values())}
    return {
        "encode": (given, model.encode(x)),
        "decode": ({"z": z, **conditions}, drawn),
        "reconstruct": (given, mean),
        "generate": ({"epsilon": epsilon, **conditions}, drawn),
        "score": ({**given, "epsilon": epsilon}, model.score(x, epsilon)),
        "serving_default": (given, {**mean, **model.score(x)}),
        **{
            name: ({"x": given["x"]}, {output: value.numpy() for output, value in function(given["x"]).items()})
            for name, function in model._functions_of_x.items()
        },
    }


def _latency(call: Callable[[Any], Any], x: Any, calls: int) -> dict[int, tuple[float, float, float]]:
    """Median and quartiles of the seconds per example, by batch size."""
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
