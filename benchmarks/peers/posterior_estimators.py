"""Neural posterior estimation by tfvae, sbi and BayesFlow from the same pairs, each with its own defaults.

    python benchmarks/peers/posterior_estimators.py METHOD PAIRS DRAWS

is how `simulation_tasks.py` calls it, with a Python that has the library of the method. PAIRS is an .npz file with
theta [N, D], x [N, K], the bounds `low` and `high` [D] of the uniform prior, `observations` [M, K], `num_draws` S and
`seed`. DRAWS is the one to write: `draws` [M, S, D], and `cpu_seconds` and `seconds`, those of the training.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# The imports of each library are in its function, because the others need not be installed.


def tfvae(given: Any) -> Callable[[], Callable[[np.ndarray, int], np.ndarray]]:
    """`tfvae.AmortizedInference`."""
    import keras
    import tensorflow_probability as tfp

    from tfvae import AmortizedInference

    tfd = tfp.distributions
    keras.utils.set_random_seed(int(given["seed"]))
    prior = tfd.Independent(tfd.Uniform(given["low"], given["high"]), 1)

    def train() -> Callable[[np.ndarray, int], np.ndarray]:
        model = AmortizedInference(prior)
        model.fit({"theta": given["theta"], "x": given["x"]}, verbose=0)
        return lambda x, count: model.sample(x, count, seed=int(given["seed"]))["theta"]

    return train


def sbi(given: Any, density_estimator: str = "maf") -> Callable[[], Callable[[np.ndarray, int], np.ndarray]]:
    """`sbi.inference.NPE`."""
    import torch
    from sbi.inference import NPE
    from sbi.utils import BoxUniform

    torch.set_num_threads(1)
    torch.manual_seed(int(given["seed"]))
    theta, x, low, high = (torch.as_tensor(given[name]) for name in ("theta", "x", "low", "high"))

    def train() -> Callable[[np.ndarray, int], np.ndarray]:
        trainer = NPE(BoxUniform(low, high), density_estimator=density_estimator, show_progress_bars=False)
        trainer.append_simulations(theta, x).train()
        posterior = trainer.build_posterior()
        return lambda x, count: posterior.sample((count,), x=torch.as_tensor(x), show_progress_bars=False).numpy()

    return train


def bayesflow(given: Any) -> Callable[[], Callable[[np.ndarray, int], np.ndarray]]:
    """`bayesflow.BasicWorkflow`, with the prior's bounds as a constraint."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import bayesflow
    import keras

    keras.utils.set_random_seed(int(given["seed"]))
    adapter = (
        bayesflow.Adapter()
        .convert_dtype("float64", "float32")
        .constrain("theta", lower=given["low"], upper=given["high"])
        .rename("theta", "inference_variables")
        .rename("x", "inference_conditions")
    )

    def train() -> Callable[[np.ndarray, int], np.ndarray]:
        workflow = bayesflow.BasicWorkflow(adapter=adapter, standardize=["inference_variables", "inference_conditions"])
        workflow.fit_offline({"theta": given["theta"], "x": given["x"]}, verbose=0)
        return lambda x, count: workflow.sample(num_samples=count, conditions={"x": x[np.newaxis]})["theta"][0]

    return train


METHODS = {"tfvae": tfvae, "sbi": sbi, "sbi nsf": lambda given: sbi(given, "nsf"), "bayesflow": bayesflow}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(method: str, pairs: str, draws: str) -> None:
    """Trains one method, and writes its draws."""
    given = np.load(pairs)
    train = METHODS[method](given)
    began, cpu_began = time.perf_counter(), _cpu_seconds()
    sample = train()
    spent = {"cpu_seconds": _cpu_seconds() - cpu_began, "seconds": time.perf_counter() - began}
    found = [sample(x, int(given["num_draws"])) for x in given["observations"]]
    np.savez(draws, draws=np.stack(found), **spent)


if __name__ == "__main__":
    main(*sys.argv[1:])
