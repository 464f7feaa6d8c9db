"""How well generated rows stand for a table: a VAE of it, SDV's GaussianCopula, CTGAN and TVAE.

    python benchmarks/synthetic.py [TABLE ...] [--json PATH]

A TABLE is the path of a .csv or .parquet file, or the name of a built-in one; all built-in ones are the default:

- orders: 4000 rows that `orders` below draws, with text, categories, dates, gaps, counts, amounts with many zeros, and
  dependence between all of them;
- breast_cancer: scikit-learn's, 569 rows of 30 numbers, and the diagnosis;
- diabetes: scikit-learn's, 442 rows of 10 numbers, one of them a code, and the target.

Half of the rows, drawn at random, are fitted; as many are generated as there are in the other half, with which they
are compared. All methods have the same settings for each table. The figures, each better when lower, except the last,
which is best at 0.5:

- marginals: the mean over columns of the Kolmogorov-Smirnov distance, of total variation for categories;
- pairs: the mean over pairs of columns of the difference of Spearman's correlation, halved, if both are ordered, and
  otherwise of the total variation of their contingency table, for which numbers are cut at the deciles of the data;
- detector: the area under the ROC curve of scikit-learn's gradient boosting, which tells generated rows from those of
  the other half, in five-fold cross-validation.

Both rows of tfvae have its defaults, the second but for the prior. The row `data` compares the fitted half itself with
the other: no method can be expected to do better.
"""

import argparse
import importlib.metadata
import itertools
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import stats
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from threadpoolctl import threadpool_limits

import tfvae
from tfvae import priors
from tfvae.data import Table, tables

PACKAGES = ("tfvae", "tensorflow", "keras", "scikit-learn", "pandas", "sdv", "ctgan", "torch")
FEW = 10
FIGURES = ("marginals", "pairs", "detector")


def orders(n: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Orders of a shop, in which every column depends on another."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(["web", "shop", "phone"], n, p=[0.6, 0.3, 0.1])
    age = np.clip(np.where(channel == "web", rng.normal(35, 10, n), rng.normal(55, 14, n)), 18, 95).round()
    amount = np.exp(3 + 0.02 * age + 0.5 * (channel == "shop") + rng.normal(0, 0.6, n))
    items = rng.poisson(amount / 40) + 1
    is_member = rng.random(n) < 1 / (1 + np.exp(-(age - 45) / 8))
    discount = np.where(is_member & (rng.random(n) < 0.7), amount * rng.beta(2, 8, n), 0)
    day = rng.integers(0, 3 * 365, n)
    # More orders in December, and those of the web in the evening.
    day = np.where(rng.random(n) < 0.3, day // 365 * 365 + 335 + rng.integers(0, 30, n), day)
    hour = np.where(channel == "web", rng.normal(20, 2, n), rng.normal(13, 3, n)) % 24
    rating = np.clip(np.round(4.2 - 0.004 * amount + rng.normal(0, 0.8, n)), 1, 5)
    country = np.where(rng.random(n) < 0.7, "DE", rng.choice(["AT", "CH", "FR", "NL", "PL"], n))
    frame = pd.DataFrame(
        {
            "order_id": np.arange(10_000, 10_000 + n),
            "channel": channel,
            "age": np.where(rng.random(n) < 0.1, np.nan, age),
            "amount": np.round(amount, 2),
            "items": items,
            "member": is_member,
            "discount": np.round(discount, 2),
            "when": pd.Timestamp("2022-01-01") + pd.to_timedelta((day * 24 + hour) * 3600 // 1, unit="s"),
            "rating": rating.astype(int),
            "country": country,
            "shipping": np.where(country == "DE", rng.choice(["post", "express"], n, p=[0.8, 0.2]), "post abroad"),
        }
    )
    return frame.astype({"when": "datetime64[ns]"})


def of_scikit_learn(load: Callable[..., Any]) -> pd.DataFrame:
    """A table of scikit-learn with its target, in the units of the original."""
    scaled = {} if load is datasets.load_breast_cancer else {"scaled": False}
    frame: pd.DataFrame = load(as_frame=True, **scaled).frame
    return frame


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "orders": orders,
    "breast_cancer": lambda: of_scikit_learn(datasets.load_breast_cancer),
    "diabetes": lambda: of_scikit_learn(datasets.load_diabetes),
}


def of_tfvae(**arguments: Any) -> Callable[..., pd.DataFrame]:
    """A VAE of the table, with some arguments of `of_table`."""

    def method(train: pd.DataFrame, n: int, seed: int, options: argparse.Namespace) -> pd.DataFrame:
        keras.utils.set_random_seed(seed)
        vae = tfvae.VAE.of_table(Table.learn(train), **{name: make() for name, make in arguments.items()})
        batch_size = min(options.batch_size, len(train))
        rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
        vae.compile(keras.optimizers.Adam(rate))
        vae.fit(train, batch_size=batch_size, epochs=-(-options.steps * batch_size // len(train)), verbose=0)
        made: pd.DataFrame = vae.generate(n, seed=seed, sample=True)
        return made

    return method


def of_sdv(name: str) -> Callable[..., pd.DataFrame]:
    """A synthesizer of SDV with its defaults."""

    def method(train: pd.DataFrame, n: int, seed: int, options: argparse.Namespace) -> pd.DataFrame:
        import torch
        from sdv import single_table
        from sdv.metadata import Metadata

        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002, because SDV draws from it.
        frame = train.astype({c: object for c in train if isinstance(train[c].dtype, pd.CategoricalDtype)})
        metadata = Metadata.detect_from_dataframes({"table": frame})
        synthesizer = getattr(single_table, name)(metadata)
        synthesizer.fit({"table": frame})
        made: dict[str, pd.DataFrame] = synthesizer.sample(n)
        return made["table"][list(train)]

    return method


METHODS = {
    "data": lambda train, n, seed, options: train[:n],
    "tfvae": of_tfvae(),
    "tfvae, NormalMixture": of_tfvae(prior=lambda: priors.NormalMixture(num_components=32)),
    "GaussianCopula": of_sdv("GaussianCopulaSynthesizer"),
    "CTGAN": of_sdv("CTGANSynthesizer"),
    "TVAE": of_sdv("TVAESynthesizer"),
}


def encoded(frames: list[pd.DataFrame], names: list[str]) -> tuple[list[pd.DataFrame], list[str]]:
    """The frames with numbers for dates and codes for categories, and the names of the categories."""
    joined = pd.concat([frame[names].astype(object) for frame in frames], ignore_index=True)
    first, categories, columns = frames[0], [], {}
    for name in names:
        values = joined[name]
        if first[name].dtype.kind == "M":
            dates = pd.to_datetime(values)
            columns[name] = dates.astype("datetime64[s]").astype("int64").where(dates.notna(), np.nan)
        elif first[name].dtype.kind in "iuf" and first[name].nunique() > FEW:
            columns[name] = values.astype(float)
        else:
            categories.append(name)
            columns[name] = pd.Series(pd.factorize(values)[0]).where(values.notna(), np.nan)
    codes = pd.DataFrame(columns)
    starts = np.cumsum([0, *map(len, frames)])
    return [codes[a:b].reset_index(drop=True) for a, b in itertools.pairwise(starts)], categories


def total_variation(a: pd.Series, b: pd.Series) -> float:
    """The total variation between the distributions of two columns of codes or texts."""
    shares = pd.concat([a.value_counts(normalize=True), b.value_counts(normalize=True)], axis=1).fillna(0)
    return float(np.abs(shares.iloc[:, 0] - shares.iloc[:, 1]).sum() / 2)


def compared(real: pd.DataFrame, made: pd.DataFrame, categories: list[str], seed: int) -> dict[str, float]:
    """The figures of generated rows."""
    numbers = [name for name in real if name not in categories]
    marginals = [total_variation(real[name].dropna(), made[name].dropna()) for name in categories]
    marginals += [stats.ks_2samp(real[name].dropna(), made[name].dropna()).statistic for name in numbers]
    deciles = {name: np.unique(np.nanquantile(real[name], np.linspace(0.1, 0.9, 9))) for name in numbers}
    cut = [frame.assign(**{n: np.digitize(frame[n], deciles[n]) for n in numbers}) for frame in (real, made)]
    correlations = [frame[numbers].corr("spearman") for frame in (real, made)]
    pairs = []
    for a, b in itertools.combinations(real, 2):
        if a in numbers and b in numbers:
            pairs.append(abs(correlations[0].loc[a, b] - np.nan_to_num(correlations[1].loc[a, b])) / 2)
        else:
            of_pair = (frame[a].astype(str) + "|" + frame[b].astype(str) for frame in cut)
            pairs.append(total_variation(*of_pair))
    x = pd.concat([real, made], ignore_index=True)
    y = np.repeat([0, 1], [len(real), len(made)])
    # Values that only one side misses would give it away, though a model fills what it was not given.
    x = x.where(x.notna(), x.median(), axis=1)
    detector = HistGradientBoostingClassifier(random_state=seed)
    order = np.random.default_rng(seed).permutation(len(y))
    # Its threads would wait for one another where other processes have the cores.
    with threadpool_limits(1):
        auc = cross_val_score(detector, x.iloc[order], y[order], cv=5, scoring="roc_auc").mean()
    return {"marginals": float(np.mean(marginals)), "pairs": float(np.mean(pairs)), "detector": float(auc)}


def main() -> None:
    """Runs the methods on the tables, and prints the figures of each and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=list(TABLES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000, help="the most rows of a table, drawn at random")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for name in options.tables:
        frame = TABLES[name]() if name in TABLES else tables.frame(Path(name))
        kinds = {column.name: column.kind for column in Table.learn(frame).columns}
        names = [column for column, kind in kinds.items() if kind not in ("constant", "identifier")]
        for method, seed in itertools.product(options.methods, range(options.seeds)):
            rows = frame.sample(min(len(frame), options.rows), random_state=seed)
            train, test = rows[: len(rows) // 2].reset_index(drop=True), rows[len(rows) // 2 :].reset_index(drop=True)
            start = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = METHODS[method](train, len(test), seed, options)
            except ImportError as error:
                print(f"{method} is left out: {error}")
                break
            seconds = time.perf_counter() - start
            (real, drawn), categories = encoded([test, made], names)
            figures = compared(real, drawn, categories, seed)
            results.append({"table": name, "method": method, "seed": seed, **figures, "seconds": seconds})
            print(json.dumps(results[-1]), flush=True)
    shown = pd.DataFrame(results).groupby(["table", "method"], sort=False)[[*FIGURES, "seconds"]].mean().round(3)
    print(shown.to_string())
    print(shown.groupby("method", sort=False)[list(FIGURES)].mean().round(3).to_string())
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    print(versions)
    if options.json:
        options.json.write_text(json.dumps({"results": results, "versions": versions}, indent=1))


if __name__ == "__main__":
    main()
