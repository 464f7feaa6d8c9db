"""The client: opens and calls an exported model, a SavedModel by plain TensorFlow or a .tflite file by LiteRT.

Keras and TFP are not needed here, and TensorFlow only for a SavedModel.
"""

import os
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tfvae import checks, chunks, renamed, streams
from tfvae.data.vocabulary import are_texts
from tfvae.export import descriptions, expected_range, formats
from tfvae.export.formats.format import Call, Shapes
from tfvae.export.of_signature import of_signature
from tfvae.export.opening import open_with_description
from tfvae.export.table_rows import TableRows, are_rows
from tfvae.export.text_rows import TextRows

# The most rows that are computed at a time, so that memory does not grow with the data.
_BATCH_SIZE = 256
# The signatures of a VAE, and those of variational inference, by which a file is recognised if its metadata are lost.
_SIGNATURES = ({"encode", "decode", "reconstruct", "generate", "score"}, {"sample", "serving_default"})


class ExportedModel:
    """An exported model, with those methods of the original model that its signatures allow; threads can share it.

    In the shapes, N is the number of examples, `...` the event shape and L the latent dimension. x and means are in the
    units that `metadata["units"]` says: "raw", those of the source, which the export scales itself; or "model". For an
    exported `tfvae.ConditionalVAE` the methods also take `condition=` [N, C], for a `tfvae.SemiSupervisedVAE` `label=`
    [N].

    Where x is taken, the model of a table takes rows: a data frame of pandas, polars or pyarrow, a dictionary of
    columns, or a dictionary or a list of dictionaries of values; for `predict` also the columns as keyword arguments.
    It also takes arrays of numbers and codes [N, D], with the columns `metadata["columns"]` and the codes of
    `metadata["codes"]`. `generate` and `generate_sample` then give a `pandas.DataFrame`, and so do `reconstruct` and
    `reconstruct_sample` if they are given rows; otherwise x and means are numbers and codes, which `rows` turns into
    rows.

    Args:
        call: a function that calls a signature, from its name and its inputs by name to its outputs by name.
        shapes: the shape of each input of each signature; the first size is None for a batch of any size.
        metadata: the description that was written with the export: event shape, normalisation and more; empty if its
            file is missing.
        source: what `repr` says about where the model comes from: its format and path.
    """

    def __init__(self, call: Call, shapes: Shapes, metadata: dict[str, Any], source: str = "") -> None:
        self.metadata = metadata
        self.signatures = tuple(shapes)
        self._table: TableRows | TextRows | None = None
        if "table" in metadata:
            self._table = TableRows(metadata)
        elif "vocabulary" in metadata:
            self._table = TextRows(metadata)
        self._call = call if self._table is None else self._table.call(call, shapes)
        self._shapes = shapes if self._table is None else self._table.shapes(shapes)
        self._source = source
        self._ranges = _ranges(metadata)

    def __repr__(self) -> str:
        """The format, path, signatures and units, in one line."""
        signatures = ", ".join(f"{name}({', '.join(_inputs(shapes))})" for name, shapes in self._shapes.items())
        if self._table is not None:
            return f"<ExportedModel: {self._source}; signatures: {signatures}; x: {self._table.described}>"
        units = f"units of x: {self.metadata.get('units', 'model' if self.metadata else 'unknown')}"
        # What an export of version 0.2 says, which leaves it to the caller to scale x.
        normalization = self.metadata.get("normalization")
        if normalization is not None:
            offset, scale = (reprlib.repr(normalization[name]) for name in ("offset", "scale"))
            units = f"units of x: {normalization['formula']} with offset={offset} and scale={scale}"
        parts = [self._source, f"signatures: {signatures}", units]
        return f"<ExportedModel: {'; '.join(part for part in parts if part)}>"

    def __dir__(self) -> Iterable[str]:
        """The names of the attributes that this model has, without the methods of signatures that it lacks."""
        return [name for name in super().__dir__() if hasattr(self, name)]

    @of_signature("encode")
    def encode(self, x: ArrayLike, **condition: ArrayLike) -> dict[str, np.ndarray]:
        """The parameters of q(z|x) by name, each [N, L], or `codes` [N, ...] as floats, for x [N, ...]."""
        return self.run("encode", x=x, **condition)

    @of_signature("decode")
    def decode(self, z: ArrayLike, **condition: ArrayLike) -> Any:
        """The mean of p(x|z) [N, ...], for z [N, L] or codes; of sequences the best guess of each step, or texts."""
        return self._decoded(self.run("decode", **self._first("decode", z), **condition))

    @of_signature("reconstruct")
    def reconstruct(self, x: Any, **condition: ArrayLike) -> Any:
        """The mean of p(x|z) [N, ...] at the mean of q(z|x), for x [N, ...]; of rows a `pandas.DataFrame`."""
        return self._like(x, _best(self.run("reconstruct", x=x, **condition)))

    @of_signature("generate")
    def generate(self, epsilon: ArrayLike, **condition: ArrayLike) -> Any:
        """The mean of p(x|z) [N, ...] at the draws z from the prior computed from noise epsilon ~ N(0, I) [N, L].

        Of a table it is a `pandas.DataFrame` of N rows. The noise of codes is uniform; `noise` makes either.
        """
        return self._made(_best(self.run("generate", **self._first("generate", epsilon), **condition)))

    @of_signature("generate_sample")
    def generate_sample(self, epsilon: ArrayLike, uniform: ArrayLike, **condition: ArrayLike) -> Any:
        """Draws of x [N, ...] with the spread of data, where `generate` gives the mean of p(x|z); of a table, rows.

        `noise("generate_sample", N)` makes the noise, epsilon ~ N(0, I) [N, L] for z and uniform [N, ..., 2 C] for x
        [N, ..., C].
        """
        return self._made(_best(self.run("generate_sample", epsilon=epsilon, uniform=uniform, **condition), "sample"))

    @of_signature("reconstruct_sample")
    def reconstruct_sample(self, x: Any, epsilon: ArrayLike, uniform: ArrayLike, **condition: ArrayLike) -> Any:
        """Draws of p(x|z) [N, ...] at z ~ q(z|x), for x [N, ...] and noise as for `generate_sample`; of rows, rows."""
        drawn = self.run("reconstruct_sample", x=x, epsilon=epsilon, uniform=uniform, **condition)["sample"]
        return self._like(x, drawn)

    @of_signature("score")
    def score(self, x: ArrayLike, epsilon: Any = None, **condition: ArrayLike) -> dict[str, np.ndarray]:
        """The terms of the bound, each [N] in nats, for x [N, ...] and noise epsilon ~ N(0, I) [N, L], none for codes.

        They are `elbo`, `reconstruction_log_likelihood`, which is log p(x|z), and `kl`, as far as the model has them.
        Anomalies have a low `elbo`.
        """
        return self.run("score", x=x, **({} if epsilon is None else {"epsilon": epsilon}), **condition)

    @of_signature("detect")
    def detect(self, x: ArrayLike, **condition: ArrayLike) -> dict[str, np.ndarray]:
        """Whether x [N, ...] are anomalies, and why, if the model was calibrated before it was exported.

        Args:
            x: the data.
            condition: further inputs by name.

        Returns:
            `score` [N], in nats, 0 for typical data and high for anomalies; `is_anomaly`, bool [N], whether it is above
            `metadata["threshold"]["value"]`; `contributions` [N, ...], what each element adds to the score, and `kl`
            [N], the rest of it.
        """
        outputs = self.run("detect", x=x, **condition)
        # Numbers in a file, because not every runtime has outputs of another dtype.
        return {**outputs, "is_anomaly": outputs["is_anomaly"] > 0.5}

    @of_signature("step")
    def initial_state(self, n: int = 1) -> np.ndarray:
        """The state of `step` before the first step of n series, float32 [n, ...]: NaN."""
        return streams.initial_state(n, tuple(self._shapes["step"]["state"][1:]))  # type: ignore[arg-type]

    @of_signature("step")
    def step(self, x_t: ArrayLike, state: ArrayLike, **condition: ArrayLike) -> dict[str, np.ndarray]:
        """What `detect` returns for the window that ends with the step x_t of a series, if the model is of windows.

        Args:
            x_t: the present step of each of N series [N, C].
            state: the `state` that the step before returned; at first `initial_state(N)`.
            condition: further inputs by name.

        Returns:
            `score` [N], `is_anomaly`, bool [N], `contributions` [N, T, C] and `kl` [N], as for `detect`, and `state`
            for the next step. Until T steps were given, a model that does not take missing values answers NaN, and that
            there is no anomaly.
        """
        outputs = self.run("step", x_t=x_t, state=state, **condition)
        return {**outputs, "is_anomaly": outputs["is_anomaly"] > 0.5}

    @of_signature("step")
    def stream(self, n: int = 1) -> streams.Stream:
        """Runs n series side by side: a function of x_t [n, C] to what `step` returns, which keeps the state.

        A file for a batch of 1 runs one series a stream.
        """
        return streams.Stream(self.step, self.initial_state(n))

    @of_signature("classify")
    def classify(self, x: ArrayLike) -> np.ndarray:
        """Semi-supervised models: the probabilities of the classes [N, K] under q(y|x), for x [N, ...]."""
        return self.run("classify", x=x)["probabilities"]

    @of_signature("sample")
    def sample(self, epsilon: ArrayLike, **data: ArrayLike) -> dict[str, np.ndarray]:
        """Inference: draws of the latent variables by name, each [N, ...], from noise epsilon [N, L].

        Args:
            epsilon: the noise.
            data: for amortised inference, the data sets x [N, ...], one for each row of noise.
        """
        return self.run("sample", epsilon=epsilon, **data)

    @of_signature("serving_default")
    def predict(self, x: Any = None, **inputs: Any) -> dict[str, np.ndarray]:
        """The outputs of the signature `serving_default` by name, each [N, ...].

        For a VAE they are the mean of p(x|z) and the scores at the mean of q(z|x); for variational inference `mean` and
        `stddev` of the predictive distribution or, without `predictive`, draws of the latent variables.

        Args:
            x: the input of this name [N, ...], if there is one.
            inputs: the other inputs by name, each with N rows; or, for a model of a table, its columns by name.

        Raises:
            ValueError: an input is missing or invalid: see `run`.
        """
        return self.run("serving_default", **({} if x is None else {"x": x}), **inputs)

    def noise(self, signature: str, rows: int, seed: int | None = None) -> dict[str, np.ndarray]:
        """Draws the noise that a signature takes.

        Args:
            signature: its name, one of `signatures`.
            rows: N, the number of examples.
            seed: the same seed gives the same noise; None draws anew at each call.

        Returns:
            `epsilon` from N(0, I) and `uniform` from U(0, 1), if the signature takes them, float32 [N, ...].

        Raises:
            ValueError: there is no such signature.
        """
        rng = np.random.default_rng(seed)
        draws: dict[str, Callable[..., np.ndarray]] = {"epsilon": rng.standard_normal, "uniform": rng.random}
        shapes = self._shapes_of(signature)
        return {name: draw((rows, *shapes[name][1:]), np.float32) for name, draw in draws.items() if name in shapes}

    def rows(self, array: ArrayLike, seed: int = 0) -> Any:
        """Converts what a model of a table gave to rows.

        Args:
            array: a `sample` [N, D], or a `mean` [N, M], of which the most probable categories are taken.
            seed: draws which of the rare categories a row has.

        Returns:
            A `pandas.DataFrame` of N rows with the columns, dtypes and categories of the table.

        Raises:
            ValueError: the model is not of a table, or the array has another shape.
        """
        if self._table is None:
            raise ValueError("The model must be of a table, as tfvae.VAE.of_table makes it. Received: another model")
        return self._table.rows(array, seed)

    def run(self, signature: str, **arguments: Any) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature: its name, one of `signatures`.
            arguments: its inputs by name, each with N rows; for a model of a table, x may be given by columns.

        Returns:
            Its outputs by name, float32.

        Raises:
            ValueError: there is no such signature or input, or an input has the wrong shape or dtype, no rows, or a
                value that is not finite in float32, or not one of its column.

        Warns:
            UserWarning: x is beyond the range of the data of the export by more than its width. Pixels that were scaled
                although the export scales them are within the range, and show only in the score.
        """
        shapes = self._shapes_of(signature)
        if self._table is not None:
            arguments = self._table.gathered(arguments, shapes)
        if set(arguments) != set(shapes):
            expected = " and ".join(f"`{name}`" for name in shapes)
            raise ValueError(f"The inputs of {signature} must be {expected}. Received: {list(arguments)}")
        arrays = {}
        for name, shape in shapes.items():
            if self._table is not None and name == "x":
                array = self._table.codes(arguments[name])
            else:
                array = checks.to_numpy(arguments[name], name)
            checks.check_shape(array, shape[1:], name)
            longest = self.metadata.get("event_shape", [None])[0] if None in shape[1:] else None
            if longest is not None and array.shape[1] > longest:
                received = f"{name} of shape {list(array.shape)}"
                raise ValueError(f"`{name}` must have at most {longest} steps. Received: {received}")
            if array.dtype != np.float32:
                with np.errstate(over="ignore"):
                    array = array.astype(np.float32)
            # Only counted at first, because finding the position takes several times as long.
            if np.count_nonzero(np.isfinite(array)) < array.size:
                checks.check_finite(array, name, allow_nan=descriptions.may_be_nan(name, self.metadata))
            arrays[name] = array
            descriptions.check_integers(name, array, shapes, self.metadata)
        checks.check_same_length(**arrays)
        for name in ("x", "x_t") if self._ranges else ():
            if name in arrays:
                names = None if self._table is None else self._table.names
                self._ranges[signature.endswith("_normalized")].check(arrays[name], name, names)
        rows = len(next(iter(arrays.values())))
        fixed = next(iter(shapes.values()))[0]
        if fixed is not None and rows % fixed:
            raise ValueError(f"This file takes examples in batches of {fixed}. Received: {rows} examples")
        batch = fixed or _BATCH_SIZE
        if rows <= batch:
            return renamed.Scores.of_export(self._call(signature, arrays))
        outputs = [
            self._call(signature, {name: array[part] for name, array in arrays.items()})
            for part in chunks.slices(rows, batch)
        ]
        joined = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
        return renamed.Scores.of_export(joined)

    def _first(self, signature: str, value: ArrayLike) -> dict[str, ArrayLike]:
        """The first input of a signature, by its name there, which is another one in models of codes."""
        name, of_codes = {"decode": ("z", "codes"), "generate": ("epsilon", "uniform")}[signature]
        return {of_codes if of_codes in self._shapes[signature] else name: value}

    def _decoded(self, outputs: dict[str, np.ndarray]) -> Any:
        # Those of a table may be averaged, or be probabilities that are wanted as they are.
        return self._made(_best(outputs)) if isinstance(self._table, TextRows) else _best(outputs)

    def _made(self, array: np.ndarray) -> Any:
        return array if self._table is None else self._table.rows(array)

    def _like(self, x: Any, array: np.ndarray) -> Any:
        """A value of x in the form of x: as rows if this was."""
        return self._made(array) if are_rows(x) or are_texts(x) else array

    def _shapes_of(self, signature: str) -> dict[str, tuple[int | None, ...]]:
        if signature not in self._shapes:
            raise ValueError(f"`signature` must be one of {list(self._shapes)}. Received: signature={signature!r}")
        return self._shapes[signature]


def load(
    path: str | os.PathLike[str],
    *,
    num_threads: int | None = None,
    runtime: Literal["interpreter", "compiled_model"] | None = None,
) -> ExportedModel:
    """Opens an exported model, which any number of threads can then call at once.

    Args:
        path: a .tflite file, a SavedModel folder, a folder of ONNX models, or a folder of versions, of which the newest
            is taken.
        num_threads: how many threads LiteRT or ONNX Runtime uses for one call; None lets it choose. Of LiteRT, as many
            calls as there are cores run at the same time, each in an interpreter of its own, which is made when it is
            first needed.
        runtime: what runs a .tflite file: LiteRT's `Interpreter` ("interpreter"), which is the default, or its newer
            `CompiledModel` ("compiled_model"), which takes one row and one thread at a time and logs to stderr. None
            for the other formats.

    Returns:
        The model.

    Raises:
        FileNotFoundError: there is no exported model at the path.
        ImportError: the runtime of the format is not installed.
        ValueError: the model was not exported by tfvae, its description is invalid or belongs to another export, or
            `runtime` is not one of its format.
    """
    file_format, path = formats.find(Path(path))
    if runtime is not None and runtime not in file_format.runtimes:
        names = " or ".join(map(repr, (*file_format.runtimes, None)))
        raise ValueError(f"`runtime` must be {names} for the format {file_format.name}. Received: runtime={runtime!r}")
    opened, metadata = open_with_description(file_format, path, num_threads, runtime)
    is_ours = opened.is_ours or "tfvae_version" in metadata
    if not is_ours and not any(set(opened.shapes) >= signatures for signatures in _SIGNATURES):
        raise ValueError(
            f"`path` must be a model that tfvae exported. Received: path={str(path)!r}, with the signatures "
            f"{list(opened.shapes)}"
        )
    source = f"{file_format.name} {str(path)!r}" + (f" in {runtime}" if runtime else "")
    return ExportedModel(opened.call, opened.shapes, metadata, source)


def _best(outputs: dict[str, np.ndarray], name: str = "mean") -> np.ndarray:
    """The output of a signature that is of x: of models of sequences `sequence`."""
    return outputs["sequence"] if "sequence" in outputs else outputs[name]


def _inputs(shapes: dict[str, tuple[int | None, ...]]) -> list[str]:
    """The inputs of a signature with their shapes, such as `x [N, 4]`."""
    named = {
        name: ("N" if rows is None else rows, *("T" if size is None else size for size in sizes))
        for name, (rows, *sizes) in shapes.items()
    }
    return [f"{name} [{', '.join(map(str, sizes))}]" for name, sizes in named.items()]


def _ranges(metadata: dict[str, Any]) -> dict[bool, expected_range.ExpectedRange]:
    """The expected ranges of x, in the units of most signatures, and of those that take the model's units (True)."""
    expected, scaling = metadata.get("expected_range"), metadata.get("scaling")
    if expected is None:
        return {}
    ranges = {False: expected_range.ExpectedRange(expected)}
    if scaling is not None:
        ranges[True] = expected_range.ExpectedRange(expected, scaling["offset"], scaling["scale"])
    return ranges
