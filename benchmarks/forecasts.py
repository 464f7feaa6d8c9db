"""Forecasts of single series: tfvae beside statsmodels and the seasonal naive, from rolling origins.

    python benchmarks/forecasts.py --output forecasts.jsonl

The series ship with statsmodels (`pip install statsmodels`): the monthly CO2 at Mauna Loa, the yearly sunspots, the
monthly temperature of El Nino, the yearly flow of the Nile, and of the quarterly data of the economy of the United
States the growth of the real product, the unemployment and the inflation. Each method learns from the steps before the
last quarter, once. From origins in that quarter it then forecasts the next steps, given all steps up to the origin.

The quantiles are those of 10%, 50% and 90%. The loss is the quantile (pinball) loss, the mean over the three, over
origins and over steps, divided by the mean absolute difference of steps a season apart in the training part. The
coverage is the share of values between the outer two, and should be 80%.

- seasonal naive: the value of a season before, with the quantiles of its errors in the training part;
- ETS: `ETSModel` with additive errors, a damped trend and, if there is a season, an additive one;
- SARIMAX: of the orders (1, 1, 1) and, if there is a season, (0, 1, 1);
- AutoReg: of the lags up to two seasons, or ten steps, that BIC chooses, with seasonal dummies;
- VAE: a `tfvae.VAE` of windows, the last steps of which are missing in half of the training data;
- SequentialVAE: a `tfvae.SequentialVAE` with a memory.

The VAE learns windows less the mean of their first steps, those that are known at an origin; the SequentialVAE learns
the differences of one step to the next, and its draws of whole futures are summed.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from records import resumed

LEVELS = (0.1, 0.5, 0.9)
HELD_OUT = 0.25
ORIGINS = 20


class Series(NamedTuple):
    """A series: its values [T], the steps of a season, 1 for none, and how many steps are forecast."""

    values: np.ndarray
    season: int
    steps: int


# Computes quantiles [O, steps, 3] of what follows each origin, from a series, the number of steps to learn from, the
# origins, each of which is the number of known steps, and a seed.
Method = Callable[[Series, int, np.ndarray, int], np.ndarray]


def series() -> dict[str, Series]:
    """The series of statsmodels by name."""
    from statsmodels import datasets

    frames = {
        name: getattr(datasets, name).load_pandas().data for name in ("co2", "sunspots", "elnino", "nile", "macrodata")
    }
    economy = frames["macrodata"]
    found = {
        "CO2": Series(frames["co2"]["co2"].resample("MS").mean().interpolate().to_numpy(), 12, 12),
        "sunspots": Series(frames["sunspots"]["SUNACTIVITY"].to_numpy(), 11, 11),
        "El Nino": Series(frames["elnino"].drop(columns="YEAR").to_numpy().ravel(), 12, 12),
        "Nile": Series(frames["nile"]["volume"].to_numpy(), 1, 5),
        "growth": Series(100 * np.diff(np.log(economy["realgdp"])), 1, 4),
        "unemployment": Series(economy["unemp"].to_numpy(), 1, 4),
        "inflation": Series(economy["infl"].to_numpy(), 1, 4),
    }
    return {name: each._replace(values=each.values.astype(np.float64)) for name, each in found.items()}


def split(one: Series) -> tuple[int, np.ndarray]:
    """The number of steps to learn from, and the origins."""
    known = int((1 - HELD_OUT) * len(one.values))
    return known, np.unique(np.linspace(known, len(one.values) - one.steps, ORIGINS).astype(int))


def pinball(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The quantile loss [...] of quantiles [..., 3] at the levels, the mean over these."""
    error = values[..., np.newaxis] - quantiles
    return np.maximum(np.array(LEVELS) * error, (np.array(LEVELS) - 1) * error).mean(axis=-1)


def seasonal_naive(one: Series, known: int, origins: np.ndarray, seed: int) -> np.ndarray:
    """The value of a season before, with the quantiles of its errors in the training part."""
    del seed
    x, season = one.values, one.season
    found = np.empty([len(origins), one.steps, len(LEVELS)])
    for step in range(one.steps):
        back = season * (step // season + 1)
        errors = np.quantile(x[back:known] - x[: known - back], LEVELS)
        found[:, step] = x[origins + step - back][:, np.newaxis] + errors
    return found


def exponential_smoothing(one: Series, known: int, origins: np.ndarray, seed: int) -> np.ndarray:
    """The ETSModel of statsmodels."""
    del seed
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    seasonal = {"seasonal": "add", "seasonal_periods": one.season} if one.season > 1 else {}

    def model(steps: int) -> "ETSModel":
        return ETSModel(pd.Series(one.values[:steps]), error="add", trend="add", damped_trend=True, **seasonal)

    parameters = model(known).fit(disp=False).params
    found = []
    for origin in origins:
        fitted = model(origin).smooth(parameters)
        prediction = fitted.get_prediction(start=origin, end=origin + one.steps - 1)
        low, high = np.asarray(prediction.pred_int(alpha=0.2)).T
        found.append(np.stack([low, np.asarray(prediction.predicted_mean), high], axis=-1))
    return np.array(found)


def sarimax(one: Series, known: int, origins: np.ndarray, seed: int) -> np.ndarray:
    """The SARIMAX of statsmodels."""
    del seed
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    seasonal = (0, 1, 1, one.season) if one.season > 1 else (0, 0, 0, 0)
    fitted = SARIMAX(one.values[:known], order=(1, 1, 1), seasonal_order=seasonal).fit(disp=False)
    found = []
    for origin in origins:
        forecast = fitted.apply(one.values[:origin]).get_forecast(one.steps)
        low, high = forecast.conf_int(alpha=0.2).T
        found.append(np.stack([low, forecast.predicted_mean, high], axis=-1))
    return np.array(found)


def autoregression(one: Series, known: int, origins: np.ndarray, seed: int) -> np.ndarray:
    """The AutoReg of statsmodels."""
    del seed
    from statsmodels.tsa.ar_model import AutoReg, AutoRegResults, ar_select_order

    has_season = one.season > 1
    form = {"trend": "c", "seasonal": has_season, "period": one.season if has_season else None}
    lags = ar_select_order(one.values[:known], 2 * one.season if has_season else 10, ic="bic", **form).ar_lags
    learnt = AutoReg(one.values[:known], lags, **form).fit()
    found = []
    for origin in origins:
        model = AutoReg(one.values[:origin], lags, **form)
        fitted = AutoRegResults(model, learnt.params, learnt.cov_params())
        prediction = fitted.get_prediction(origin, origin + one.steps - 1)
        # The noise is that of the training part.
        low, high = prediction.conf_int(alpha=0.2).T
        found.append(np.stack([low, prediction.predicted_mean, high], axis=-1))
    return np.array(found)


def windows(one: Series, known: int, origins: np.ndarray, seed: int) -> np.ndarray:
    """A `tfvae.VAE` of windows."""
    import keras

    import tfvae
    from tfvae import likelihoods, networks

    keras.utils.set_random_seed(seed)
    given, x = _context(one), one.values
    windows = np.lib.stride_tricks.sliding_window_view(x[:known], given + one.steps)
    windows = windows - windows[:, :given].mean(axis=1, keepdims=True)
    scale = windows.std()
    train = (windows / scale).astype(np.float32)[..., np.newaxis]
    unfinished = train.copy()
    unfinished[:, given:] = np.nan
    likelihood = likelihoods.Missing(likelihoods.Normal(scale="learned"), fill=False)
    shape = train.shape[1:]
    vae = tfvae.VAE(
        networks.dense_encoder(shape, (64, 64), missing_mask=True),
        networks.dense_decoder(8, likelihood.parameter_shape(shape), (64, 64)),
        8,
        likelihood=likelihood,
    )
    # Each window beside itself without its end, in the order of time.
    _fit(vae, np.stack([train, unfinished], axis=1).reshape([-1, *shape]))
    contexts = np.stack([x[origin - given : origin] for origin in origins])
    level = contexts.mean(axis=1, keepdims=True)
    given_x = ((contexts - level) / scale).astype(np.float32)[..., np.newaxis]
    found = tfvae.forecast(vae, given_x, one.steps, quantiles=LEVELS, seed=seed).quantiles
    return level[..., np.newaxis] + scale * np.concatenate([found[quantile] for quantile in LEVELS], axis=-1)


def sequential(one: Series, known: int, origins: np.ndarray, seed: int) -> np.ndarray:
    """A `tfvae.SequentialVAE`."""
    import keras

    import tfvae
    from tfvae import likelihoods, networks

    keras.utils.set_random_seed(seed)
    x, scale = _differences(one, known)
    length = min(4 * _context(one), known - 1)
    train = np.lib.stride_tricks.sliding_window_view(x[: known - 1], length)[..., np.newaxis]
    latent_dim, units = 4, 32
    model = tfvae.SequentialVAE(
        networks.recurrent_encoder((1,), units=(32,), hidden=(32,), per_step=True),
        networks.dense_decoder(latent_dim, (1,), (32,), condition_dim=units),
        latent_dim,
        transition=networks.dense_encoder((latent_dim,), (32,), condition_dim=units),
        memory=keras.layers.GRUCell(units),
        likelihood=likelihoods.Normal(scale="learned"),
    )
    _fit(model, train)
    contexts = np.stack([x[max(0, origin - 1 - length) : origin - 1] for origin in origins])[..., np.newaxis]
    found = tfvae.forecast(model, contexts, one.steps, seed=seed, return_samples=True)
    return _quantiles(found.samples, one, origins, scale)


def _context(one: Series) -> int:
    """How many steps before an origin a window holds."""
    return 2 * one.season if one.season > 1 else 12


def _differences(one: Series, known: int) -> tuple[np.ndarray, float]:
    """The differences from step to step [T - 1], divided by their standard deviation in the training part."""
    x = np.diff(one.values)
    scale = x[: known - 1].std()
    return (x / scale).astype(np.float32), float(scale)


def _fit(model: Any, x: np.ndarray) -> None:
    """Trains a model on the first four fifths of x, until the bound of the others no longer rises."""
    import keras

    cut = len(x) * 4 // 5
    model.compile(keras.optimizers.Adam(1e-3), steps_per_execution=8)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)
    fits = {"epochs": 200, "batch_size": 32, "verbose": 0, "callbacks": [stop]}
    model.fit(x[:cut], validation_data=x[cut:], **fits)


def _quantiles(futures: np.ndarray, one: Series, origins: np.ndarray, scale: float) -> np.ndarray:
    """The quantiles [O, steps, 3] of what follows the origins, from draws [S, O, steps, 1] of its differences."""
    values = one.values[origins - 1][:, np.newaxis] + scale * np.cumsum(futures[..., 0], axis=2)
    return np.moveaxis(np.quantile(values, LEVELS, axis=0), 0, -1)


METHODS: dict[str, Method] = {
    "VAE": windows,
    "SequentialVAE": sequential,
    "seasonal naive": seasonal_naive,
    "ETS": exponential_smoothing,
    "SARIMAX": sarimax,
    "AutoReg": autoregression,
}


def measure(name: str, one: Series, method: str, seed: int) -> dict[str, object]:
    """One result: the loss, the coverage and the seconds of a method on one series with one seed."""
    known, origins = split(one)
    start = time.perf_counter()
    quantiles = METHODS[method](one, known, origins, seed)
    seconds = time.perf_counter() - start
    values = np.stack([one.values[origin : origin + one.steps] for origin in origins])
    back = one.values[one.season : known] - one.values[: known - one.season]
    is_between = (values >= quantiles[..., 0]) & (values <= quantiles[..., 2])
    return {
        "set": name,
        "method": method,
        "seed": seed,
        "loss": float(pinball(values, quantiles).mean() / np.abs(back).mean()),
        "coverage": float(is_between.mean()),
        "seconds": round(seconds, 2),
    }


def table(results: Iterable[dict]) -> str:
    """A Markdown table of the loss and the coverage of each series and method, and the means over series."""
    results = list(results)
    sets, methods = (list(dict.fromkeys(result[key] for result in results)) for key in ("set", "method"))

    def means(key: str) -> np.ndarray:
        return np.array(
            [
                [np.mean([r[key] for r in results if (r["set"], r["method"]) == (name, method)]) for method in methods]
                for name in sets
            ]
        )

    loss, coverage = means("loss"), means("coverage")
    rows = [["series", *methods], ["---", *["--:"] * len(methods)]]
    for name, *of_name in zip([*sets, "mean"], [*loss, loss.mean(0)], [*coverage, coverage.mean(0)], strict=True):
        rows.append([name, *(f"{value:.3f} ({share:.0%})" for value, share in zip(*of_name, strict=True))])
    rows.append(["mean seconds", *(f"{value:.1f}" for value in means("seconds").mean(0))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measures what the output file does not hold yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--output", type=Path, help="a .jsonl file to which results are added; those in it are kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = series()
    settings = (
        {"set": name, "method": method, "seed": seed}
        for name in found
        for method in options.methods
        for seed in range(options.seeds)
    )
    results = resumed(
        options.output, settings, lambda each: measure(each["set"], found[each["set"]], each["method"], each["seed"])
    )
    print(table(results))


if __name__ == "__main__":
    main()
