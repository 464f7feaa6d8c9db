"""What is different in the run of a table: its model, its evaluation, its unusual rows and its pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from tfvae import plots
from tfvae.cli import run_folder, run_training
from tfvae.cli.train_checks import check_likelihood_of_table
from tfvae.data import Table
from tfvae.likelihoods import Likelihood
from tfvae.likelihoods.location_scale import LocationScale
from tfvae.models.vae import VAE
from tfvae.reporting.rows_of_table import UnusualRows, with_dates


def make_model(
    table: Table, likelihood: Likelihood, latent_dim: int, hidden: tuple[int, ...], activation: str, **others: Any
) -> VAE:
    """Makes the model of a table.

    Args:
        table: what its columns are.
        likelihood: p(x|z) of the numbers.
        latent_dim: the dimension of z.
        hidden: the widths of the dense layers of the encoder.
        activation: the name of the activation.
        others: the other arguments of `VAE`.

    Raises:
        ValueError: the likelihood is not one of numbers, or the networks do not fit in memory.
    """
    check_likelihood_of_table(type(likelihood).__name__)
    if isinstance(likelihood, LocationScale) and (config := likelihood.get_config())["scale"] == "learned":
        # The columns have nothing in common that would make their scales alike.
        likelihood = type(likelihood).from_config({**config, "scale": "per_dimension"})
    of_rows = table.likelihood(number=lambda: likelihood)
    run_training.check_memory(of_rows.parameter_shape((len(table.parts),)), latent_dim, hidden)
    return VAE.of_table(table, latent_dim, hidden, activation, of_rows, **others)


def draw(
    model: VAE, table: Table, x: np.ndarray, rows: Any, unusual: UnusualRows | None, folder: Path, seed: int
) -> None:
    """Writes marginals.png, anomalies.png and latent.png.

    Args:
        model: the model.
        table: its table.
        x: held-out data [N, D].
        rows: the same as rows, a `pandas.DataFrame`.
        unusual: those of them that are unusual; None for a model that does not detect any, without anomalies.png.
        folder: the folder of the run.
        seed: the seed of the generated rows.
    """
    generated = model.generate(len(rows), seed=seed, sample=True)
    figure = plots.marginals(with_dates(table, rows), with_dates(table, generated), table.kinds)
    run_folder.write_picture(figure, folder / "marginals.png")
    if unusual is not None:
        picture = plots.contributions(unusual.nats, unusual.labels, unusual.titles)
        run_folder.write_picture(picture, folder / "anomalies.png")
    z = np.asarray(model.posterior.center(model.encode(x)))
    run_folder.write_picture(plots.latent(z), folder / "latent.png")
