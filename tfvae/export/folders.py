"""Publishes exports that are a folder, so that a reader never sees half of one."""

import os
from pathlib import Path
from typing import Any

from tfvae import files
from tfvae.export.endpoints import Endpoints
from tfvae.export.formats import FORMATS, earlier
from tfvae.export.metadata import write_json
from tfvae.export.verification import check_agreement
from tfvae.exportable import Exportable


def write(
    argument: str, model: Exportable, endpoints: Endpoints, path: Path, description: dict[str, Any], *, x: Any = None
) -> Path:
    """Writes a folder and its description to a temporary place, compares it with the model, and moves it in.

    A folder cannot take the place of another in one rename. So an earlier export is first moved to `formats.earlier`,
    where `tfvae.export.load` finds it, and from where the next export puts it back, if this process is killed before
    the new one is in its place.

    Args:
        argument: the key of the format in `FORMATS`.
        model: the model.
        endpoints: the model's functions.
        path: the place of the folder. Nothing may be there, except an empty folder or an earlier export to the same
            format, which is replaced.
        description: what a caller must know about the model.
        x: data for the comparison; None lets the model draw them.

    Returns:
        The folder.

    Raises:
        ValueError: something else is at the path, or the export does not agree with the model.
        NotImplementedError: a part of the model cannot be exported to this format.
        OSError: the folder cannot be written.
    """
    file_format = FORMATS[argument]
    _put_back(path)
    occupied = path.is_symlink() or (any(path.iterdir()) if path.is_dir() else path.exists())
    if occupied and (path.is_symlink() or file_format.find(path) != path):
        raise ValueError(
            f"`path` must be a new folder, or that of an earlier {file_format.name} export, which is replaced. "
            f"Received: path={str(path)!r}, which holds something else"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.remove_temporaries(path.parent, shared=True)
    with files.temporary_folder(path.parent) as folder:
        written = folder / "new"
        file_format.write(endpoints, written)
        file_format.description(written).parent.mkdir(exist_ok=True)
        write_json(file_format.description(written), description)
        check_agreement(model, x=x, own_tolerance=None, **{argument: written})
        if earlier(path).exists():
            # Left by an export that was killed when its own was in place already.
            os.rename(earlier(path), folder / "older")
        if occupied:
            os.rename(path, earlier(path))
        try:
            files.move_in(written, path)
        finally:
            _put_back(path)
        if occupied:
            # In one step, because half of an export must never be found there.
            os.rename(earlier(path), folder / "old")
    return path


def _put_back(path: Path) -> None:
    """Moves an earlier export back to its place, if nothing has taken that."""
    if earlier(path).exists() and not os.path.lexists(path):
        os.rename(earlier(path), path)
