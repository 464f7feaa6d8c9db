"""The command line: `tfvae train`, `evaluate`, `generate` and `export`.

Each command is a function; its arguments are the flags, and the parts of the model are chosen by class name:
`--likelihood Normal --likelihood.scale 0.1`.
"""

import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import docstring_parser
import keras
import numpy as np
import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt

from tfvae import data as data_module
from tfvae import export as export_module
from tfvae import networks, plots
from tfvae.likelihoods import Bernoulli, Likelihood
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior
from tfvae.vae import VAE

# The parts that a command uses unless it is told otherwise. Here and not in the signature, so that --print_config shows
# them and --likelihood.scale alone changes them.
_DEFAULT_PARTS = {
    "posterior": {"class_path": "tfvae.posteriors.DiagonalNormal"},
    "prior": {"class_path": "tfvae.priors.StandardNormal"},
    "likelihood": {"class_path": "tfvae.likelihoods.Normal", "init_args": {"scale": "learned"}},
    "objective": {"class_path": "tfvae.objectives.ELBO"},
}

# What a run's config.yaml must say for its data to be read again.
_DATA_ARGUMENTS = ("batch_size", "validation_fraction", "binarize", "image_size", "seed")


def train(
    data: str = "digits",
    *,
    name: str | None = None,
    batch_size: PositiveInt = 32,
    validation_fraction: float = 0.2,
    binarize: Literal["dynamic", "threshold"] | None = None,
    image_size: tuple[int, int] | None = None,
    network: Literal["dense", "convolutional"] = "dense",
    hidden: tuple[int, ...] = (256, 128),
    filters: tuple[int, ...] = (32, 64),
    activation: str = "silu",
    latent_dim: PositiveInt = 8,
    posterior: Posterior,
    prior: Prior,
    likelihood: Likelihood,
    objective: Objective,
    learning_rate: PositiveFloat = 2e-3,
    epochs: PositiveInt = 120,
    steps_per_execution: PositiveInt = 1,
    jit_compile: bool = False,
    num_samples: PositiveInt = 1000,
    seed: int = 0,
    runs: str = "runs",
    saved_models: str = "saved_models",
    overwrite: bool = False,
    config_yaml: str = "",
) -> None:
    """Trains a VAE, evaluates it on held-out data, draws pictures and exports it.

    Writes <runs>/<name>/ (model.keras, history.csv, config.yaml, reconstructions.png, samples.png, latent.png,
    history.png), <saved_models>/<name>/<version>/ and <saved_models>/<name>/<name>.tflite.

    Args:
        data: digits, mnist, fashion_mnist, cifar10, cifar100, a .npy, .npz, .csv or .parquet file, or an image folder.
        name: name of the run and of the exported model; by default that of the data.
        batch_size: examples in a batch.
        validation_fraction: share of the data that is held out, where the data has no test split of its own.
        binarize: turn values in [0, 1] into 0 or 1: drawn anew at each visit, or by the threshold 0.5.
        image_size: height and width to which a folder's images are brought.
        network: the kind of encoder and decoder.
        hidden: widths of the encoder's dense layers; the decoder mirrors them.
        filters: filters of the convolutional encoder's layers; the decoder mirrors them.
        activation: the networks' activation, by its Keras name.
        latent_dim: dimension of the latent space.
        posterior: q(z|x).
        prior: p(z).
        likelihood: p(x|z).
        objective: what is maximised.
        learning_rate: Adam's, at the start; it falls to 0 along a cosine.
        epochs: passes over the training data.
        steps_per_execution: steps that run in one call of TensorFlow.
        jit_compile: compile the steps with XLA.
        num_samples: draws for each example in the importance-sampled log-likelihood.
        seed: of the weights, the noise, the split and the order of the data.
        runs: folder of the runs.
        saved_models: folder of the exported models.
        overwrite: write into the folder of an earlier run of that name.
        config_yaml: the text of the run's config.yaml; the command line supplies it.
    """
    with _usage_errors():
        keras.utils.set_random_seed(seed)
        pipelines = data_module.load(
            data,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            binarize=binarize,
            image_size=image_size,
            seed=seed,
        )
        if binarize and not isinstance(likelihood, Bernoulli):
            raise ValueError(
                "`--binarize` makes x 0 or 1, which needs `--likelihood Bernoulli`. Received: --likelihood "
                f"{type(likelihood).__name__}"
            )
        held_out = np.concatenate(list(pipelines.validation.as_numpy_iterator()))
        event_shape = held_out.shape[1:]
        encoder, decoder = _networks(network, event_shape, latent_dim, likelihood, hidden, filters, activation)
        model = VAE(encoder, decoder, latent_dim, posterior, prior, likelihood, objective)
        model.check_data(held_out)
        run = _new_run(Path(runs), name or Path(data).stem, overwrite)
        (run / "config.yaml").write_text(config_yaml)
    steps = epochs * len(pipelines.train)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )
    history = model.fit(
        pipelines.train,
        validation_data=pipelines.validation,
        epochs=epochs,
        shuffle=False,
        callbacks=[
            keras.callbacks.TerminateOnNaN(),
            # The best so far, so that a run that diverges leaves the weights from before.
            keras.callbacks.ModelCheckpoint(run / "model.keras", monitor="loss", mode="min", save_best_only=True),
            keras.callbacks.CSVLogger(run / "history.csv"),
        ],
    )
    if not np.isfinite(history.history["loss"][-1]):
        raise SystemExit(f"tfvae: the training diverged; its history is in {run / 'history.csv'}")
    model.save(run / "model.keras")
    _print_evaluation(model, held_out, batch_size, num_samples, seed)
    plots.history(history.history).savefig(run / "history.png")
    _draw(model, held_out, run, seed)
    _export(model, Path(saved_models) / run.name, held_out)
    print(f"\nWrote {run}/ (model.keras, history.csv, config.yaml and pictures)")


def evaluate(run: str = "runs/digits", data: str | None = None, num_samples: PositiveInt = 1000, seed: int = 0) -> None:
    """Prints the held-out ELBO, log-likelihood and KL divergence of a trained model.

    Args:
        run: the folder of the run.
        data: other data than the run's, by name or path; its held-out part is used.
        num_samples: draws for each example in the importance-sampled log-likelihood.
        seed: of the noise.
    """
    with _usage_errors():
        model, held_out = _load_run(Path(run), data)
        _print_evaluation(model, held_out, 128, num_samples, seed)


def generate(run: str = "runs/digits", output: str = "samples.png", n: PositiveInt = 64, seed: int = 0) -> None:
    """Generates examples from the prior.

    Args:
        run: the folder of the run.
        output: the file to write: a picture (.png) or an array (.npy).
        n: how many examples to generate.
        seed: of the noise.
    """
    path = Path(output)
    with _usage_errors():
        if path.suffix not in (".png", ".npy"):
            raise ValueError(f"`--output` must end in .png or .npy. Received: {output}")
        model = _load_model(Path(run))
        x = model.generate(n, seed=seed)
        if path.suffix == ".png":
            plots.samples(x).savefig(path)
        else:
            np.save(path, x)
    print(f"Wrote {path}")


def export(run: str = "runs/digits", output: str | None = None) -> None:
    """Exports a trained model to a SavedModel and a .tflite file, and compares both with it.

    Args:
        run: the folder of the run.
        output: the folder to write to; by default saved_models/<name of the run>.
    """
    with _usage_errors():
        model, held_out = _load_run(Path(run))
        _export(model, Path(output) if output else Path("saved_models") / Path(run).resolve().name, held_out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: the words after `tfvae`; None takes those of the process.
    """
    parser = _Parser(prog="tfvae", description="Variational autoencoders, from training to TF Serving and the phone.")
    subcommands = parser.add_subcommands()
    parsers = {}
    for command in (train, evaluate, generate, export):
        parsers[command] = _command_parser(command)
        subcommands.add_subcommand(command.__name__, parsers[command])
    parsed = parser.parse_args(arguments)
    command = {command.__name__: command for command in parsers}[parsed.subcommand]
    chosen = parsed[parsed.subcommand]
    chosen.pop("config", None)
    with _usage_errors():
        keywords = vars(parsers[command].instantiate(chosen))
    if command is train:
        keywords["config_yaml"] = parsers[train].dump(chosen, skip_unset=False)
    command(**keywords)


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _exit_usage(message)


def _command_parser(command: Callable[..., None]) -> _Parser:
    """A parser whose flags are the arguments of a function; the first one is positional."""
    docstring = docstring_parser.parse(command.__doc__)
    first = next(iter(inspect.signature(command).parameters.values()))
    parser = _Parser(description=docstring.short_description)
    parser.add_argument("--config", action="config", help="a YAML file of the arguments")
    parser.add_argument(first.name, nargs="?", default=first.default, help=docstring.params[0].description)
    parser.add_function_arguments(command, as_group=False, skip={first.name, "config_yaml"})
    if command is train:
        parser.set_defaults(_DEFAULT_PARTS)
    return parser


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Turns what a user can mend into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        _exit_usage(str(error))


def _exit_usage(message: str) -> NoReturn:
    print("tfvae: error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


def _networks(
    network: str,
    event_shape: tuple[int, ...],
    latent_dim: int,
    likelihood: Likelihood,
    hidden: tuple[int, ...],
    filters: tuple[int, ...],
    activation: str,
) -> tuple[keras.Model, keras.Model]:
    """An encoder, and a decoder that mirrors it and gives what the likelihood reads."""
    output_shape = likelihood.parameter_shape(event_shape)
    if network == "dense":
        return (
            networks.dense_encoder(event_shape, hidden, activation),
            networks.dense_decoder(latent_dim, output_shape, hidden[::-1], activation),
        )
    return (
        networks.convolutional_encoder(event_shape, filters, hidden, activation),
        networks.convolutional_decoder(latent_dim, output_shape, filters[::-1], hidden[::-1], activation),
    )


def _new_run(runs: Path, name: str, overwrite: bool) -> Path:
    run = runs / name
    if (run / "model.keras").exists() and not overwrite:
        raise ValueError(f"{run} holds a trained model: choose another --name, or pass --overwrite true")
    run.mkdir(parents=True, exist_ok=True)
    return run


def _load_model(run: Path) -> VAE:
    path = run / "model.keras"
    if not path.is_file():
        raise ValueError(f"`run` must be a folder that `tfvae train` wrote. Received: {run}, which has no model.keras")
    return keras.saving.load_model(path)


def _load_run(run: Path, data: str | None = None) -> tuple[VAE, np.ndarray]:
    """A run's model, and the held-out part of its data."""
    model = _load_model(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    pipelines = data_module.load(data or config["data"], **{name: config[name] for name in _DATA_ARGUMENTS})
    return model, np.concatenate(list(pipelines.validation.as_numpy_iterator()))


def _print_evaluation(model: VAE, x: np.ndarray, batch_size: int, num_samples: int, seed: int) -> None:
    """Prints what the model says of held-out data, as a table in nats per example and bits per dimension."""
    if not model.compiled:
        model.compile()
    metrics = model.evaluate(x, batch_size=batch_size, return_dict=True, verbose=0)
    log_likelihood = float(np.mean(model.log_likelihood(x, num_samples, seed=seed)))
    dimensions = math.prod(x.shape[1:])
    print(f"\n{f'held out: {len(x)} examples of {dimensions} dimensions':<50}{'nats':>10}{'bits/dim':>10}")
    for label, nats, sign in (
        ("ELBO", metrics["elbo"], -1),
        (f"log-likelihood (importance sampling, K = {num_samples})", log_likelihood, -1),
        ("KL", metrics["kl"], 1),
    ):
        print(f"{label:<50}{nats:>10.3f}{sign * nats / (dimensions * math.log(2)):>10.4f}")


def _draw(model: VAE, x: np.ndarray, run: Path, seed: int) -> None:
    """Writes the pictures of a run."""
    plots.reconstructions(x, model.reconstruct(x)).savefig(run / "reconstructions.png")
    plots.samples(model.generate(64, seed=seed)).savefig(run / "samples.png")
    plots.latent(model.encode(x)["loc"], x).savefig(run / "latent.png")


def _export(model: VAE, folder: Path, x: np.ndarray) -> None:
    """Exports the model, and prints how far the exports are from it."""
    version = export_module.saved_model(model, folder)
    file = export_module.tflite(model, folder / f"{folder.name}.tflite")
    rows = export_module.verify(model, saved_model=version, tflite=file, x=x[:64])
    print(f"\nExported to {version}/ and {file}; compared with the Keras model on {len(x[:64])} examples:\n")
    print(export_module.table(rows))
