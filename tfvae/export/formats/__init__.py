"""The formats in which a model is exported, in one table.

A new format is a module here that defines its `FORMAT`, and its line in the table: `tfvae.export.load`, `verify` and
the comparison before a file is published then know it.
"""

from pathlib import Path

from tfvae.export.formats import saved_model, tflite
from tfvae.export.formats.format import Format

# By the name of the argument of `verify`, in the order in which they are printed.
FORMATS: dict[str, Format] = {
    "saved_model": saved_model.FORMAT,
    "tflite": tflite.FORMAT,
}


def find(path: Path) -> tuple[Format, Path]:
    """The format of an exported model, and its file or folder: of a folder of versions, the newest.

    Args:
        path: what a user gave.

    Raises:
        FileNotFoundError: nothing is there.
    """
    # From the last, because a file that no later format knows is taken for a .tflite file, whatever its name.
    for each in reversed(FORMATS.values()):
        found = each.find(path)
        if found is not None:
            return each, found
    raise FileNotFoundError(
        f"`path` must be a .tflite file, a SavedModel or a folder of versions of one. Received: path={str(path)!r}"
    )
