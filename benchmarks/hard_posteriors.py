"""Variational inference on hard posteriors: right, or flagged? Nothing is tuned to a model.

    python benchmarks/hard_references.py FOLDER                  # NumPyro's NUTS, which gives the references
    python benchmarks/hard_posteriors.py --references FOLDER --json-lines PATH [--only NAME ...]

Every model of hard_models.py is fitted by `tfvae.VariationalInference` in a process of its own, with a time limit. Its
draws are compared with exact moments or, where there are none, with those of NUTS. The columns:

- verdict: `right`; `flagged`, by a warning; `refused`, by an error; `time limit`; or `SILENT`, which is an error of a
  mean above 0.3 standard deviations, or a ratio of standard deviations outside of 0.7 to 1.4, without a warning, after
  correction by the importance weights. `right, warned` is a false alarm;
- error: the largest |error of a mean|, in standard deviations of the posterior, for the draws of q, then, in the column
  PSIS, after correction by the importance weights;
- sd ratio: the smallest and the largest ratio of a standard deviation to the true one, again for both;
- k-hat: the estimated tail shape of the importance weights;
- CPU s: the CPU seconds of `fit`, including tracing, but not the imports, beside those of NUTS, whose error, and ratio
  of standard deviations, follow where the moments are exact.

With `--refine` a fit that is flagged is followed by `inference.refine()`. Its row shows the error of its chains, R-hat
in place of k-hat, and its own CPU seconds.

A row whose model, family and seed are in the JSON lines is not run again: delete it there to repeat it. A draw of 4,000
has a Monte Carlo error of 0.05 in the worst of a few hundred means.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

DRAWS = 4000
MAX_ERROR, RATIOS = 0.3, (0.7, 1.4)
# Where NUTS itself has not converged, it is no reference.
MAX_R_HAT, FEWEST_EFFECTIVE = 1.02, 400.0
FAMILIES = ("default", "coupling", "spline")
# What TensorFlow and Keras warn of says nothing of q.
UNRELATED = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def fit(name: str, family: str, seed: int, references: Path | None, *, refine: bool) -> dict[str, Any]:
    """Fits one model, refines it if it is flagged and that is asked for, and compares it with its reference."""
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
    from hard_models import MODELS

    import tfvae

    tf.get_logger().setLevel("ERROR")
    keras.utils.set_random_seed(seed)
    tfb = tfp.bijectors
    bijectors = {
        None: None,
        "positive": tfb.Exp(),
        "unit": tfb.Sigmoid(),
        "simplex": tfb.IteratedSigmoidCentered(),
        "ordered": tfb.Ascending(),
    }
    posteriors = {"coupling": tfvae.posteriors.CouplingFlow, "spline": tfvae.posteriors.SplineFlow}
    model = MODELS[name](seed)
    latents = {key: tfvae.Latent(shape, bijectors[support]) for key, (shape, support) in model.latents.items()}
    log_joint = model.rows[1] if model.rows else lambda latents, _: model.log_joint(latents)
    row: dict[str, Any] = {}
    start, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            posterior = posteriors[family]() if family in posteriors else None
            inference = tfvae.VariationalInference(log_joint, latents, posterior=posterior)
            inference.fit(*([model.rows[0]] if model.rows else []), verbose=0)
        except (ValueError, tf.errors.OpError):
            row["error"] = traceback.format_exc(limit=-1).strip().splitlines()[-1][:400]
        row |= {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - start}
        if "error" not in row:
            draws = inference.draw(DRAWS, seed=seed)
            row["draw_cpu_seconds"] = time.process_time() - cpu - row["cpu_seconds"]
            row |= {"pareto_k": draws.pareto_k, "elbo": draws.elbo}
    texts = [str(each.message)[:300] for each in caught if not issubclass(each.category, UNRELATED)]
    row["warnings"] = list(dict.fromkeys(texts))
    nuts = read_reference(name, seed, references)
    truth = model.exact or (nuts.get("moments") if is_reliable(nuts) else None)
    if truth and "error" not in row:
        row["q"] = compare(moments(model.compared(draws.latents)), truth)
        row["psis"] = compare(moments(model.compared(draws.resample(seed=seed))), truth)
    if refine and "error" not in row and row["warnings"]:
        row["refined"] = refined(inference, model, truth, seed)
    row["nuts"] = {key: value for key, value in nuts.items() if key not in ("moments", "model", "seed")}
    if model.exact and "moments" in nuts:
        row["nuts"] |= compare(nuts["moments"], model.exact)
    return {**row, "reference": "exact" if model.exact else "NUTS" if truth else None}


def refined(inference: Any, model: Any, truth: dict[str, Any] | None, seed: int) -> dict[str, Any]:
    """Runs the chains that follow a fit, and compares them with the reference."""
    cpu = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        chains = inference.refine(seed=seed)
    texts = [str(each.message)[:300] for each in caught if issubclass(each.category, UserWarning)]
    row = {"warnings": texts, "cpu_seconds": time.process_time() - cpu}
    row["r_hat"] = max(float(np.max(each)) for each in chains.r_hat.values())
    row["ess"] = min(float(np.min(each)) for each in chains.ess.values())
    return {**row, "psis": compare(moments(model.compared(dict(chains))), truth)} if truth else row


def read_reference(name: str, seed: int, folder: Path | None) -> dict[str, Any]:
    """What hard_references.py wrote for a model; empty if it did not run."""
    path = None if folder is None else folder / f"{name}.json"
    if path is None or not path.exists():
        return {}
    result = json.loads(path.read_text())
    if result["seed"] != seed:
        raise ValueError(f"`--references` must be of the seed {seed}, which makes the data. Received: {path}")
    return result


def is_reliable(nuts: dict[str, Any]) -> bool:
    """Whether NUTS converged, so that its moments may be a reference."""
    return "moments" in nuts and nuts["r_hat"] < MAX_R_HAT and nuts["ess"] > FEWEST_EFFECTIVE


def moments(draws: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The means and standard deviations of draws [S, ...], in double precision."""
    return {name: (each.mean(axis=0, dtype=float), each.std(axis=0, dtype=float)) for name, each in draws.items()}


def compare(found: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """The largest error of a mean in true standard deviations, and the extreme ratios of standard deviations."""
    if set(found) != set(truth):
        raise ValueError(f"`found` must hold the quantities {sorted(truth)}. Received: {sorted(found)}")
    errors, ratios = {}, []
    for name, (mean, sd) in truth.items():
        errors[name] = float(np.max(np.abs(np.asarray(found[name][0]) - mean) / sd))
        ratios.append(np.ravel(np.asarray(found[name][1]) / sd))
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    joined = np.concatenate(ratios)
    return {"mean_error": errors[worst], "worst": worst, "sd_ratio": [float(joined.min()), float(joined.max())]}


def is_right(compared: dict[str, Any]) -> bool:
    """Whether all means and standard deviations are near the true ones."""
    low, high = compared["sd_ratio"]
    return compared["mean_error"] <= MAX_ERROR and low >= RATIOS[0] and high <= RATIOS[1]


def verdict(row: dict[str, Any]) -> str:
    """What a user would conclude from a row, and whether that is true: see the text at the top."""
    if "time_limit" in row:
        return "time limit"
    if "error" in row:
        return "refused" if row["error"].startswith("ValueError") else "FAILED"
    if "psis" not in row:
        return "flagged" if row["warnings"] else "no reference"
    if is_right(row["psis"]):
        return "right, warned" if row["warnings"] else "right"
    return "flagged" if row["warnings"] else "SILENT"


def line(row: dict[str, Any]) -> str:
    """Formats a row of the table."""

    def compared(part: dict[str, Any] | None) -> str:
        if not part or "mean_error" not in part:
            return f"{'':>9}{'':>20}"
        return f"{part['mean_error']:>9.3g}" + "{:.2g} to {:.2g}".format(*part["sd_ratio"]).rjust(20)

    def number(value: float | None, digits: str) -> str:
        return "" if value is None else format(value, digits)

    nuts, chains = row.get("nuts", {}), row.get("refined")
    name = row["model"] if row["family"] == "default" else f"{row['model']}, {row['family']}"
    below = ""
    if chains:
        below = f"\n{'  refined':<32}{verdict(chains):>14}{'':>29}{compared(chains.get('psis'))}"
        below += f"{chains['r_hat']:>7.2f}{chains['cpu_seconds']:>8.1f}"
    return (
        f"{name:<32}{verdict(row):>14}{compared(row.get('q'))}{compared(row.get('psis'))}"
        f"{number(row.get('pareto_k'), '.2f'):>7}{number(row.get('cpu_seconds'), '.1f'):>8}"
        f"{number(nuts.get('cpu_seconds'), '.1f'):>8}{compared(nuts)}{below}"
    )


def run(name: str, family: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fits one model in a process of its own."""
    command = [sys.executable, __file__, "--here", "--only", name, "--family", family, "--seed", str(arguments.seed)]
    if arguments.references is not None:
        command += ["--references", str(arguments.references)]
    command += ["--refine"] * arguments.refine
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=arguments.timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"time_limit": arguments.timeout}
    if done.returncode:
        return {"error": f"the process ended with the exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, help="the folder that hard_references.py wrote")
    parser.add_argument("--json-lines", type=Path, help="a file for the rows, to which each is added")
    parser.add_argument("--only", nargs="+", help="names of the models to run; all by default")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=["default"])
    parser.add_argument("--refine", action="store_true", help="refine what is flagged")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the fit")
    parser.add_argument("--timeout", type=float, default=300.0, help="wall-clock seconds for one model")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        given = arguments.only[0], arguments.family[0], arguments.seed, arguments.references
        row = fit(*given, refine=arguments.refine)
        print(json.dumps(row, default=float))
        return
    from hard_models import MODELS

    unknown = [name for name in arguments.only or [] if name not in MODELS]
    if unknown:
        parser.error(f"`--only` must hold names of {list(MODELS)}. Received: {unknown}")
    done = {}
    if arguments.json_lines and arguments.json_lines.exists():
        rows = [json.loads(text) for text in arguments.json_lines.read_text().splitlines()]
        done = {(row["model"], row["family"], row["seed"]): row for row in rows}
    table = []
    compared = f"{'error':>9}{'sd ratio':>20}"
    print(f"{'':<32}{'verdict':>14}{compared}{'PSIS':>9}{'sd ratio':>20}{'k-hat':>7}{'CPU s':>8}{'NUTS':>8}{compared}")
    for name in arguments.only or MODELS:
        for family in arguments.family:
            key = (name, family, arguments.seed)
            row = done.get(key)
            if row is None:
                row = {"model": name, "family": family, "seed": arguments.seed, **run(name, family, arguments)}
                if arguments.json_lines:
                    with arguments.json_lines.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            table.append(verdict(row))
            print(line(row), flush=True)
    print("\n" + ", ".join(f"{each}: {table.count(each)}" for each in sorted(set(table))))


if __name__ == "__main__":
    main()
