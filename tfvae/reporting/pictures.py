"""The callback that draws what a model does while it trains."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from tfvae import checks, evaluation, files, plots
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE

_SAMPLES = 64


class Pictures(keras.callbacks.Callback):
    """Draws reconstructions, samples and traversals of a `tfvae.VAE` during the training, always of the same noise.

    Args:
        x: examples [N, ...], at least 2, such as held-out data. All are encoded for the traversals; the first 16 are
            reconstructed.
        folder: the folder for PNG files, epoch_0010/reconstructions.png and others; None writes none.
        log_dir: the folder of the event files that TensorBoard shows; None writes none. It needs the package
            tensorboard.
        every: how many epochs pass between two drawings; the last epoch is always drawn.
        seed: of the samples.

    Raises:
        ValueError: an argument is out of its range, or neither `folder` nor `log_dir` is given.
        ImportError: `log_dir` is given, and tensorboard is not installed.
    """

    def __init__(
        self,
        x: Any,
        folder: str | Path | None = None,
        log_dir: str | Path | None = None,
        every: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.x = np.asarray(x, np.float32)
        if len(self.x) < 2:
            raise ValueError(f"`x` must hold at least 2 examples. Received: {len(self.x)}")
        if folder is None and log_dir is None:
            raise ValueError("`folder` or `log_dir` must be given. Received: folder=None, log_dir=None")
        self.folder = None if folder is None else Path(folder)
        self.every = checks.positive_integer("every", every)
        self.seed = checks.seed_number(seed)
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(f"`log_dir` needs `pip install 'tfvae[tensorboard]'`. Received: {log_dir}")
        self._log_dir = log_dir
        self._writer: Any = None
        self._drawn = self._epoch = -1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks the model and the examples."""
        if not isinstance(self.model, VAE) or isinstance(
            self.model, ConditionalVAE | SemiSupervisedVAE | AutoregressiveVAE
        ):
            raise ValueError(f"`Pictures` needs a tfvae.VAE without conditions. Received: {checks.shown(self.model)}")
        self.model.check_data(self.x)
        # Not before, because it makes the folder.
        if self._log_dir is not None and self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._log_dir))
        self._drawn = self._epoch = -1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Draws, if it is time."""
        self._epoch = epoch
        if (epoch + 1) % self.every == 0:
            self._draw()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Draws the last epoch."""
        if self._epoch >= 0 and self._drawn != self._epoch:
            self._draw()

    def _draw(self) -> None:
        self._drawn = self._epoch
        for name, figure in self._figures().items():
            if self.folder is not None:
                path = self.folder / f"epoch_{self._epoch + 1:04d}" / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.replacing(path) as written:
                    figure.savefig(written)
            if self._writer is not None:
                with self._writer.as_default():
                    tf.summary.image(name, _pixels(figure), step=self._epoch + 1)
        if self._writer is not None:
            self._writer.flush()

    def _figures(self) -> dict[str, Figure]:
        to_data, limits = self.model.likelihood.to_data, (float(self.x.min()), float(self.x.max()))
        x = self.x[:16]
        figures = {
            "reconstructions": plots.reconstructions(x, to_data(self.model.reconstruct(x)), limits=limits),
            "samples": plots.samples(to_data(self.model.generate(_SAMPLES, seed=self.seed)), limits=limits),
        }
        if self.model.posterior.support == "real" and evaluation.active_units(self.model, self.x, seed=0).count:
            found = evaluation.traversals(self.model, self.x, seed=self.seed)
            figures["traversals"] = plots.traversals(to_data(found.x), found.labels, found.values, limits=limits)
        return figures


def _pixels(figure: Figure) -> tf.Tensor:
    """A figure as a picture [1, H, W, 4]."""
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return tf.image.decode_png(written.getvalue(), channels=4)[tf.newaxis]
