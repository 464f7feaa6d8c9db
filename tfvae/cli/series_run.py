"""What is different in the run of time series: its model, its calibration and its pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfvae import networks, plots
from tfvae.cli import run_folder, run_training
from tfvae.cli.train_checks import check_likelihood_of_sequence
from tfvae.data import Series
from tfvae.data.series import Cut
from tfvae.data.timelines import Timelines
from tfvae.detection.thresholds import least_rate
from tfvae.likelihoods import Likelihood, Missing
from tfvae.likelihoods.location_scale import LocationScale
from tfvae.models.vae import VAE
from tfvae.reporting import series_sections

# As many windows are calibrated on at most.
_MOST_WINDOWS = 10_000
# How many windows are drawn.
_DRAWN = 4


def make_model(
    series: Series,
    network: str,
    likelihood: Likelihood,
    latent_dim: int,
    hidden: tuple[int, ...],
    filters: tuple[int, ...],
    activation: str,
    **others: Any,
) -> VAE:
    """Makes the model of windows of series, under which any value may be missing.

    Args:
        series: what their channels are.
        network: "dense", "temporal", "recurrent" or "transformer".
        likelihood: p(x|z) of the channels.
        latent_dim: the dimension of z.
        hidden: the widths of the dense layers of the encoder.
        filters: the first is the number of features of each step.
        activation: the name of the activation.
        others: the other arguments of `VAE`.

    Raises:
        ValueError: the likelihood is not one of numbers, or the networks do not fit in memory.
    """
    check_likelihood_of_sequence(type(likelihood).__name__)
    if isinstance(likelihood, LocationScale) and (config := likelihood.get_config())["scale"] == "learned":
        # Channels have nothing in common that would make their noise alike.
        likelihood = type(likelihood).from_config({**config, "scale": "per_channel"})
    # The encoder tells what is missing.
    of_windows = Missing(likelihood, fill=False)
    event_shape = (series.length, len(series.channels))
    run_training.check_memory(of_windows.parameter_shape(event_shape), latent_dim, hidden)
    encoder, decoder = _networks(network, of_windows, event_shape, latent_dim, hidden, filters, activation)
    return VAE(encoder, decoder, latent_dim, likelihood=of_windows, series=series, **others)


def _networks(
    network: str,
    likelihood: Likelihood,
    event_shape: tuple[int, int],
    latent_dim: int,
    hidden: tuple[int, ...],
    filters: tuple[int, ...],
    activation: str,
) -> tuple[keras.Model, keras.Model]:
    """The encoder, and a decoder that mirrors it."""
    num_steps, channels = event_shape
    output_shape = likelihood.parameter_shape(event_shape)
    if network == "dense":
        return (
            networks.dense_encoder(event_shape, hidden, activation, missing_mask=True),
            networks.dense_decoder(latent_dim, output_shape, hidden[::-1], activation),
        )
    of_step: dict[str, Any] = {"hidden": hidden, "activation": activation}
    makers: tuple[Callable[..., keras.Model], Callable[..., keras.Model]]
    sizes: list[dict[str, Any]]
    if network == "temporal":
        # Each step sees half a window, or more.
        dilations = [1]
        while 4 * sum(dilations) < num_steps:
            dilations.append(2 * dilations[-1])
        makers = networks.temporal_encoder, networks.temporal_decoder
        sizes = [{"filters": filters[0], "dilations": d} for d in (dilations, dilations[::-1])]
    elif network == "recurrent":
        makers, sizes = (networks.recurrent_encoder, networks.recurrent_decoder), [{"units": filters[:1]}] * 2
    else:
        makers, sizes = (networks.transformer_encoder, networks.transformer_decoder), [{"width": filters[0]}] * 2
    return (
        makers[0]((channels,), num_steps, **sizes[0], **of_step),
        makers[1](latent_dim, num_steps, output_shape[1:], **sizes[1], **{**of_step, "hidden": hidden[::-1]}),
    )


def calibrate(model: VAE, folder: Path, after: Timelines, **given: Any) -> None:
    """Calibrates the model of a run for windows and for steps, saves it, and prints both thresholds.

    The windows begin at each step, as those of a stream do, so the rates are shares of the time.

    Args:
        model: the model.
        folder: the folder of the run.
        after: the held-out series.
        given: see `run_folder.calibrate`; the rate is that of the steps too.
    """
    assert model.series is not None
    steps = sum(len(each.values) for each in after.series)
    cut = model.series.cut(after, max(1, -(-steps // _MOST_WINDOWS)))
    run_folder.calibrate(model, folder, cut.x, **given)
    # Only these steps have a score.
    rows = np.count_nonzero(model.series.by_step(np.isfinite(cut.x).any(axis=2), cut) > 0)
    rate = given.get("false_alarm_rate", given.get("contamination", run_folder.FALSE_ALARM_RATE))
    found = model.calibrate_steps(cut, false_alarm_rate=max(rate, least_rate(rows)))
    model.save(folder / "model.keras")
    print(
        f"Steps are anomalies with a score above {found.value:.4g} standard deviations: {found.method} of "
        f"{found.rate:.3g}, on {found.rows} held-out steps"
    )


def times_of(cut: Cut) -> np.ndarray:
    """The time at which each window begins [N], as a number: dates as years."""
    times = cut.steps.times[cut.first]
    if times.dtype.kind == "M":
        return 1970 + times.astype("datetime64[ns]").astype(np.int64) / (365.2425 * 86_400e9)
    return times.astype(np.float64)


def draw(model: VAE, held_out: Cut, folder: Path, seed: int) -> None:
    """Writes reconstructions.png, samples.png, latent.png and, if the model detects anomalies, anomalies.png.

    Args:
        model: the model.
        held_out: held-out windows.
        folder: the folder of the run.
        seed: the seed of draws.
    """
    pictures = {
        "reconstructions": series_sections.reconstructed(model, held_out.x[:_DRAWN], seed),
        "samples": series_sections.generated(model, seed),
        "latent": plots.latent(np.asarray(model.posterior.center(model.encode(held_out.x))), labels=times_of(held_out)),
    }
    if model.decision is not None:
        pictures["anomalies"] = series_sections.most_unusual(model, held_out.x, seed)
    for name, figure in pictures.items():
        run_folder.write_picture(figure, folder / f"{name}.png")
