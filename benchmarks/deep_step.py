"""The memory and time of a training step of a deep hierarchy for colour pictures of 32 x 32, the shape of CIFAR-10.

    python benchmarks/deep_step.py [--filters 64 128] [--groups 8 4] [--latent-channels 16] [--batch-size 32]
        [--policy float32] [--recompute] [--json PATH]

The pictures are noise: nothing is learned, and only what a step costs is measured. The operations are those of the
products of all layers, once forward and twice back, by which the time of a full training can be computed for any
processor. The memory is the largest that the process ever had, less what it had before the model was made.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from records import Records

import tfvae
from tfvae import private_apis
from tfvae.training.plan import LayerTraits

SHAPE = (32, 32, 3)
PACKAGES = ("tfvae", "tensorflow", "keras")
STEPS = 5


def peak() -> float:
    """The largest memory that this process ever had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Takes some steps, and prints a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--latent-channels", type=int, default=16)
    parser.add_argument("--components", type=int, default=5, help="logistic distributions for each element of a pixel")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--recompute", action="store_true", help="compute the residual cells again on the way back")
    parser.add_argument("--policy", default="float32", help="a dtype policy of Keras, such as mixed_bfloat16")
    parser.add_argument("--json", type=Path, help="a file to which the row is appended")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(arguments.policy)
    before = peak()
    likelihood = tfvae.likelihoods.DiscretizedLogisticMixture(arguments.components)
    ladder = tfvae.networks.ladder(
        SHAPE,
        likelihood.parameter_shape(SHAPE),
        tuple(arguments.filters),
        tuple(arguments.groups),
        arguments.latent_channels,
        recompute=arguments.recompute,
    )
    model = tfvae.DeepHierarchicalVAE(*ladder, likelihood=likelihood, max_gradient_norm=1e6)
    model.compile(keras.optimizers.Adam(1e-3))
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 256, (arguments.batch_size, *SHAPE)) / 255).astype("float32")
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        metrics = model.train_on_batch(x, return_dict=True)
        seconds.append(time.perf_counter() - start)
    traits = LayerTraits.of(private_apis.layers_of(model))
    row = {
        **{name: value for name, value in vars(arguments).items() if name != "json"},
        "groups in all": model.num_groups,
        "weights": model.count_params(),
        "GFLOP per picture and step": model.operations_per_example(traits) / 1e9,
        # The first step is traced.
        "seconds per step": statistics.median(seconds[1:]),
        "pictures per second": arguments.batch_size / statistics.median(seconds[1:]),
        "GB": peak() - before,
        "loss": float(metrics["loss"]),
    }
    if not np.isfinite(row["loss"]):
        raise ValueError(f"The loss must be finite. Received: {row['loss']}")
    print("\n".join(f"{name:<30}{value}" for name, value in row.items()))
    Records(arguments.json, PACKAGES).append([row])


if __name__ == "__main__":
    main()
