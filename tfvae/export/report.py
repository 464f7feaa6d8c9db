"""What a verification of exports reports: how far each output is from the Keras model's, and what each format costs."""

import dataclasses
from typing import Any, NamedTuple

# A difference that is larger than this part of the spread of its column is marked in the table.
_MARKED = 1e-3
# The batch sizes at which latency is measured.
TIMED_BATCHES = (1, 64)


class Agreement(NamedTuple):
    """How far one output of an exported file is from the Keras model's, over all elements and examples.

    Attributes:
        format: the name of the format, such as "SavedModel" or "TFLite", or "TFLite batch 1" for a file of one row.
        signature: the name of the signature that was called.
        output: the output's name.
        max_difference: the largest absolute difference.
        mean_difference: the mean absolute difference.
        max_value: the largest absolute value of the Keras model's output, to compare with.
        max_relative: the largest difference relative to the spread of its column, the standard deviation of the output
            or of the data that it is the mean of. A column is an element of the last axis.
    """

    format: str
    signature: str
    output: str
    max_difference: float
    mean_difference: float
    max_value: float
    max_relative: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return self._asdict()


class Cost(NamedTuple):
    """What one format costs in size, accuracy and time.

    Attributes:
        format: "Keras", or the name of a format, as in `Agreement`.
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
        names = list(dict.fromkeys(row.format for row in self.agreements))
        # Files of different units have rows of their own.
        outputs = dict.fromkeys((row.signature, row.output, row.max_value) for row in self.agreements)
        differences = {(row.format, row.signature, row.output, row.max_value): row for row in self.agreements}
        lines = [
            "largest difference from the Keras model, by format",
            f"{'signature':<24}{'output':<31}{'max |value|':>11}{''.join(f'{name:>16}' for name in names)}",
        ]
        for signature, output, value in outputs:
            rows = (differences.get((name, signature, output, value)) for name in names)
            cells = "".join(f"{'' if row is None else _difference(row):>16}" for row in rows)
            lines.append(f"{signature:<24}{output:<31}{value:>11.4g}{cells}")
        if any(row.max_relative > _MARKED for row in self.agreements):
            lines.append(f"* in some column, more than {_MARKED} of its spread")
        timed = TIMED_BATCHES if any(row.latency for row in self.costs) else ()
        batches = "".join(f"{f'batch {batch}: us per example':>32}" for batch in timed)
        lines += ["", f"{'format':<16}{'bytes':>10}{'ELBO diff':>12}{batches}"]
        for row in self.costs:
            times = "".join(
                f"{f'{1e6 * median:.1f} ({1e6 * low:.1f} to {1e6 * high:.1f})':>32}"
                for median, low, high in row.latency.values()
            )
            size = "" if row.size is None else row.size
            elbo = "" if row.elbo_difference is None else f"{row.elbo_difference:.2e}"
            lines.append(f"{row.format:<16}{size:>10}{elbo:>12}{times}")
        return "\n".join(lines)


def _difference(row: Agreement) -> str:
    return f"{row.max_difference:.2e}{'*' if row.max_relative > _MARKED else ''}"
