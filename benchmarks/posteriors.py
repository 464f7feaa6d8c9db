"""How near variational inference comes to reference posteriors, compared with TFP's methods, nothing tuned to a model.

    python benchmarks/posteriors.py FOLDER [--json PATH]

FOLDER holds reference posteriors in the format of `reference_models.py`. Every method is run once on each of them, one
after the other: `tfvae.VariationalInference` with three families, TFP's NUTS, and TFP's own variational inference with
two families and two learning rates. The columns:

- error: the largest |error of a posterior mean|, in standard deviations of the reference; first for the draws of q,
  then, in the column PSIS, after correction by the importance weights;
- sd ratio: the smallest and the largest ratio of a standard deviation to the reference's, again for both;
- k-hat: the estimated tail shape of the importance weights; above 0.7 the fit is flagged as not to be trusted;
- densities: how often the log density was evaluated, mostly together with its gradient;
- seconds: the time of the fit, including tracing.

Each method gives 10,000 draws, so errors below 0.03 are Monte Carlo noise.
"""

import argparse
import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from mcmc_and_tfp_vi import FAMILIES, nuts, tfp_vi
from reference_models import Model, compare, read_posteriors

import tfvae

POSTERIORS = {
    "mean-field": tfvae.posteriors.DiagonalNormal,
    "full-rank": tfvae.posteriors.FullCovarianceNormal,
    "flow": tfvae.posteriors.CouplingFlow,
}
LEARNING_RATES = (0.1, 0.01)
DRAWS = 10_000
PACKAGES = ("tfvae", "tensorflow", "tensorflow-probability", "keras", "arviz-stats")


def fit(model: Model, reference: dict[str, Any], family: str, seed: int) -> dict[str, Any]:
    """Fits a family to a model, and compares its draws with the reference."""
    keras.utils.set_random_seed(seed)
    evaluations = tf.Variable(0, dtype=tf.int64)

    def log_joint(latents: dict[str, tf.Tensor], _: None) -> tf.Tensor:
        log_density = model.log_joint(latents)
        evaluations.assign_add(tf.size(log_density, tf.int64))
        return log_density

    latents = {name: tfvae.Latent(*latent) for name, latent in model.latents.items()}
    start = time.perf_counter()
    inference = tfvae.VariationalInference(log_joint, latents, posterior=POSTERIORS[family]())
    with warnings.catch_warnings():
        # The table shows k-hat instead.
        warnings.filterwarnings("ignore", message="q is far from the posterior")
        inference.fit(verbose=0)
        seconds, count = time.perf_counter() - start, int(evaluations)
        draws = inference.draw(DRAWS, seed=seed)
    error, *ratios = compare(model.quantities(draws.latents), reference)
    psis_error, *psis_ratios = compare(model.quantities(draws.resample(seed=seed)), reference)
    return {
        "method": f"tfvae {family}",
        "error": error,
        "sd_ratio": ratios,
        "psis_error": psis_error,
        "psis_sd_ratio": psis_ratios,
        "pareto_k": draws.pareto_k,
        "elbo": draws.elbo,
        "evaluations": count,
        "seconds": seconds,
    }


def fit_nuts(model: Model, reference: dict[str, Any], seed: int) -> dict[str, Any]:
    """Runs TFP's NUTS on a model, and compares its draws with the reference."""
    draws, evaluations, seconds = nuts(model, seed=seed)
    error, *ratios = compare(draws, reference)
    return {"method": "TFP NUTS", "error": error, "sd_ratio": ratios, "evaluations": evaluations, "seconds": seconds}


def fit_tfp(model: Model, reference: dict[str, Any], family: str, rate: float, seed: int) -> dict[str, Any]:
    """Fits a family to a model with `tfp.vi.fit_surrogate_posterior`, and compares its draws with the reference."""
    draws, elbo, evaluations, seconds = tfp_vi(model, family, seed=seed, learning_rate=rate)
    error, *ratios = compare(draws, reference)
    return {
        "method": f"TFP {family}, Adam {rate}",
        "error": error,
        "sd_ratio": ratios,
        "elbo": elbo,
        "evaluations": evaluations,
        "seconds": seconds,
    }


def line(row: dict[str, Any]) -> str:
    """Formats a row of the table."""

    def range_of(name: str) -> str:
        return "{:.3g} to {:.3g}".format(*row[name]) if name in row else ""

    def number(name: str, digits: str) -> str:
        return format(row[name], digits) if name in row else ""

    return (
        f"{row['method']:<26}{number('error', '.3g'):>8}{range_of('sd_ratio'):>18}{number('psis_error', '.3g'):>8}"
        f"{range_of('psis_sd_ratio'):>18}{number('pareto_k', '.2f'):>7}{number('elbo', '.2f'):>12}"
        f"{row['evaluations']:>11}{row['seconds']:>8.1f}"
    )


def runs(model: Model, reference: dict[str, Any], seed: int, *, tfp: bool) -> Iterator[Callable[[], dict[str, Any]]]:
    """One run of each method, in turn."""
    for family in POSTERIORS:
        yield lambda family=family: fit(model, reference, family, seed)
    if tfp:
        yield lambda: fit_nuts(model, reference, seed)
        for family in FAMILIES:
            for rate in LEARNING_RATES:
                yield lambda family=family, rate=rate: fit_tfp(model, reference, family, rate, seed)


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the reference posteriors, one JSON file each")
    parser.add_argument("--only", nargs="+", help="names of the posteriors to run; all by default")
    parser.add_argument("--without-tfp", action="store_true", help="leave TFP's methods out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the rows, rewritten after each")
    arguments = parser.parse_args()
    # TensorFlow warns of repeated tracing, because each model is a new function.
    tf.get_logger().setLevel("ERROR")
    posteriors = read_posteriors(arguments.folder)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    rows = []
    header = f"{'':<26}{'error':>8}{'sd ratio':>18}{'PSIS':>8}{'sd ratio':>18}{'k-hat':>7}{'ELBO':>12}"
    for name in arguments.only or posteriors:
        model, reference = posteriors[name]
        print(f"\n{name}\n{header}{'densities':>11}{'seconds':>8}")
        for run in runs(model, reference, arguments.seed, tfp=not arguments.without_tfp):
            rows.append({"posterior": name, **run()})
            print(line(rows[-1]), flush=True)
            if arguments.json:
                content = {"versions": versions, "seed": arguments.seed, "rows": rows}
                arguments.json.write_text(json.dumps(content, indent=1, default=float) + "\n")
    flagged = [row for row in rows if row.get("pareto_k", 0.0) > 0.7]
    missed = [row for row in rows if "pareto_k" in row and row["error"] > 0.5 and row not in flagged]
    print(f"\nflagged by k-hat > 0.7: {len(flagged)}; mean error > 0.5 sd and not flagged: {len(missed)}")


if __name__ == "__main__":
    main()
