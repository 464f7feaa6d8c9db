"""Publishes exports that are a single file, so that a reader never sees half of one."""

from pathlib import Path
from typing import Any

from tfvae import files
from tfvae.export.endpoints import Endpoints
from tfvae.export.formats import FORMATS
from tfvae.export.metadata import write_json
from tfvae.export.verification import check_agreement
from tfvae.exportable import Exportable


def write(
    argument: str,
    model: Exportable,
    endpoints: Endpoints,
    path: Path,
    description: dict[str, Any],
    *,
    x: Any = None,
    compared: bool = True,
    **options: Any,
) -> Path:
    """Writes a file and its description to a temporary folder, compares the file with the model, and moves both in.

    Args:
        argument: the key of the format in `FORMATS`.
        model: the model.
        endpoints: the model's functions.
        path: the place of the file.
        description: what a caller must know about the model.
        x: data for the comparison; None lets the model draw them.
        compared: whether the file is compared with the Keras model, and refused if they do not agree.
        options: the other arguments of the format's `write`.

    Returns:
        The file.

    Raises:
        ValueError: the file does not agree with the model.
        NotImplementedError: a part of the model cannot be exported to this format.
        OSError: the file cannot be written.
    """
    file_format = FORMATS[argument]
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.temporary_folder(path.parent) as folder:
        written = folder / path.name
        file_format.write(endpoints, written, **options)
        write_json(file_format.description(written), file_format.describe(written, description))
        if compared:
            check_agreement(model, **{argument: written}, x=x)
        files.move_in(file_format.description(written), file_format.description(path))
        files.move_in(written, path)
    return path
