"""Finds anomalies in tables without labels, with the estimators of tfvae, scikit-learn and PyOD in one run.

FOLDER holds .npz files, each a table X [N, D] and labels y [N], 1 for an anomaly, such as the data sets of ADBench
(https://github.com/Minqi824/ADBench). For each file and seed, 70% of the rows, with the anomalies among them, are
fitted without labels, and the other rows are scored. All methods have their defaults and get the same standardised
columns. The methods of PyOD need the extra `benchmarks`, and are left out without it.

Reference: Han et al. 2022, ADBench: Anomaly Detection Benchmark.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from records import resumed
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

# Computes a score of each row of the test data, higher for anomalies, from the training data, the test data and a seed.
Method = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def isolation_forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """scikit-learn's IsolationForest."""
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def local_outlier_factor(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """scikit-learn's LocalOutlierFactor."""
    return -LocalOutlierFactor(novelty=True).fit(train).score_samples(test)


def ecod(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """PyOD's ECOD."""
    from pyod.models.ecod import ECOD

    return ECOD().fit(train).decision_function(test)


def nearest_neighbours(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """PyOD's KNN: the distance to the fifth neighbour."""
    from pyod.models.knn import KNN

    return KNN().fit(train).decision_function(test)


def pyod_vae(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """PyOD's VAE."""
    from pyod.models.vae import VAE

    return VAE(random_state=seed, verbose=0).fit(train).decision_function(test)


def pyod_autoencoder(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """PyOD's AutoEncoder."""
    from pyod.models.auto_encoder import AutoEncoder

    return AutoEncoder(random_state=seed, verbose=0).fit(train).decision_function(test)


def tfvae_detector(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """`tfvae.sklearn.VAEOutlierDetector`."""
    from tfvae.sklearn import VAEOutlierDetector

    return -VAEOutlierDetector(random_state=seed).fit(train).score_samples(test)


METHODS: dict[str, Method] = {
    "tfvae": tfvae_detector,
    "IsolationForest": isolation_forest,
    "LOF": local_outlier_factor,
    "kNN": nearest_neighbours,
    "ECOD": ecod,
    "PyOD VAE": pyod_vae,
    "PyOD AutoEncoder": pyod_autoencoder,
}
OF_PYOD = ("kNN", "ECOD", "PyOD VAE", "PyOD AutoEncoder")


def split(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The standardised training data and test data of one file, and the labels of the test data."""
    with np.load(path) as file:
        x, y = file["X"].astype(np.float64), file["y"].astype(int)
    train, test, _, labels = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test), labels


def measure(path: Path, method: str, seed: int) -> dict[str, object]:
    """One result: the AUROC, the average precision and the seconds of a method on one file with one seed."""
    train, test, labels = split(path, seed)
    start = time.perf_counter()
    scores = METHODS[method](train, test, seed)
    seconds = time.perf_counter() - start
    return {
        "set": path.stem,
        "method": method,
        "seed": seed,
        "auroc": float(roc_auc_score(labels, scores)),
        "ap": float(average_precision_score(labels, scores)),
        "seconds": round(seconds, 2),
    }


def table(results: Iterable[dict]) -> str:
    """A Markdown table of the AUROC of each set and method, and the means over sets of AUROC, AP, rank and seconds."""
    results = list(results)
    sets, methods = (list(dict.fromkeys(result[key] for result in results)) for key in ("set", "method"))

    def means(key: str) -> np.ndarray:
        return np.array(
            [
                [np.mean([r[key] for r in results if (r["set"], r["method"]) == (name, method)]) for method in methods]
                for name in sets
            ]
        )

    auroc = means("auroc")
    ranks = rankdata(-auroc, axis=1)
    rows = [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(sets, auroc, strict=True)]
    for label, values in (("mean AUROC", auroc), ("mean AP", means("ap"))):
        rows.append([label, *(f"{value:.3f}" for value in values.mean(0))])
    for label, values in (("mean rank by AUROC", ranks), ("mean seconds", means("seconds"))):
        rows.append([label, *(f"{value:.1f}" for value in values.mean(0))])
    head = [["set", *methods], ["---", *["--:"] * len(methods)]]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def main() -> None:
    """Measures what the output file does not hold yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the .npz files")
    parser.add_argument("--sets", nargs="+", help="names of files, without .npz; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", type=Path, help="a .jsonl file to which results are added; those in it are kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    paths = [options.folder / f"{name}.npz" for name in options.sets] if options.sets else options.folder.glob("*.npz")
    left_out = set(OF_PYOD) & set(options.methods) if importlib.util.find_spec("pyod") is None else set()
    if left_out:
        print(f"pyod is not installed, so these are left out: {', '.join(sorted(left_out))}")
        options.methods = [method for method in options.methods if method not in left_out]
    files = {path.stem: path for path in sorted(paths)}
    settings = (
        {"set": name, "method": method, "seed": seed}
        for name in files
        for method in options.methods
        for seed in range(options.seeds)
    )
    results = resumed(options.output, settings, lambda each: measure(files[each["set"]], each["method"], each["seed"]))
    print(table(results))


if __name__ == "__main__":
    main()
