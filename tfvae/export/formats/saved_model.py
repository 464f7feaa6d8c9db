"""SavedModels, which plain TensorFlow and TF Serving run."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfvae.export.formats.format import Format, Opened

if TYPE_CHECKING:
    from tfvae.export.endpoints import Endpoints


def _write(endpoints: "Endpoints", path: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(endpoints, str(path), signatures=endpoints.signatures_by_name)


def _find(path: Path) -> Path | None:
    """The folder itself if it is a SavedModel, or the newest version if it is a folder of versions."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = path.iterdir() if path.is_dir() else ()
    complete = [p for p in versions if p.name.isdecimal() and (p / "saved_model.pb").is_file()]
    return max(complete, key=lambda p: int(p.name), default=None)


def _open(path: Path, num_threads: int | None) -> Opened:
    """Opens a SavedModel; the number of threads has no effect, because TensorFlow sets it for the whole process."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def call(signature: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Refers to `loaded`, rather than to its functions alone, to keep its variables alive.
        outputs = loaded.signatures[signature](**{name: tf.constant(array) for name, array in arrays.items()})
        return {name: output.numpy() for name, output in outputs.items()}

    shapes = {
        name: {argument: tuple(spec.shape) for argument, spec in function.structured_input_signature[1].items()}
        for name, function in loaded.signatures.items()
    }
    return Opened(call, shapes)


def _description(path: Path) -> Path:
    return path / "assets.extra" / "metadata.json"


FORMAT = Format("SavedModel", _write, _find, _open, _description, takes_texts=True)
