"""The formats in which a model is exported, in one table.

To add a format, define a `FORMAT` in a module here and add it to the table. `tfvae.export.load`, `verify` and the
comparison before a file is published then support it.
"""

from pathlib import Path

from tfvae.export.formats import onnx, saved_model, tflite
from tfvae.export.formats.format import Format

# The keys are the names of the arguments of `verify`; the order is that in which the formats are printed.
FORMATS: dict[str, Format] = {
    "saved_model": saved_model.FORMAT,
    "tflite": tflite.FORMAT,
    "onnx": onnx.FORMAT,
}


def find(path: Path) -> tuple[Format, Path]:
    """The format of an exported model, and its file or folder; for a folder of versions, that of the newest version.

    Args:
        path: the path that the user passed.

    Raises:
        FileNotFoundError: there is no exported model at the path.
    """
    for place in (path, earlier(path)):
        # In reverse order, because TFLite claims any file, whatever its name, so that later formats must come first.
        for each in reversed(FORMATS.values()):
            found = each.find(place)
            if found is not None:
                return each, found
    raise FileNotFoundError(
        "`path` must be a .tflite file, a SavedModel, a folder of versions of one, or a folder of ONNX models. "
        f"Received: path={str(path)!r}"
    )


def earlier(path: Path) -> Path:
    """Where an export that is a folder is while a new one takes its place, and stays if that is interrupted."""
    return path.parent / f".{path.name}.earlier"
