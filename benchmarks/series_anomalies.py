"""Finds anomalies in series without labels, with tfvae, matrix profiles and PyOD in one run.

    python benchmarks/series_anomalies.py --made FOLDER
    python benchmarks/series_anomalies.py --aeon FOLDER
    python benchmarks/series_anomalies.py FOLDER --output results.jsonl

The first two write a folder of labelled series, the last measures all methods on one: benchmarks/series_sets.py says
what is in it, benchmarks/series_methods.py what the methods are. All methods get the same channels, standardised by the
training part, and the same length of windows, the default of PyOD; their other arguments are their defaults. What
windows are given as a score goes to steps by the mean over the windows that hold a step.

The measures are VUS-PR and VUS-ROC, the areas under the curves of precision and recall and of the true and the false
positive rate with labels that fade out around each anomaly, over all widths of this buffer up to the length of a
window; and AP, the average precision of single steps, without a buffer. No score is adjusted by points.

aeon, which computes the measures, and stumpy want an older NumPy than tfvae, with which tfvae runs as well:

    python -m venv VENV
    VENV/bin/pip install tfvae "pyod>=3.6" torch
    VENV/bin/pip install "aeon>=1.6" "stumpy>=1.14"

Reference: Paparrizos et al. 2022, Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly
Detection.
"""

import argparse
import functools
import importlib.util
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import series_sets
from records import resumed
from series_methods import METHODS, NEEDS
from sklearn.metrics import average_precision_score

MEASURES = {"vus_pr": "VUS-PR", "vus_roc": "VUS-ROC", "ap": "AP"}


def volumes(labels: np.ndarray, scores: np.ndarray, max_buffer: int) -> tuple[float, float]:
    """VUS-PR and VUS-ROC of the scores of steps [T], as aeon computes them."""
    from aeon.benchmarking.metrics.anomaly_detection import range_pr_roc_auc_support

    areas = [range_pr_roc_auc_support(labels, scores, buffer) for buffer in range(max_buffer + 1)]
    of_precision, of_rates = np.mean(areas, axis=0)
    return float(of_precision), float(of_rates)


def parts(path: Path, learns_from_all: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is learnt from [N, C] and what is scored [M, C], standardised by the former, and the labels [M]."""
    x, labels, is_training = series_sets.read(path)
    if is_training is None or learns_from_all:
        x = _standardised(x, x)
        return x, x, labels
    x = _standardised(x, x[is_training])
    return x[is_training], x[~is_training], labels[~is_training]


def measure(folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """One result: the measures and the seconds of a method on one series of a folder with one seed."""
    path, method, length = folder / f"{setting['set']}.csv", setting["method"], setting["length"]
    train, test, labels = parts(path, setting["learns_from_all"])
    start = time.perf_counter()
    scores = METHODS[method](train, test, length, setting["seed"])
    seconds = time.perf_counter() - start
    if scores.shape != labels.shape or not np.isfinite(scores).all():
        raise ValueError(f"{method} must give a finite score for each step of {path}.")
    precision, rates = volumes(labels, scores, length)
    ap = float(average_precision_score(labels, scores))
    return {**setting, "vus_pr": precision, "vus_roc": rates, "ap": ap, "seconds": round(seconds, 2)}


def kind_of(name: str) -> str:
    """The kind of fault in the series of a name."""
    return name.rpartition("-")[0] or name


def table(results: Iterable[dict]) -> str:
    """A Markdown table of the means of VUS-PR by kind, those of all measures, and the differences to the first method.

    Standard errors are over series; several seeds of a method on one series count as one result, their mean.
    """
    results = list(results)
    sets, methods = (list(dict.fromkeys(result[key] for result in results)) for key in ("set", "method"))
    kinds = list(dict.fromkeys(map(kind_of, sets)))

    def of_series(method: str, measure: str) -> np.ndarray:
        return np.array(
            [np.mean([r[measure] for r in results if (r["set"], r["method"]) == (name, method)]) for name in sets]
        )

    head = ["method", *kinds, *(f"all, {name}" for name in MEASURES.values()), f"{methods[0]} is better by", "seconds"]
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    first = of_series(methods[0], "vus_pr")
    for method in methods:
        values = of_series(method, "vus_pr")
        of_kinds = [values[[kind_of(name) == kind for name in sets]] for kind in kinds]
        of_all = [mean_and_error(of_series(method, measure)) for measure in MEASURES]
        better = "" if method == methods[0] else mean_and_error(first - values)
        seconds = f"{of_series(method, 'seconds').mean():.1f}"
        rows.append([method, *map(mean_and_error, of_kinds), *of_all, better, seconds])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def mean_and_error(values: np.ndarray) -> str:
    """The mean with its standard error, which one value does not have."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{error}"


def _standardised(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    scale = known.std(axis=0)
    return (x - known.mean(axis=0)) / np.where(scale > 0, scale, 1.0)


def _available(methods: list[str]) -> list[str]:
    missing = [method for method in methods if method in NEEDS and importlib.util.find_spec(NEEDS[method]) is None]
    if missing:
        print(f"Packages that these methods need are not installed, so they are left out: {', '.join(missing)}")
    return [method for method in methods if method not in missing]


def main() -> None:
    """Writes a folder, or measures what the output file does not hold yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the folder of the series")
    parser.add_argument("--made", type=Path, metavar="FOLDER", help="write made series to this folder, and end")
    parser.add_argument("--made-seeds", type=int, nargs="+", default=list(range(5)), help="the seeds of made series")
    parser.add_argument("--aeon", type=Path, metavar="FOLDER", help="write the series that aeon ships, and end")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of each method")
    parser.add_argument("--length", type=int, default=50, help="the number of steps of a window")
    parser.add_argument("--learn-from-all", action="store_true", help="learn from all steps, and score them all")
    parser.add_argument("--output", type=Path, help="a .jsonl file to which results are added; those in it are kept")
    options = parser.parse_args()
    if options.made:
        series_sets.write_made(options.made, options.made_seeds)
    if options.aeon:
        series_sets.write_aeon(options.aeon)
    if options.made or options.aeon:
        return
    if options.folder is None:
        parser.error("a folder of series is needed, or --made or --aeon")
    warnings.simplefilter("ignore")
    methods = _available(options.methods)
    settings = (
        {
            "set": path.stem,
            "method": method,
            "seed": seed,
            "length": options.length,
            "learns_from_all": options.learn_from_all,
        }
        for path in sorted(options.folder.glob("*.csv"))
        for method in methods
        for seed in range(options.seeds)
    )
    results = resumed(options.output, settings, functools.partial(measure, options.folder))
    print(table(results))


if __name__ == "__main__":
    main()
