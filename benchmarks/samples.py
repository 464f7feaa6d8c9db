"""How good the samples of a VAE are with each prior fitted after the training, and those of a VQ-VAE with its own.

    python benchmarks/samples.py digits --folder FOLDER [--json results.jsonl]
    python benchmarks/samples.py mnist.npz --folder FOLDER [--json results.jsonl]

`digits` are scikit-learn's, a third of which is held out; a file has x_train and x_test of 28 x 28 pixels. A
convolutional VAE with N(0, I) and a convolutional VQ-VAE are trained on the grey values, with a normal likelihood whose
scale is learned. From each as many pictures are generated as were held out, as means of p(x|z), and compared with
these. The rows:

- training data: as many of these in the place of generated pictures, what a perfect model would have;
- reconstructions: of as many training data by the VAE, what a perfect prior would have;
- N(0, I): the prior of the training;
- mixture, flow, vae: priors of the same VAE by `tfvae.samplers.fit`;
- VQ: the VQ-VAE with a prior learned by its `fit_prior`; VQ, uniform: with all codes equally probable.

The figures are those of `tfvae.evaluation` on the features of `digit_features`: FID, as reported, as a share of that of
N(0, I), and without its bias; KID; precision and recall. With one seed their standard errors are those of the measures;
with more seeds they are those over seeds, which set the training, the fit and the samples.

What is in the results file is not measured again, and models in FOLDER are not trained again; a training that was
interrupted goes on.
"""

import argparse
import functools
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from records import resumed

import tfvae
from tfvae import evaluation, networks

BATCH_SIZE = 128
METHODS = ("training data", "reconstructions", "N(0, I)", "mixture", "flow", "vae", "VQ, uniform", "VQ")
FIGURES = ("fid", "fid_without_bias", "kid", "precision", "recall")


class Pictures:
    """The pictures, from 0 to 1.

    Args:
        source: "digits" or the path of an .npz file.
    """

    def __init__(self, source: str) -> None:
        loaded = tfvae.data.load(source, batch_size=BATCH_SIZE, validation_fraction=1 / 3)
        self.train, self.test = (
            np.concatenate(list(part.as_numpy_iterator())) for part in (loaded.train, loaded.validation)
        )
        self.shape = self.test.shape[1:]
        self._network = evaluation.digit_features(self.shape)
        self._real = self.features(self.test)

    def features(self, x: np.ndarray) -> np.ndarray:
        """The features of pictures, whose pixels are cut off at 0 and 1 as in a file of pictures."""
        return evaluation.features(self._network, np.clip(x, 0.0, 1.0))

    def compared(self, x: np.ndarray) -> dict[str, float]:
        """The figures of generated pictures, and their standard errors."""
        made = self.features(x)
        frechet = evaluation.frechet_distance(self._real, made)
        kernel = evaluation.kernel_distance(self._real, made)
        shares = evaluation.precision_recall(self._real, made)
        return {
            "fid": frechet.distance,
            "fid_error": frechet.standard_error,
            "fid_without_bias": frechet.extrapolated,
            "fid_without_bias_error": frechet.standard_error,
            "kid": kernel.distance,
            "kid_error": kernel.standard_error,
            **shares._asdict(),
        }


def vae(shape: tuple[int, ...], latent_dim: int) -> tfvae.VAE:
    """A convolutional VAE with N(0, I)."""
    filters = (32, 64)
    return tfvae.VAE(
        networks.convolutional_encoder(shape, filters, (256,)),
        networks.convolutional_decoder(latent_dim, shape, filters[::-1], (256,)),
        latent_dim,
        likelihood=tfvae.likelihoods.Normal(scale="learned"),
    )


def vq_vae(shape: tuple[int, ...], num_codes: int) -> tfvae.VQVAE:
    """A convolutional VQ-VAE, of 7 x 7 codes for 28 x 28 pixels and of 4 x 4 for 8 x 8."""
    layers, width = keras.layers, 16
    halves = 2 if shape[0] == 28 else 1
    down = [layers.Conv2D(32, 4, strides=2, padding="same", activation="relu") for _ in range(halves)]
    up = [layers.Conv2DTranspose(32, 4, strides=2, padding="same", activation="relu") for _ in range(halves)]
    side = shape[0] // 2**halves
    between = [layers.Conv2D(64, 3, padding="same", activation="relu") for _ in range(2)]
    encoder = keras.Sequential([keras.Input(shape), *down, between[0], layers.Conv2D(width, 1)], name="encoder")
    ends = [keras.Input((side, side, width)), between[1], *up, layers.Conv2D(1, 3, padding="same")]
    likelihood = tfvae.likelihoods.Normal(scale="learned")
    return tfvae.VQVAE(encoder, keras.Sequential(ends, name="decoder"), num_codes, likelihood=likelihood)


def path_of(data: Pictures, kind: str, setting: dict[str, Any], folder: Path) -> Path:
    """Where the checkpoints of a training are; with the suffix of a file, where the model is."""
    size = setting["latent_dim"] if kind == "vae" else setting["num_codes"]
    return folder / f"{kind}-{data.shape[0]}-{size}-{setting['steps']}-{setting['seed']}"


def trained(data: Pictures, kind: str, setting: dict[str, Any], folder: Path) -> tfvae.VariationalModel:
    """The model of a kind, "vae" or "vq", with a seed, from the folder if it is there."""
    path = path_of(data, kind, setting, folder)
    if not path.with_suffix(".keras").exists():
        keras.utils.set_random_seed(setting["seed"])
        model = vae(data.shape, setting["latent_dim"]) if kind == "vae" else vq_vae(data.shape, setting["num_codes"])
        epochs = math.ceil(setting["steps"] * BATCH_SIZE / len(data.train))
        rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * math.ceil(len(data.train) / BATCH_SIZE))
        model.compile(keras.optimizers.Adam(rate))
        callbacks = [tfvae.callbacks.Checkpoints(path)]
        model.fit(data.train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks)
        model.save(path.with_suffix(".keras"))
    return keras.saving.load_model(path.with_suffix(".keras"))


def measure(data: Pictures, folder: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """One result: the figures of a method with a seed, and the seconds in which its prior was fitted."""
    method, seed, count = setting["method"], setting["seed"], len(data.test)
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:count]
    seconds = 0.0
    if method == "training data":
        made = data.train[chosen]
    else:
        model = trained(data, "vq" if method.startswith("VQ") else "vae", setting, folder)
        keras.utils.set_random_seed(seed)
        start = time.perf_counter()
        if method in ("mixture", "flow", "vae"):
            print(tfvae.samplers.fit(model, data.train, method, seed=seed), flush=True)
        elif method == "VQ":
            epochs = math.ceil(setting["prior_steps"] * BATCH_SIZE / len(data.train))
            path = path_of(data, "vq", setting, folder).with_suffix(f".prior-{setting['prior_steps']}")
            callbacks = [tfvae.callbacks.Checkpoints(path)]
            model.fit_prior(data.train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks)
        seconds = time.perf_counter() - start
        if method == "reconstructions":
            made = model.reconstruct(data.train[chosen], seed=seed)
        else:
            made = model.generate(count, seed=seed)
    return {**setting, **data.compared(made), "seconds": round(seconds, 1)}


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table of the means over seeds with their standard errors, a row for each method."""
    head = ["pictures", "FID", "of that of N(0, I)", "FID without bias", "KID", "precision", "recall", "seconds"]
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    of_normal = {result["seed"]: result["fid"] for result in results if result["method"] == "N(0, I)"}
    for method in dict.fromkeys(result["method"] for result in results):
        own = [result for result in results if result["method"] == method]
        cells = {}
        for name, digits in zip(FIGURES, (2, 2, 3, 3, 3), strict=True):
            values = np.array([result[name] for result in own])
            error = own[0][f"{name}_error"] if len(own) == 1 else values.std(ddof=1) / math.sqrt(len(own))
            cells[name] = f"{values.mean():.{digits}f} ± {error:.{digits}f}"
        shares = [result["fid"] / of_normal[result["seed"]] for result in own if result["seed"] in of_normal]
        share = f"{np.mean(shares):.2f}" if shares else ""
        fid, *others = (cells[name] for name in FIGURES)
        rows.append([method, fid, share, *others, f"{np.mean([result['seconds'] for result in own]):.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measures what the results file does not hold yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help='"digits", or an .npz file with x_train and x_test')
    parser.add_argument("--folder", type=Path, required=True, help="where the trained models are kept")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--latent-dim", type=int, default=16, help="of the VAE")
    parser.add_argument("--num-codes", type=int, help="of the VQ-VAE; by default 64 for digits and 256 for MNIST")
    parser.add_argument("--steps", type=int, help="of each model; by default 5000 for digits and 20,000 for MNIST")
    parser.add_argument("--prior-steps", type=int, help="of the prior of the VQ-VAE; by default 3000 and 10,000")
    parser.add_argument("--json", type=Path, metavar="PATH", help="a file to which results are added")
    options = parser.parse_args()
    data = Pictures(options.data)
    options.folder.mkdir(parents=True, exist_ok=True)
    small = {"num_codes": 64, "steps": 5000, "prior_steps": 3000}
    large = {"num_codes": 256, "steps": 20_000, "prior_steps": 10_000}
    defaults = small if data.shape[0] == 8 else large
    sizes = {"latent_dim": options.latent_dim}
    sizes |= {name: getattr(options, name) or default for name, default in defaults.items()}
    settings = [
        {"data": Path(options.data).name, "method": method, "seed": seed, **sizes}
        for seed in range(options.seeds)
        for method in options.methods
    ]
    print(table(resumed(options.json, settings, functools.partial(measure, data, options.folder))))


if __name__ == "__main__":
    main()
