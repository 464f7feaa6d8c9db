"""Trains a VAE of binary pictures whose log p(x) is to be high, and estimates log p(x) of the test pictures.

    python benchmarks/pictures.py --data mnist.npz --model residual --prior vamp --epochs N --folder F [--json PATH]
    python benchmarks/pictures.py --data mnist.npz --model deep --filters 48 64 96 --epochs N --folder F [--json PATH]

The pixels are binarised dynamically, drawn anew from their gray values in each epoch, or statically, drawn once; the
test pictures are drawn once. The static draw is our own, by a fixed seed: it is not the file of Larochelle & Murray
2011 that papers mean by "static MNIST", so that figures compare with theirs only up to the luck of another draw. The
training takes all pictures of the training set but the last `--held-out`, on which the bound is printed in each epoch.

The model has averages of the weights over the steps (`--ema`), in the printed bounds and in the test too. The learning
rate falls to 0 along a cosine, the KL divergence is warmed up. The test is in float32 also after a training in
bfloat16: log p(x) by importance sampling, with its standard error over the pictures, the error of the sampling alone,
and k-hat.

An interrupted training or test, started again with the same `--folder`, goes on; `hours` counts all epochs, whenever
they ran, and `cpu_hours` the time of all threads, which is what a busy machine has given. A further run can train the
model of an earlier one on: `--start F/model.keras --folder F2`; with `--draws 5` by the importance weighted bound. The
result is appended to PATH, one line of JSON for each run. `--data` is an .npz file with x_train and x_test, or the
folder of the two files of pictures of MNIST or Fashion-MNIST in IDX format.

Reference: Burda, Grosse, Salakhutdinov 2016, Importance Weighted Autoencoders, section 5; Tomczak & Welling 2018, VAE
with a VampPrior.
"""

import argparse
import gzip
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from records import Records

import tfvae
from tfvae.data.loading import batches_in_memory

PACKAGES = ("tfvae", "tensorflow", "keras")
# The draws of static training pictures and of test pictures are those of every run.
BINARISATION_SEED = 0
# How many test pictures are computed between two files of results.
TESTED_AT_ONCE = 250
IDX_FILES = {"x_train": "train-images-idx3-ubyte", "x_test": "t10k-images-idx3-ubyte"}

PRIORS: dict[str, Callable[[argparse.Namespace], tfvae.priors.Prior]] = {
    "standard": lambda given: tfvae.priors.StandardNormal(),
    "mixture": lambda given: tfvae.priors.NormalMixture(num_components=given.components),
    "vamp": lambda given: tfvae.priors.VampPrior(num_components=given.components, bounds=(0.0, 1.0)),
    "flow": lambda given: tfvae.priors.Flow(hidden=128),
    "splines": lambda given: tfvae.priors.SplineFlow(hidden=128),
}
POSTERIORS: dict[str, Callable[[], tfvae.posteriors.Posterior]] = {
    "normal": tfvae.posteriors.DiagonalNormal,
    "iaf": lambda: tfvae.posteriors.InverseAutoregressiveFlow(num_flows=4, hidden=256),
}


def objective(given: argparse.Namespace) -> tfvae.objectives.Objective:
    """The bound, or with several draws of z for each picture the importance weighted bound."""
    return tfvae.objectives.IWAE(given.draws) if given.draws > 1 else tfvae.objectives.ELBO()


def residual(given: argparse.Namespace, shape: tuple[int, ...]) -> tfvae.VAE:
    """A VAE with one vector of latent variables and residual convolutional networks."""
    sizes = {"hidden": (given.hidden,), "num_blocks": given.blocks, "activation": "relu"}
    return tfvae.VAE(
        tfvae.networks.residual_encoder(shape, given.filters, **sizes),
        tfvae.networks.residual_decoder(given.latent_dim, shape, given.filters[::-1], **sizes),
        given.latent_dim,
        posterior=POSTERIORS[given.posterior](),
        prior=PRIORS[given.prior](given),
        likelihood=tfvae.likelihoods.Bernoulli(),
        objective=objective(given),
    )


def deep(given: argparse.Namespace, shape: tuple[int, ...]) -> tfvae.DeepHierarchicalVAE:
    """A deep hierarchy of latent pictures."""
    ladder = tfvae.networks.ladder(
        shape,
        filters=given.filters,
        groups=given.groups,
        latent_channels=given.latent_channels,
        activation="relu",
    )
    return tfvae.DeepHierarchicalVAE(
        *ladder,
        likelihood=tfvae.likelihoods.Bernoulli(),
        objective=objective(given),
        max_gradient_norm=given.max_gradient_norm,
    )


# By name, a function of the arguments of the command and the shape of a picture to a model that is not compiled.
MODELS: dict[str, Callable[[argparse.Namespace, tuple[int, ...]], Any]] = {"residual": residual, "deep": deep}


class Log(keras.callbacks.Callback):
    """Prints a line for each epoch, and keeps its seconds in a file.

    Args:
        path: the file; an epoch that is trained again, because no checkpoint followed it, is counted once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        # For each epoch, by the clock and of the processor.
        self._seconds: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def hours(self) -> dict[str, float]:
        """The hours of all epochs, those of earlier processes included."""
        sums = np.sum(list(self._seconds.values()), axis=0) / 3600
        return dict(zip(("hours", "cpu_hours"), sums.tolist(), strict=True))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clocks."""
        self._start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stops the clocks, and writes the line and the file."""
        ends = time.perf_counter(), time.process_time()
        self._seconds[str(epoch)] = [end - start for end, start in zip(ends, self._start, strict=True)]
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._seconds))
        unfinished.rename(self._path)
        numbers = " ".join(f"{name} {value:.3f}" for name, value in (logs or {}).items())
        wall, cpu = self._seconds[str(epoch)]
        print(f"epoch {epoch + 1} {numbers} {wall:.1f} s ({cpu:.1f} of cpu), {self.hours['hours']:.3f} h", flush=True)


def read(path: Path) -> dict[str, np.ndarray]:
    """The gray values `x_train` and `x_test`, uint8 [N, height, width, 1]."""
    if path.is_dir():
        found = {name: _read_idx(path / file) for name, file in IDX_FILES.items()}
    else:
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in IDX_FILES}
    return {name: array.reshape(*array.shape[:3], 1) for name, array in found.items()}


def _read_idx(path: Path) -> np.ndarray:
    """Pictures of a file as those on the page of MNIST, compressed or not."""
    zipped = path.with_name(f"{path.name}.gz")
    content = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
    # Two bytes of zeros, the type (8 for uint8), the number of axes, and the length of each as four bytes.
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"`--data` must be a folder of IDX files of bytes. Received: {path}")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def drawn(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Binary pictures, uint8, each pixel 1 with its gray value as the probability."""
    return (rng.random(pictures.shape, np.float32) < pictures / np.float32(255)).astype(np.uint8)


def train(model: Any, given: argparse.Namespace, pictures: np.ndarray) -> dict[str, float]:
    """Trains a model, or goes on where an earlier process was interrupted; returns the hours of all epochs."""
    kept = len(pictures) - given.held_out
    rng = np.random.default_rng(BINARISATION_SEED)
    if given.binarize == "static":
        pictures, unit = drawn(pictures, rng), 1.0
        held_out = pictures[kept:]
    else:
        # The pipeline divides both by the same unit.
        held_out, unit = 255 * drawn(pictures[kept:], rng), 255.0
    batches, validation = batches_in_memory(
        pictures[:kept],
        held_out,
        batch_size=given.batch_size,
        seed=given.seed,
        unit=unit,
        is_random=given.binarize == "dynamic",
    )
    if given.start:
        model.set_weights(keras.saving.load_model(given.start).get_weights())
    elif given.model == "residual" and given.prior == "vamp":
        rows = next(iter(batches.unbatch().batch(given.components)))
        model.prior.pseudo_inputs.assign(rows)
    steps = math.ceil(kept / given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(given.learning_rate, steps * given.epochs)
    if given.rise:
        rising = {"warmup_target": given.learning_rate, "warmup_steps": given.rise}
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps * given.epochs - given.rise, **rising)
    averaging = {"use_ema": True, "ema_momentum": given.ema} if given.ema else {}
    model.compile(
        keras.optimizers.Adam(rate, weight_decay=given.weight_decay, global_clipnorm=given.clipnorm, **averaging)
    )
    log = Log(given.folder / "seconds.json")
    callbacks = [log, tfvae.callbacks.Checkpoints(given.folder / "checkpoints")]
    if given.warm_up:
        callbacks.append(tfvae.callbacks.KLWarmUp(steps * given.warm_up))
    model.fit(
        batches,
        validation_data=validation if given.held_out else None,
        epochs=given.epochs,
        verbose=0,
        callbacks=callbacks,
    )
    return log.hours


def test(model: Any, given: argparse.Namespace, pictures: np.ndarray) -> dict[str, float]:
    """Estimates log p(x) of binary pictures, in parts, each of which is kept in a file."""
    folder = given.folder / f"test-{given.epochs}-{given.num_samples}"
    folder.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(pictures), TESTED_AT_ONCE):
        path = folder / f"{start:05d}.npy"
        if not path.exists():
            x = pictures[start : start + TESTED_AT_ONCE].astype(np.float32)
            began = time.perf_counter()
            found = tfvae.evaluation.importance_sampling(
                model, x, given.num_samples, batch_size=given.test_batch_size, seed=start
            )
            seconds = np.full(len(x), (time.perf_counter() - began) / len(x))
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, np.stack([*found, seconds]))
            unfinished.rename(path)
        parts.append(np.load(path))
        so_far = np.concatenate([part[0] for part in parts])
        print(f"tested {len(so_far)}: log p(x) {so_far.mean():.3f}", flush=True)
    log_likelihood, error, pareto_k, seconds = np.concatenate(parts, axis=1)
    size = len(log_likelihood)
    return {
        "negative_log_likelihood": float(-log_likelihood.mean()),
        "standard_error": float(log_likelihood.std(ddof=1) / math.sqrt(size)),
        "error_of_sampling": float(np.sqrt(np.sum(error**2)) / size),
        "k_hat_median": float(np.median(pareto_k)),
        "k_hat_above_0.7": float(np.mean(pareto_k > 0.7)),
        "hours_of_the_test": float(seconds.sum() / 3600),
    }


def parse() -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file, or a folder of IDX files")
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints and the results of the test")
    parser.add_argument("--model", choices=MODELS, default="residual")
    parser.add_argument("--prior", choices=PRIORS, default="vamp")
    parser.add_argument("--posterior", choices=POSTERIORS, default="normal")
    parser.add_argument("--binarize", choices=("dynamic", "static"), default="dynamic")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--start", type=Path, help="a model.keras, in the folder of another run, to train further")
    parser.add_argument("--draws", type=int, default=1, help="of z for each picture: more train by the IWAE")
    parser.add_argument("--latent-dim", type=int, default=40, help="of the residual model")
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 32, 64], help="at each resolution")
    parser.add_argument(
        "--groups", type=int, nargs="+", default=[1, 3, 2], help="of the deep model, at each resolution"
    )
    parser.add_argument("--latent-channels", type=int, default=8, help="of each group of the deep model")
    parser.add_argument("--max-gradient-norm", type=float, help="above which the deep model skips a step")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks at each resolution")
    parser.add_argument("--hidden", type=int, default=256, help="the width of the dense layers")
    parser.add_argument("--components", type=int, default=500, help="of the prior")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rise", type=int, default=0, help="steps in which the learning rate rises from 0")
    parser.add_argument("--weight-decay", type=float, help="decoupled, as in AdamW, of all weights")
    parser.add_argument("--clipnorm", type=float, help="the largest norm of the gradient")
    parser.add_argument("--warm-up", type=int, default=0, help="epochs in which the weight of the KL divergence rises")
    parser.add_argument("--ema", type=float, default=0.999, help="momentum of the averages of the weights; 0: none")
    parser.add_argument("--policy", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--held-out", type=int, default=0, help="training pictures that are not trained on")
    parser.add_argument("--train-size", type=int, help="of the training pictures, the first so many")
    parser.add_argument("--test-size", type=int, help="of the test pictures, the first so many")
    parser.add_argument("--num-samples", type=int, default=5000, help="importance samples of each test picture")
    parser.add_argument("--test-batch-size", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file to which the row is appended")
    given = parser.parse_args()
    if not 0 <= given.ema < 1:
        parser.error(f"--ema must be from 0 to below 1. Received: {given.ema}")
    return given


def main() -> None:
    """Trains one model, tests it and prints its row."""
    given = parse()
    given.folder.mkdir(parents=True, exist_ok=True)
    pictures = read(given.data)
    shape = pictures["x_train"].shape[1:]
    keras.utils.set_random_seed(given.seed)
    keras.config.set_dtype_policy(given.policy)
    model = MODELS[given.model](given, shape)
    hours = train(model, given, pictures["x_train"][: given.train_size])
    keras.config.set_dtype_policy("float32")
    tested = MODELS[given.model](given, shape)
    tested.set_weights(model.get_weights())
    tested.save(given.folder / "model.keras")
    x = drawn(pictures["x_test"], np.random.default_rng(BINARISATION_SEED))[: given.test_size]
    tested.compile()
    metrics = tested.evaluate(x.astype(np.float32), batch_size=given.batch_size, verbose=0, return_dict=True)
    result = {"parameters": tested.count_params(), "elbo": metrics["elbo"], "kl": metrics["kl"], **hours}
    result |= test(tested, given, x)
    setting = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    records = Records(given.json, PACKAGES)
    records.append([{**setting, **result}])
    print(json.dumps({**setting, **result}, indent=1))


if __name__ == "__main__":
    main()
