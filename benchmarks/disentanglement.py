"""How far single dimensions of z represent the factors of sprites: a plain VAE, beta-VAE, beta-TCVAE and FactorVAE.

    python benchmarks/disentanglement.py [--seeds 5] [--json results.jsonl]

The pictures are those of benchmarks/sprites.py. All methods have the same networks, optimizer, batches and number of
steps, ten latent dimensions, and the weight that --beta, --beta-tc and --gamma give. The scores are those of
`tfvae.evaluation`, of the centres of q(z|x) for 5000 of the pictures, which are the same for all:

- MIG: the mutual information gap;
- D, C, I: disentanglement, completeness and informativeness of DCI;
- SAP: separated attribute predictability;
- FactorVAE score: the accuracy of its majority vote;
- ELBO and log p(x|z): the bound, with the weight 1, and its first term, in nats, of the same pictures;
- active: how many dimensions depend on x.

Means and their standard errors are over seeds, which set the weights and the order of the pictures. A method with a
seed takes some minutes; what is in PATH is not trained again.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import sprites
from records import resumed

import tfvae
from tfvae import evaluation, networks, objectives

SCORES = {
    "mig": "MIG",
    "disentanglement": "D",
    "completeness": "C",
    "informativeness": "I",
    "sap": "SAP",
    "factor_vae_score": "FactorVAE score",
    "elbo": "ELBO",
    "log_likelihood": "log p(x\\|z)",
    "active": "active",
}
# By name: the option with the weight of the method, and the objective with this weight for so many pictures.
METHODS: dict[str, tuple[str | None, Callable[[Any, int], objectives.Objective]]] = {
    "VAE": (None, lambda weight, n: objectives.ELBO()),
    "beta-VAE": ("beta", lambda weight, n: objectives.ELBO(beta=weight)),
    "beta-TCVAE": ("beta_tc", lambda weight, n: objectives.BetaTCVAE(n, beta=weight)),
    "FactorVAE": ("gamma", lambda weight, n: objectives.FactorVAE(gamma=weight)),
}


def train(x: np.ndarray, setting: dict[str, Any]) -> tfvae.VAE:
    """Trains the method of a setting on pictures [N, 32, 32, 1]."""
    keras.utils.set_random_seed(setting["seed"])
    shape, size, hidden = x.shape[1:], setting["latent_dim"], (400, 400)
    vae = tfvae.VAE(
        networks.dense_encoder(shape, hidden),
        networks.dense_decoder(size, shape, hidden),
        size,
        likelihood=tfvae.likelihoods.Bernoulli(),
        objective=METHODS[setting["method"]][1](setting["weight"], len(x)),
    )
    vae.compile(keras.optimizers.Adam(setting["learning_rate"]))
    steps_per_epoch = len(x) // setting["batch_size"]
    vae.fit(x, batch_size=setting["batch_size"], epochs=-(-setting["steps"] // steps_per_epoch), verbose=0)
    return vae


def measure(x: np.ndarray, factors: np.ndarray, setting: dict[str, Any]) -> dict[str, Any]:
    """One result: the scores of a method with a seed, and the seconds of its training."""
    start = time.perf_counter()
    vae = train(x, setting)
    seconds = time.perf_counter() - start
    chosen = np.random.default_rng(0).permutation(len(x))[: setting["examples"]]
    given, factors = x[chosen], factors[chosen]
    codes = np.asarray(vae.posterior.center(vae.encode(given)))
    of_forests = evaluation.dci(codes, factors, num_trees=50)
    rate, distortion = evaluation.rate_distortion(vae, given, num_samples=1, seed=0)
    return {
        **setting,
        "mig": evaluation.mutual_information_gap(codes, factors),
        **of_forests._asdict(),
        "sap": evaluation.sap(codes, factors, categorical=[sprites.FACTORS.index("shape")]),
        "factor_vae_score": evaluation.factor_vae_score(codes, factors),
        "elbo": -rate - distortion,
        "log_likelihood": -distortion,
        "active": evaluation.active_units(vae, given).count,
        "seconds": round(seconds, 1),
    }


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table of the means over seeds with their standard errors, a row for each method."""
    rows = [["method", "weight", *SCORES.values(), "seconds"], ["---", *["--:"] * (len(SCORES) + 2)]]
    for method in dict.fromkeys(result["method"] for result in results):
        own = [result for result in results if result["method"] == method]
        weight = "" if own[0]["weight"] is None else f"{own[0]['weight']:g}"
        cells = [mean_and_error(np.array([result[score] for result in own])) for score in SCORES]
        rows.append([method, weight, *cells, f"{np.mean([result['seconds'] for result in own]):.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def mean_and_error(values: np.ndarray) -> str:
    """The mean with its standard error, which one value does not have, to two digits after the point."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{error}"


def main() -> None:
    """Trains what the results file does not hold yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--beta", type=float, default=4.0, help="the weight of the KL divergence in beta-VAE")
    parser.add_argument("--beta-tc", type=float, default=6.0, help="that of the total correlation in beta-TCVAE")
    parser.add_argument("--gamma", type=float, default=10.0, help="that of the total correlation in FactorVAE")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--examples", type=int, default=5000, help="how many pictures the scores are of")
    parser.add_argument("--json", type=Path, metavar="PATH", help="a file to which results are added")
    options = parser.parse_args()
    x, factors = sprites.sprites()
    x = x.astype("float32")
    common = {
        name: getattr(options, name) for name in ("latent_dim", "steps", "batch_size", "learning_rate", "examples")
    }
    settings = [
        {"method": method, "weight": name and getattr(options, name), "seed": seed, **common}
        for seed, (method, (name, _)) in itertools.product(
            range(options.seeds), ((method, METHODS[method]) for method in options.methods)
        )
    ]
    print(table(resumed(options.json, settings, lambda setting: measure(x, factors, setting))))


if __name__ == "__main__":
    main()
