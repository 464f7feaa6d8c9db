"""Publishes exports that are a single file, so that a reader never sees half of one."""

import hashlib
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
    own_tolerance: float | None = None,
    **options: Any,
) -> Path:
    """Writes a file and its description to a temporary folder, compares the file with the model, and moves both in.

    The description contains the file's SHA-256, so that a process that is killed between the two moves does not leave a
    pair of different exports that a client would take for one. What killed exports left in the folder is removed.

    Args:
        argument: the key of the format in `FORMATS`.
        model: the model.
        endpoints: the model's functions.
        path: the place of the file.
        description: what a caller must know about the model.
        x: data for the comparison; None lets the model draw them.
        own_tolerance: see `check_agreement`.
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
    files.remove_temporaries(path.parent, shared=True)
    with files.temporary_folder(path.parent) as folder:
        written = folder / path.name
        file_format.write(endpoints, written, **options)
        described = file_format.describe(written, description)
        with written.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        write_json(file_format.description(written), {**described, "sha256": digest})
        check_agreement(model, x=x, own_tolerance=own_tolerance, **{argument: written})
        # Now, because the time between the two moves should be short.
        files.sync(written)
        # First, because a description of an earlier version has no digest, and would be taken for that of the new file.
        files.move_in(file_format.description(written), file_format.description(path))
        files.move_in(written, path)
    return path
