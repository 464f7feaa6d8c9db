"""The exports that the commands write."""

from pathlib import Path
from typing import Any, Literal

from tfvae import export as export_module
from tfvae.cli import run_folder as runs_module
from tfvae.data import Pipelines
from tfvae.export.metadata import write_json
from tfvae.export.report import Verification
from tfvae.models.vae import VAE


def write(
    model: VAE,
    folder: Path,
    pipelines: Pipelines,
    card: export_module.Card,
    keep: int | None = None,
    batching: bool = False,
    quantize: Literal["float16", "dynamic", "int8"] | None = None,
    *,
    formats: Literal["all", "saved_model", "tflite"] = "all",
    latency: bool = True,
) -> Verification:
    """Exports the model, and prints and writes how far the outputs of the exports are from the model's.

    Args:
        model: the model.
        folder: the folder of its exports.
        pipelines: the data of the run.
        card: what is known of the run, for the model card.
        keep: see `tfvae.export.saved_model`.
        batching: see `tfvae.export.saved_model`.
        quantize: see `tfvae.export.tflite`.
        formats: which formats to write.
        latency: whether to measure the latency.

    Returns:
        The comparison.
    """
    x = runs_module.held_out(pipelines)
    units = _units(model, pipelines)
    # From the training data: the held-out data measure what int8 costs.
    calibration = next(pipelines.train.unbatch().batch(256).as_numpy_iterator())
    files_by_batch: dict[Literal[1] | None, Path] = {
        None: folder / f"{folder.name}.tflite",
        1: folder / f"{folder.name}_batch1.tflite",
    }
    if formats == "saved_model":
        files_by_batch = {}
    for size, file in files_by_batch.items():
        export_module.tflite(model, file, quantize=quantize, batch_size=size, x=calibration, **units)
    tflite = list(files_by_batch.values())
    # Last, because a running server may load the new version at once.
    version = None
    if formats != "tflite":
        version = export_module.saved_model(model, folder, keep=keep, batching=batching, card=card, x=x, **units)
    calls = timed_calls(latency)
    verification = export_module.verify(model, saved_model=version, tflite=tflite or None, x=x, timed_calls=calls)
    write_json(folder / "verification.json", verification.to_dict())
    places = [] if version is None else [f"{version}/"]
    if tflite:
        places.append(" and ".join(map(str, tflite)))
    print(f"\nExported to {', '.join(places)}; compared with the Keras model on {len(x)} examples:\n")
    print(verification)
    return verification


def write_onnx(model: VAE, folder: Path, pipelines: Pipelines, *, latency: bool = True) -> None:
    """Exports the model to ONNX, and prints how far the outputs are from the model's."""
    x = runs_module.held_out(pipelines)
    export_module.onnx(model, folder, x=x, **_units(model, pipelines))
    verification = export_module.verify(model, onnx=folder, x=x, timed_calls=timed_calls(latency))
    print(f"\nExported to {folder}/; compared with the Keras model on {len(x)} examples:\n")
    print(verification)


def _units(model: VAE, pipelines: Pipelines) -> dict[str, Any]:
    """What an export needs to take raw data; a model of a table or of series has it."""
    return (
        {}
        if model.table is not None or model.series is not None
        else {"offset": pipelines.offset, "scale": pipelines.scale}
    )


def timed_calls(latency: bool) -> int:
    """The number of calls that `tfvae.export.verify` times: none if the latency is not wanted."""
    return 50 if latency else 0
