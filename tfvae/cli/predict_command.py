"""The command `tfvae predict`: what an exported model makes of the examples in a file."""

import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np

import tfvae
from tfvae import files
from tfvae.cli import flags, noise, parser, paths, rows, series_outputs
from tfvae.data import tables

# The outputs that are in the units of x, and what the names of their columns begin with in a table.
_OF_X = {"mean": "", "sample": "sample_"}


def predict(
    *,
    model: str = "saved_models/digits",
    input: str,
    output: str,
    sample: bool = False,
    stride: Annotated[int | None, flags.optional(flags.COUNT)] = None,
    seed: flags.Seed = 0,
) -> None:
    """Runs an exported model: what its signature `serving_default` makes of the examples in a file.

    Args:
        model: a folder of versions, a SavedModel, a .tflite file or a folder of ONNX models.
        input: a .npy file of x [N, ...], or a .csv or .parquet table: for the model of a table its columns, in any
            order and as they are; otherwise the columns of the training in their order, in the units that the export
            takes, such as pixels from 0 to 255, which the export scales itself.
        output: the file to write. A .npz file has, for a VAE, mean (in the same units), elbo,
            reconstruction_log_likelihood and kl at the mean of q(z|x), and the parameters of q(z|x). A .csv or .parquet
            table has the same of each row, with the names of the columns. For the model of time series the arrays are
            of windows, with their start, and the table has for each step the mean of each channel over the windows that
            hold it, in gaps too.
        sample: also write sample, a draw of what the model takes each example for, with the spread of data, which the
            mean does not have; in a table under the names of the columns after "sample_".
        stride: for time series, the number of steps from the start of a window to that of the next; by default 1.
        seed: seed of the draws.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        source = rows.check(input)
        paths.check_existing(model, "--model", "an exported file or folder")
        paths.check_existing(input, "--input", "an existing file")
        written = paths.check_output(output, ".npz", *tables.SUFFIXES)
        read = rows.read(source)
        with noise.hidden():
            exported = tfvae.export.load(model)
            of_series = None
            if series_outputs.is_of_series(read, exported):
                of_series = series_outputs.cut(read, exported, stride)
                given = rows.Rows(of_series.x)
            else:
                series_outputs.check_no_stride(stride)
                given = rows.of_model(read, source, exported)
            with warnings.catch_warnings():
                # Both signatures warn of the same x.
                warnings.simplefilter("once")
                outputs = exported.predict(given.x)
                if "encode" in exported.signatures:
                    outputs |= exported.encode(given.x)
                if sample:
                    outputs["sample"] = _drawn(exported, given.x, seed)
        if of_series is not None:
            _write_series(outputs, of_series, written)
        else:
            _write(outputs, given, exported, written, seed)
    print(f"Wrote {output} ({', '.join(outputs)} of {len(given.x)} examples)")


def _drawn(exported: Any, x: Any, seed: int) -> np.ndarray:
    """Draws what an exported model takes examples for."""
    name = "reconstruct_sample"
    if name not in exported.signatures:
        raise ValueError(
            "`--sample` needs an export that draws, which those for counts and those in int8 do not. Received: "
            f"{exported!r}"
        )
    return exported.run(name, x=x, **exported.noise(name, len(x), seed))["sample"]


def _write_series(outputs: dict[str, Any], given: series_outputs.Given, path: Path) -> None:
    """Writes outputs of windows to a file of arrays, or what they say of steps to a table."""
    if not tables.is_table(path):
        names, times = zip(*given.cut.starts, strict=True)
        _save(path, {**outputs, "series": np.array(list(map(str, names))), "start": np.array(times)})
        return
    table = series_outputs.means(given, outputs["mean"])
    if "sample" in outputs:
        # A mean of draws is none.
        raise ValueError(f"`--output` must be a .npz file for `--sample` of series. Received: {path}")
    with files.replacing(path) as temporary:
        tables.write(table, temporary)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    # Opened here, because NumPy adds a suffix to a name.
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _write(outputs: dict[str, Any], given: rows.Rows, exported: Any, path: Path, seed: int) -> None:
    """Writes outputs to a file of arrays, or to a table."""
    if not tables.is_table(path):
        _save(path, outputs)
        return
    table = _table(outputs, given, exported, seed)
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise ValueError(
            f"`--output` must be a .npz file for a table with columns of the names that are added, "
            f"{', '.join(repeated)}. Received: {path}"
        )
    with files.replacing(path) as temporary:
        tables.write(table, temporary)


def _table(outputs: dict[str, np.ndarray], given: rows.Rows, exported: Any, seed: int) -> Any:
    """The outputs as a data frame of pandas, with a row for each example."""
    import pandas as pd

    parts = []
    for name, array in outputs.items():
        if array.ndim > 2:
            raise ValueError(
                f"`--output` must be a .npz file for examples that are no rows. Received: {name} of shape "
                f"{list(array.shape)}"
            )
        if name in _OF_X and "table" in exported.metadata:
            parts.append(exported.rows(array, seed).add_prefix(_OF_X[name]))
        elif array.ndim == 1:
            parts.append(pd.DataFrame({name: array}))
        else:
            names = given.names if name in _OF_X else None
            if names is None or len(names) != array.shape[1]:
                names = [f"{name}_{number}" for number in range(1, array.shape[1] + 1)]
            else:
                names = [_OF_X[name] + each for each in names]
            parts.append(pd.DataFrame(array, columns=names))
    return pd.concat(parts, axis=1)
