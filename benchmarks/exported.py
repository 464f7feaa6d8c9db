"""What the benchmarks of exports share: their arguments, and one model in every format that the compared runtimes read.

Keras's outputs are written too, as the expected answers.
"""

import argparse
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from peers import architectures
from peers.architectures import ARCHITECTURES
from peers.worker import Worker

SHAPES = ("dense 784-512-512-32", "convolutional 28x28x1")
# The .tflite files by name, and the arguments of `tfvae.export.tflite` for each.
TFLITE_FILES = {
    "float32": {},
    "float32, batch of 1": {"batch_size": 1},
    "dynamic": {"quantize": "dynamic"},
    "int8": {"quantize": "int8"},
}
# The number of examples that calibrate int8 and on which every export is verified.
_ROWS = 256
# The number of examples whose answers are kept for comparison.
_QUESTIONS = 64


def arguments(description: str, rounds: int, seconds: float) -> argparse.Namespace:
    """The arguments of a benchmark that times exports: `json`, `rounds`, `seconds` and `shapes`.

    Args:
        description: what `--help` says.
        rounds: the default number of rounds.
        seconds: the default time in each.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file to which the rows are appended")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each is timed")
    parser.add_argument("--seconds", type=float, default=seconds, help="how long each is timed in a round")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES, help="all by default")
    return parser.parse_args()


def write(shape: str, folder: Path) -> None:
    """Calls `write_by_keras` and, if PyTorch is installed, `write_by_torch`.

    Each runs in a process of its own, because two frameworks in one process can crash it.

    Args:
        shape: a name of `ARCHITECTURES`.
        folder: an empty folder.
    """
    writers = [write_by_keras, *([write_by_torch] if importlib.util.find_spec("torch") else [])]
    for writer in writers:
        worker = Worker(functools.partial(writer, shape, folder))
        worker.ready()
        worker.close()


def write_by_keras(shape: str, folder: Path) -> None:
    """Writes model.keras, the folder served/, the .tflite files, and questions.npz: inputs with Keras's outputs.

    Args:
        shape: a name of `ARCHITECTURES`.
        folder: an empty folder.
    """
    from peers import tfvae_vae

    from tfvae import export

    architecture = ARCHITECTURES[shape]
    x = architectures.data(architecture, _ROWS)
    model = tfvae_vae.build(architecture, k=1)
    tfvae_vae.load(model, architectures.weights(architecture))
    model.save(folder / "model.keras")
    export.saved_model(model, folder / "served", x=x)
    for name, arguments in TFLITE_FILES.items():
        export.tflite(model, folder / f"{name}.tflite", x=x, **arguments)
    x = x[:_QUESTIONS]
    np.savez(folder / "questions.npz", x=x, mean=model.reconstruct(x), **model.encode(x))


def write_by_torch(shape: str, folder: Path) -> None:
    """Writes encode.onnx and reconstruct.onnx, which take and return images with channels first.

    Args:
        shape: a name of `ARCHITECTURES`.
        folder: the folder to write to.
    """
    import torch
    from peers.pytorch_vae import to_tensor

    x = to_tensor(architectures.data(ARCHITECTURES[shape], 2))
    for name, module in torch_modules(shape).items():
        torch.onnx.export(
            module,
            (x,),
            folder / f"{name}.onnx",
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )


def torch_modules(shape: str) -> dict[str, Any]:
    """The functions `encode` and `reconstruct` as PyTorch modules, with the weights of the architecture.

    Args:
        shape: a name of `ARCHITECTURES`.
    """
    import torch
    from peers.pytorch_vae import VAE
    from torch import nn
    from torch.nn import functional

    class Encode(nn.Module):
        """The parameters loc and scale of q(z|x)."""

        def __init__(self, vae: VAE) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.vae.encoder(x)
            raw_scale = self.vae.raw_scale(features) + architectures.RAW_SHIFT
            return self.vae.loc(features), functional.softplus(raw_scale) + architectures.MIN_SCALE

    class Reconstruct(nn.Module):
        """The mean of p(x|z) at the mean of q(z|x)."""

        def __init__(self, vae: VAE) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.vae.decoder(self.vae.loc(self.vae.encoder(x))))

    vae = VAE(ARCHITECTURES[shape], k=1)
    vae.load(architectures.weights(ARCHITECTURES[shape]))
    return {"encode": Encode(vae).eval(), "reconstruct": Reconstruct(vae).eval()}
