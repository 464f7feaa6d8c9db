"""Runs NumPyro's NUTS in double precision on the models of hard_models.py, as references for hard_posteriors.py.

    python benchmarks/hard_references.py FOLDER [--only NAME ...]

It writes one JSON file for each model: the mean and the standard deviation of each quantity, the lowest effective
sample size, the highest R-hat, and the CPU seconds of all chains, with compilation. A model whose file is there is not
run again. It needs NumPyro and Keras, but neither TensorFlow nor tfvae. Each model has a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Before JAX and Keras are imported.
os.environ.update(JAX_ENABLE_X64="1", KERAS_BACKEND="jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import numpyro
from hard_models import MODELS, Model
from numpyro import diagnostics
from numpyro.distributions import biject_to, constraints

keras.config.set_floatx("float64")
SUPPORTS = {
    None: lambda size: constraints.real,
    "positive": lambda size: constraints.positive,
    "unit": lambda size: constraints.unit_interval,
    "simplex": lambda size: constraints.simplex,
    "ordered": lambda size: constraints.ordered_vector,
}
CHAINS, WARM_UP, DRAWS = 4, 1000, 2500
# Chains start at points from Uniform(-START, START). NumPyro's own 2 leaves those of a moving average stuck.
START = 0.5


def nuts(model: Model, seed: int) -> dict[str, Any]:
    """Draws from a posterior by NUTS with NumPyro's defaults, and a target acceptance of 0.9."""
    transforms = {name: biject_to(SUPPORTS[support](shape)) for name, (shape, support) in model.latents.items()}
    shapes = {name: transforms[name].inverse_shape(shape) for name, (shape, _) in model.latents.items()}

    def potential(points: dict[str, Any]) -> Any:
        values = {name: transforms[name](point) for name, point in points.items()}
        jacobians = [jnp.sum(transforms[name].log_abs_det_jacobian(points[name], values[name])) for name in points]
        return -model.log_joint({name: value[None] for name, value in values.items()})[0] - sum(jacobians)

    numbers = np.random.default_rng(seed)
    start = {name: jnp.asarray(numbers.uniform(-START, START, (CHAINS, *shape))) for name, shape in shapes.items()}
    kernel = numpyro.infer.NUTS(potential_fn=potential, target_accept_prob=0.9)
    mcmc = numpyro.infer.MCMC(
        kernel, num_warmup=WARM_UP, num_samples=DRAWS, num_chains=CHAINS, chain_method="sequential", progress_bar=False
    )
    before = time.process_time()
    mcmc.run(jax.random.PRNGKey(seed), init_params=start)
    points = {name: np.asarray(each) for name, each in mcmc.get_samples(group_by_chain=True).items()}
    seconds = time.process_time() - before
    flat = {name: np.asarray(transforms[name](each.reshape(-1, *each.shape[2:]))) for name, each in points.items()}
    quantities = model.compared(flat)
    chains = {name: each.reshape(CHAINS, DRAWS, *each.shape[1:]) for name, each in quantities.items()}
    return {
        "moments": {name: (each.mean(axis=0).tolist(), each.std(axis=0).tolist()) for name, each in quantities.items()},
        "r_hat": max(float(np.max(diagnostics.split_gelman_rubin(each))) for each in chains.values()),
        "ess": min(float(np.min(diagnostics.effective_sample_size(each))) for each in chains.values()),
        "divergences": int(np.sum(mcmc.get_extra_fields()["diverging"])),
        "cpu_seconds": seconds,
    }


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of NUTS")
    parser.add_argument("--timeout", type=float, default=1800.0, help="wall-clock seconds for one model")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        path = arguments.folder / f"{name}.json"
        result = {"model": name, "seed": arguments.seed}
        if arguments.here:
            result |= {"numpyro": numpyro.__version__, **nuts(MODELS[name](arguments.seed), arguments.seed)}
            path.write_text(json.dumps(result) + "\n")
        elif not path.exists():
            command = [sys.executable, __file__, str(arguments.folder), "--only", name, "--here"]
            try:
                subprocess.run([*command, "--seed", str(arguments.seed)], timeout=arguments.timeout, check=False)
            except subprocess.TimeoutExpired:
                path.write_text(json.dumps({**result, "timeout": arguments.timeout}) + "\n")
        if path.exists() and not arguments.here:
            result = json.loads(path.read_text())
            shown = {key: value for key, value in result.items() if key != "moments"}
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
