"""Publishes SavedModels for TF Serving, so that a server never sees half of one."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from numpy.typing import ArrayLike

from tfvae import files
from tfvae.checks import boolean, positive_integer
from tfvae.export import documents, units, warmup
from tfvae.export.card import Card, checked, head, section
from tfvae.export.endpoints import Endpoints, check_kind
from tfvae.export.formats import FORMATS
from tfvae.export.metadata import metadata, write_json
from tfvae.export.verification import check_agreement
from tfvae.exportable import Exportable

# Where TF Serving looks for the requests in a version.
_WARMUP = "assets.extra/tf_serving_warmup_requests"


def saved_model(
    model: Exportable,
    path: str | os.PathLike[str],
    *,
    keep: int | None = None,
    batching: bool = False,
    card: Card | None = None,
    x: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> Path:
    """Publishes the model as the next version in a folder that TF Serving reads.

    The signatures are those of `tfvae.export.Endpoints`, or for variational inference those of
    `tfvae.export.PosteriorEndpoints`. Plain TensorFlow serves them, without tfvae, Keras or TFP. The version is written
    to a temporary folder, compared with the Keras model, and moved in by one rename. Exports to the same folder wait
    for each other, and each removes what an export that was killed left behind.

    Args:
        model: a model that is built.
        path: the model's folder, whose name is the name of the served model. Its subfolders 1, 2, ... are the versions.
            Beside them, README.md, example requests in requests/ and models.config are written.
        keep: how many versions that load to keep, this one included; None keeps all. Whatever is older than the oldest
            of them is removed. A newer version that does not load is left there, with a warning that names it.
        batching: whether to write batching.config too, and to show how to start a server with it, which then gathers
            requests into batches; docs/serving.md says when this pays and what it puts at risk.
        card: what its maker says of the model, for the model card in README.md.
        x: data as for `fit`, for the comparison; None draws them from the model. For variational inference with
            `predictive`, new data in the form that it takes, whose shapes also become those of the inputs.
        offset: with `scale`, how raw data become those of the model, x = (raw - offset) / scale: numbers, or arrays
            that broadcast to the event shape. The signatures then take and give raw data: see
            `tfvae.export.Endpoints`. None means that they take x as it is.
        scale: see `offset`.

    Returns:
        The folder of the new version, whose number is one above the highest there.

    Raises:
        TypeError: `card` is not a `tfvae.export.Card`.
        ValueError: the model is not built, `keep` is out of its range, or the export does not agree with the model.
        NotImplementedError: a part of the model cannot be exported.
        OSError: the folder cannot be written.
    """
    if keep is not None:
        keep = positive_integer("keep", keep)
    batching = boolean("batching", batching)
    card = checked(card)
    file_format = FORMATS["saved_model"]
    check_kind(model, file_format.name)
    model.check_exportable()
    if x is not None:
        x = model.export_data(x)
    scaling = units.make(model, offset, scale, x)
    model = model.in_float32()
    description = metadata(model, scaling, x, file_format.takes_texts)
    endpoints = Endpoints(model, x=x, scaling=scaling, takes_texts=file_format.takes_texts, takes_shorter=True)
    folder = Path(path)
    # Resolved, because "." and links must give a name too.
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ValueError(
            "`path` must end in a name of letters, digits, '.', '_' and '-', because it is part of a URL. Received: "
            f"path={str(path)!r}"
        )
    with _errors_that_name(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _errors_that_name(folder), _locked(folder), files.temporary_folder(folder) as temporary:
        content = temporary / "model"
        file_format.write(endpoints, content)
        (content / _WARMUP).parent.mkdir()
        write_json(file_format.description(content), description)
        check_agreement(model, saved_model=content, x=x)
        warmup.write(content / _WARMUP, endpoints, name, scaling)
        signatures = units.signatures(model, scaling, x)
        version = folder / str(1 + max((int(path.name) for path in _numbered(folder)), default=0))
        texts = documents.files(model, signatures, endpoints, name, scaling, batching)
        texts["README.md"] = f"{head(model, card)}\n{texts['README.md']}\n" + section(
            model, card, content, version.name, _tflite_files(folder)
        )
        for document, text in texts.items():
            (folder / document).parent.mkdir(exist_ok=True)
            (temporary / "document").write_text(text, encoding="utf-8")
            files.move_in(temporary / "document", folder / document)
        files.move_in(content, version)
        for old in _superseded(folder, keep) if keep else ():
            # First moved to where the server does not look, so that it never sees half of a version; then removed.
            os.rename(old, temporary / old.name)
    return version


def _tflite_files(folder: Path) -> list[Path]:
    """The .tflite files in a folder, each with its description."""
    found = sorted(path for path in folder.glob("*.tflite") if path.is_file())
    described = ((path, FORMATS["tflite"].description(path)) for path in found)
    return [path for pair in described for path in pair if path.is_file()]


def _numbered(folder: Path) -> list[Path]:
    """The paths that TF Serving takes for versions, in order: all whose name is a number, such as 7 or 0007."""
    numbered = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name))


def _superseded(folder: Path, keep: int) -> list[Path]:
    """The versions older than the newest `keep` that load, of which the newest of all was just published."""
    versions = [path for path in _numbered(folder) if path.is_dir()]
    kept = [versions.pop()]
    while versions and len(kept) < keep:
        # A version is not loaded if nothing depends on the answer.
        error = _error_of(versions[-1]) if len(versions) > keep - len(kept) else None
        version = versions.pop()
        if error is None:
            kept.append(version)
        else:
            warnings.warn(
                f"{version} does not load: remove it. `keep` does not count it, and an older version is kept in its "
                f"place. Received: {type(error).__name__}: {error}",
                stacklevel=3,
            )
    return versions


def _error_of(version: Path) -> Exception | None:
    """The error that loading a version raises, or reading its warm-up requests, without which a server refuses it."""
    requests = version / _WARMUP
    try:
        tf.saved_model.load(str(version))
        if requests.exists():
            for _ in tf.data.TFRecordDataset(str(requests)):
                pass
    except Exception as error:  # A damaged file may raise anything.
        return error
    return None


@contextlib.contextmanager
def _errors_that_name(folder: Path) -> Iterator[None]:
    """Converts TensorFlow's errors to OSError, and adds the folder to an OSError that names no file (a full disk)."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"`path` could not be written: {error.message}. Received: path={str(folder)!r}") from error
    except OSError as error:
        if error.filename is not None and not isinstance(error, FileExistsError):
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits until no other export writes to the folder, and removes what killed exports left there.

    The operating system releases the lock of a process that dies.
    """
    with files.locked(folder):
        files.remove_temporaries(folder)
        yield
