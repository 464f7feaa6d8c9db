"""The command `tfvae detect`: flags the anomalies among rows, and says what makes each unusual."""

from typing import Annotated, Any

import numpy as np

import tfvae
from tfvae import files
from tfvae.cli import flags, noise, parser, paths, rows, series_outputs
from tfvae.data import tables

# More decimals of nats say nothing about a row.
_DECIMALS = 4
# How many columns are named as reasons.
_REASONS = 3


def detect(
    *,
    model: str = "saved_models/digits",
    input: str,
    output: str,
    stride: Annotated[int | None, flags.optional(flags.COUNT)] = None,
) -> None:
    """Flags the anomalies in a file, by the threshold of an exported model.

    Args:
        model: a folder of versions, a SavedModel, a .tflite file or a folder of ONNX models.
        input: the rows, as for `tfvae predict`.
        output: the .csv or .parquet table to write, the rows with score, in nats above the typical score; is_anomaly;
            and the columns that add most to the score, from the first, with how many nats each adds (reason_1,
            reason_1_nats, ...), and for the model of a table the value (reason_1_value). Columns of a .npy file are
            named by their index, and pictures are not copied. For the model of time series it has a row for each step:
            score, in standard deviations of held-out steps, of what the channels of the step add to the scores of the
            windows that hold it, on average, and of these scores; is_anomaly, by a threshold of its own; reason, the
            channel that adds most, and how many nats; and window_score and window_is_anomaly of the window that ends
            with the step.
        stride: for time series, the number of steps from the start of a window to that of the next; by default 1.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        source = rows.check(input)
        paths.check_existing(model, "--model", "an exported file or folder")
        paths.check_existing(input, "--input", "an existing file")
        written = paths.check_output(output, *tables.SUFFIXES)
        read = rows.read(source)
        with noise.hidden():
            exported = tfvae.export.load(model)
            if "detect" not in exported.signatures:
                raise ValueError(
                    "`--model` must be an export of a calibrated model, which `tfvae train` writes, and "
                    f"`tfvae export --false_alarm_rate 0.01` for an earlier run. Received: {exported!r}"
                )
            if series_outputs.is_of_series(read, exported):
                table = series_outputs.detected(series_outputs.cut(read, exported, stride), exported)
            else:
                series_outputs.check_no_stride(stride)
                given = rows.of_model(read, source, exported)
                table = _flagged(given, exported.detect(given.x))
        with files.replacing(written) as temporary:
            tables.write(table, temporary)
    what = "steps" if "window_score" in table else "rows"
    print(f"Wrote {output} ({np.count_nonzero(table['is_anomaly'])} of {len(table)} {what} are anomalies)")


def _flagged(given: rows.Rows, outputs: dict[str, np.ndarray]) -> Any:
    """The rows with the decision and its reasons, as a data frame of pandas."""
    import pandas as pd

    contributions = outputs["contributions"]
    shape = contributions.shape[1:]
    names = given.names or [",".join(map(str, index)) for index in np.ndindex(*shape)]
    contributions = contributions.reshape(len(given.x), -1)
    if given.schema is not None:
        contributions = given.schema.by_column(contributions)
    if given.frame is not None:
        table = given.frame
    elif len(shape) == 1:
        table = pd.DataFrame(given.x, columns=names)
    else:
        table = pd.DataFrame(index=range(len(given.x)))
    added: dict[str, Any] = {"score": outputs["score"], "is_anomaly": outputs["is_anomaly"]}
    # Stable, so that of columns that say the same the first comes first.
    order = np.argsort(-contributions, axis=1, kind="stable")[:, :_REASONS]
    for number, column in enumerate(order.T, start=1):
        added[f"reason_{number}"] = np.array(names, object)[column]
        if given.schema is not None:
            # As texts, because those of one column of the output are of several columns of the table.
            values = given.frame[names].astype(object).to_numpy()
            of_reason = np.take_along_axis(values, column[:, None], axis=1)[:, 0]
            added[f"reason_{number}_value"] = ["" if pd.isna(value) else str(value) for value in of_reason]
        nats = np.take_along_axis(contributions, column[:, None], axis=1)[:, 0]
        added[f"reason_{number}_nats"] = np.round(nats.astype(np.float64), _DECIMALS)
    taken = [str(name) for name in table.columns if str(name) in added]
    if taken:
        raise ValueError(
            f"`--input` must not have columns of the names that are added, {', '.join(added)}. Received: a table with "
            f"{', '.join(taken)}"
        )
    return table.assign(**added)
