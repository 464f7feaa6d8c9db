"""Folders of ONNX models, one for each signature, which ONNX Runtime runs."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfvae.export.formats import onnx_ops
from tfvae.export.formats.format import Format, Opened

if TYPE_CHECKING:
    from tfvae.export.endpoints import Endpoints

# The newest that tf2onnx writes without being asked; ONNX Runtime has it since 1.10.
_OPSET = 15
# The domain of our models, by which each is recognised alone.
_DOMAIN = "tfvae"
# In ONNX an output cannot have the name of an input, so that of the state gets this suffix.
_AFTER = "_after"
_NEEDS = "ONNX needs pip install 'tfvae[onnx]'"


def _write(endpoints: "Endpoints", path: Path) -> None:
    """Writes a folder with a model for each signature, `<signature>.onnx`, each with its own copy of its weights.

    Raises:
        ImportError: tf2onnx or ONNX is not installed.
        NotImplementedError: the functions need an op that ONNX does not have.
    """
    models = {name: _model(name, function) for name, function in endpoints.signatures_by_name.items()}
    path.mkdir()
    for name, model in models.items():
        (path / f"{name}.onnx").write_bytes(model.SerializeToString())


def _model(signature: str, function: Any) -> Any:
    """The ONNX model of a concrete function."""
    import tensorflow as tf

    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ImportError(f"{_NEEDS}. Received: {error}") from error

    specs = [tf.TensorSpec(spec.shape, spec.dtype, spec.name) for spec in function.structured_input_signature[0]]
    inputs = {spec.name for spec in specs}

    def renamed(*tensors: Any) -> dict[str, Any]:
        outputs = function(*tensors).items()
        return {f"{name}{_AFTER}" if name in inputs else name: output for name, output in outputs}

    with _silent():
        # It continues after an op that it cannot convert, and writes it as if ONNX had it.
        model, _ = tf2onnx.convert.from_function(
            tf.function(renamed), specs, opset=_OPSET, custom_op_handlers=onnx_ops.handlers()
        )
    unknown = [node for node in model.graph.node if not node.domain and not onnx.defs.has(node.op_type, _OPSET)]
    if unknown:
        ops = ", ".join(f"{node.op_type} ({node.name})" for node in unknown[:3])
        raise NotImplementedError(
            f"ONNX cannot run `{signature}`, because it has no form of these ops, named with their layers: {ops}.\n"
            "Replace them by others, or export a SavedModel, which runs every op: tfvae.export.saved_model(model, path)"
        )
    model.graph.name = signature
    model.domain = _DOMAIN
    for value in (*model.graph.input, *model.graph.output):
        rows = value.type.tensor_type.shape.dim[0]
        if not rows.HasField("dim_value"):
            rows.dim_param = "batch"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        said = str(error).strip().splitlines()[0]
        raise NotImplementedError(
            f"tf2onnx cannot convert `{signature}`: the model that it wrote is not valid ONNX. Received: {said}\n"
            "Export a SavedModel, which runs every op: tfvae.export.saved_model(model, path)"
        ) from error
    return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps tf2onnx from logging what is raised as an error here."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _find(path: Path) -> Path | None:
    """The folder, if there are ONNX models in it, or if it is that of the ONNX model at the path."""
    folder = path.parent if path.suffix == ".onnx" and path.is_file() else path
    return folder if folder.is_dir() and any(folder.glob("*.onnx")) else None


def _open(path: Path, num_threads: int | None) -> Opened:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{_NEEDS}. Received: {error}") from error

    options = onnxruntime.SessionOptions()
    # 0 lets ONNX Runtime choose.
    options.intra_op_num_threads = num_threads or 0
    sessions = {}
    for file in sorted(path.glob("*.onnx")):
        try:
            sessions[file.stem] = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no public base class.
            raise ValueError(
                f"`path` must hold ONNX models that ONNX Runtime can run. Received: path={str(file)!r}, {error}"
            ) from error

    def call(signature: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = sessions[signature]
        names = [output.name for output in session.get_outputs()]
        own = (name.removesuffix(_AFTER) if name.removesuffix(_AFTER) in arrays else name for name in names)
        return dict(zip(own, session.run(names, arrays), strict=True))

    shapes = {
        name: {
            given.name: tuple(size if isinstance(size, int) else None for size in given.shape)
            for given in session.get_inputs()
        }
        for name, session in sessions.items()
    }
    is_ours = all(session.get_modelmeta().domain == _DOMAIN for session in sessions.values())
    return Opened(call, shapes, is_ours=is_ours)


def _description(path: Path) -> Path:
    return path / "metadata.json"


FORMAT = Format("ONNX", _write, _find, _open, _description)
