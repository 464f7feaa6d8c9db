"""Opens exported files together with their descriptions."""

import time
from pathlib import Path
from typing import Any

from tfvae.export import descriptions
from tfvae.export.formats.format import Format, Opened

# How long an export may take between the two renames that publish a file and its description.
_PUBLISHING_SECONDS = 0.3


def open_with_description(
    file_format: Format, path: Path, num_threads: int | None, runtime: str | None
) -> tuple[Opened, dict[str, Any]]:
    """Reads the description of a model, and opens it.

    Raises:
        ValueError: the description belongs to another export, or a file is damaged.
    """
    open_ = file_format.runtimes[runtime] if runtime else file_format.open
    description = file_format.description(path)
    # Twice, because an export may be publishing the two at this moment.
    for seconds in (_PUBLISHING_SECONDS, 0):
        metadata = descriptions.read(description)
        try:
            _check_regular(path)
            opened = open_(path, num_threads)
        except ImportError:
            raise
        except Exception as error:  # TensorFlow raises errors of many classes for damaged files.
            if isinstance(error, ValueError | OSError) and str(path) in str(error):
                raise
            raise ValueError(f"`path` must be an export that is whole. Received: {str(path)!r}: {error}") from error
        if opened.sha256 is None or metadata.get("sha256", opened.sha256) == opened.sha256:
            return opened, metadata
        time.sleep(seconds)
    raise ValueError(
        f"`path` must be of the same export as its description: export the model again, copy both files of one export, "
        f"or remove {str(description)!r} to open the model without it. Received: path={str(path)!r} with the SHA-256 "
        f"{opened.sha256}, described for {metadata['sha256']}"
    )


def _check_regular(path: Path) -> None:
    """Raises ValueError if an export holds a pipe, whose writer its reader would wait for, or a device."""
    for file in (path, *path.rglob("*")):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ValueError(
                f"`path` must be an export that is whole. Received: {str(file)!r}, which is not a regular file"
            )
