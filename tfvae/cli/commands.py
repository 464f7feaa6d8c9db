"""The command line: `tfvae train`, `evaluate`, `generate`, `export`, `verify` and `predict`.

Each command is a function, and its arguments are the command's flags. Their help texts are the descriptions under
`Args:`. The parts of the model are chosen by class name: `--likelihood Normal --likelihood.scale 0.1`.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import docstring_parser
import keras
import numpy as np
import tensorflow as tf
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt

from tfvae import data as data_module
from tfvae import export as export_module
from tfvae import files, plots
from tfvae.cli import exports, run_training
from tfvae.cli import run_folder as runs_module
from tfvae.distribute import restart, strategies
from tfvae.export.metadata import write_json
from tfvae.likelihoods import Bernoulli, Likelihood
from tfvae.models.vae import VAE
from tfvae.objectives import Objective
from tfvae.posteriors import Posterior
from tfvae.priors import Prior

USAGE_ERROR = 2

# The default parts of the model. They are set on the parser rather than in the signature, so that --print_config shows
# them and --likelihood.scale alone can change one.
_DEFAULT_PARTS = {
    "posterior": {"class_path": "tfvae.posteriors.DiagonalNormal"},
    "prior": {"class_path": "tfvae.priors.StandardNormal"},
    "likelihood": {"class_path": "tfvae.likelihoods.Normal", "init_args": {"scale": "learned"}},
    "objective": {"class_path": "tfvae.objectives.ELBO"},
}


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
    strategy: strategies.Name = "auto",
    devices: PositiveInt | None = None,
    worker_timeout: PositiveFloat = 300.0,
    save_freq: PositiveInt | Literal["epoch"] = "epoch",
    resume: bool = False,
    num_samples: PositiveInt = 1000,
    seed: int = 0,
    runs: str = "runs",
    saved_models: str = "saved_models",
    overwrite: bool = False,
    config_yaml: str = "",
) -> None:
    """Trains a VAE, evaluates it on held-out data, draws pictures and exports it.

    Writes <runs>/<name>/ (model.keras, history.csv, config.yaml, evaluation.txt, reconstructions.png, samples.png,
    latent.png, history.png), and in <saved_models>/<name>/ the exports <version>/, <name>.tflite and
    <name>_batch1.tflite.

    Args:
        data: digits, mnist, fashion_mnist, cifar10, cifar100, a .npy, .npz, .csv or .parquet file, an image folder, or
            several .tfrecord, .npy or .npz files, as a folder or a pattern with * (then give --name).
        name: name of the run and of the exported model; by default the name of the data.
        batch_size: number of examples in a batch.
        validation_fraction: share of the data that is held out, unless the data set has a test split of its own.
        binarize: makes values in [0, 1] binary: dynamic draws them anew in each epoch, threshold compares with 0.5.
        image_size: height and width to which the images of a folder are resized, such as [32,32].
        network: kind of encoder and decoder.
        hidden: widths of the encoder's dense layers, such as [256,128]; the decoder mirrors them.
        filters: filters of the encoder's convolutions, such as [32,64]; the decoder mirrors them.
        activation: the networks' activation function, by its Keras name.
        latent_dim: dimension of the latent space.
        posterior: the family of the approximate posterior q(z|x).
        prior: the prior p(z).
        likelihood: the likelihood p(x|z).
        objective: the bound that training maximises.
        learning_rate: Adam's initial learning rate; it falls to 0 along a cosine.
        epochs: number of passes over the training data.
        steps_per_execution: number of steps that run in one call of TensorFlow.
        jit_compile: compile the steps with XLA.
        strategy: how to use several devices: auto, one_device, mirrored, multi_worker (each worker runs this command,
            with its own TF_CONFIG) or tpu.
        devices: number of devices for mirrored; without GPUs the CPU is split into that many.
        worker_timeout: seconds to wait for the other workers.
        save_freq: number of steps between two checkpoints, or epoch for one after each epoch.
        resume: continue the training of this name if it was interrupted.
        num_samples: draws of z per example for the importance-sampled log-likelihood.
        seed: seed of the weights, the noise, the split and the order of the data.
        runs: folder of the runs.
        saved_models: folder of the exported models.
        overwrite: overwrite an earlier run of this name.
        config_yaml: the text of the run's config.yaml; the command line supplies it.
    """
    with _exit_on_errors(USAGE_ERROR):
        name = name or Path(data).stem
        # Exports need such a name, and a pattern of files, whose stem is the default, is not one.
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise ValueError(f"`--name` must consist of letters, digits, '.', '_' and '-'. Received: {name}")
        run = Path(runs) / name
        trained = resume and run_training.is_trained(run)
        if trained and ((run / "evaluation.txt").exists() or not strategies.is_chief()):
            print(f"{run} is trained already")
            return
        # A trained model needs no other workers, and they may have ended.
        if trained:
            chosen = tf.distribute.get_strategy()
        else:
            chosen = strategies.strategy(strategy, devices=devices, timeout=worker_timeout)
        chief = strategies.workers(chosen)[0] == 0
    with _exit_on_errors(USAGE_ERROR), chosen.scope():
        pipelines = data_module.load(
            data,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            binarize=binarize,
            image_size=image_size,
            seed=seed,
        )
        keras.utils.set_random_seed(seed)
        if binarize and not isinstance(likelihood, Bernoulli):
            raise ValueError(
                "`--binarize` makes x 0 or 1, which needs `--likelihood Bernoulli`. Received: --likelihood "
                f"{type(likelihood).__name__}"
            )
        held_out = runs_module.held_out(pipelines)
        event_shape = held_out.shape[1:]
        encoder, decoder = run_training.make_networks(
            network, event_shape, latent_dim, likelihood, hidden, filters, activation
        )
        model = VAE(encoder, decoder, latent_dim, posterior, prior, likelihood, objective)
        model.check_data(held_out)
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(pipelines.train))
        model.compile(keras.optimizers.Adam(schedule), steps_per_execution=steps_per_execution, jit_compile=jit_compile)
        if chief and not trained:
            run_training.start(run, config_yaml, resume=resume, overwrite=overwrite)
    if not trained:
        try:
            run_training.fit(model, pipelines, run, epochs=epochs, save_freq=save_freq, chief=chief)
        except FloatingPointError as error:
            raise SystemExit(f"tfvae: {error}") from error
    if not chief:
        return
    # A copy made outside of the strategy: within it, the other workers would have to take part.
    model = runs_module.load_model(run)
    evaluation = runs_module.evaluation(model, held_out, num_samples, seed)
    print("\n" + evaluation)
    runs_module.write_picture(plots.history(run_training.history(run)), run / "history.png")
    runs_module.draw(model, held_out, run, seed)
    with _exit_on_errors(1):
        exports.write(model, Path(saved_models) / run.name, pipelines)
    # Written last, because its presence marks a complete run.
    files.write_text(run / "evaluation.txt", evaluation + "\n")
    print(f"\nWrote {run}/ (model.keras, history.csv, config.yaml, evaluation.txt and pictures)")


def evaluate(run: str = "runs/digits", data: str | None = None, num_samples: PositiveInt = 1000, seed: int = 0) -> None:
    """Prints the held-out ELBO, log-likelihood and KL divergence of a trained model.

    Args:
        run: the folder of the run.
        data: data other than the run's, by name or path; its held-out part is used.
        num_samples: draws of z per example for the importance-sampled log-likelihood.
        seed: seed of the draws.
    """
    with _exit_on_errors(USAGE_ERROR):
        model, pipelines = runs_module.load_model(Path(run)), runs_module.load_data(Path(run), data)
    print(runs_module.evaluation(model, runs_module.held_out(pipelines), num_samples, seed))


def generate(
    run: str = "runs/digits", output: str = "samples.png", n: PositiveInt = 64, sample: bool = False, seed: int = 0
) -> None:
    """Generates examples from the prior.

    Args:
        run: the folder of the run.
        output: the file to write: a picture (.png) or an array (.npy).
        n: number of examples.
        sample: draw from p(x|z), for synthetic data with the spread of real data, instead of taking its mean.
        seed: seed of the draws.
    """
    path = Path(output)
    with _exit_on_errors(USAGE_ERROR):
        if path.suffix not in (".png", ".npy"):
            raise ValueError(f"`--output` must end in .png or .npy. Received: {output}")
        model = runs_module.load_model(Path(run))
        x = model.generate(n, seed=seed, sample=sample)
        if path.suffix == ".png":
            runs_module.write_picture(plots.samples(x), path)
        else:
            with files.replacing(path) as written:
                np.save(written, x)
    print(f"Wrote {path}")


def export(
    run: str = "runs/digits",
    *,
    output: str | None = None,
    keep: PositiveInt | None = None,
    batching: bool = False,
    quantize: Literal["float16", "dynamic", "int8"] | None = None,
    format: Literal["onnx"] | None = None,
) -> None:
    """Exports a trained model to a SavedModel and two .tflite files, or to ONNX, and compares all with the Keras model.

    <name>.tflite takes batches of any size. <name>_batch1.tflite takes one example at a time, which GPUs of devices and
    browsers need.

    Args:
        run: the folder of the run.
        output: the folder to write to; by default saved_models/<name of the run>.
        keep: number of versions of the SavedModel to keep; by default all.
        batching: also write a batching.config, with which a server gathers requests; see docs/serving.md for the risks.
        quantize: makes the .tflite files smaller: float16 halves its weights, dynamic makes them int8, and int8 makes
            the activations int8 too.
        format: onnx writes <output>/onnx/ alone, a folder of ONNX models, which needs pip install 'tfvae[onnx]'; the
            three arguments above are then not for it.
    """
    folder = Path(output) if output else Path("saved_models") / Path(run).resolve().name
    with _exit_on_errors(USAGE_ERROR):
        if format is not None and (keep, batching, quantize) != (None, False, None):
            raise ValueError(
                "`--keep`, `--batching` and `--quantize` must not be given with `--format`. Received: "
                f"--format {format}"
            )
        model, pipelines = runs_module.load_model(Path(run)), runs_module.load_data(Path(run))
    with _exit_on_errors(1):
        if format == "onnx":
            exports.write_onnx(model, folder / "onnx", pipelines)
            return
        exports.write(model, folder, pipelines, keep, batching, quantize)


def verify(
    run: str = "runs/digits",
    *,
    saved_model: str | None = None,
    tflite: str | None = None,
    onnx: str | None = None,
    output: str | None = None,
) -> None:
    """Compares exported files with the Keras model that they were made from, on the held-out data.

    Args:
        run: the folder of the run.
        saved_model: the SavedModel to compare; a folder of versions means the newest.
        tflite: the .tflite file to compare.
        onnx: the folder of ONNX models to compare.
        output: a JSON file to which the comparison is written.
    """
    with _exit_on_errors(USAGE_ERROR):
        model, pipelines = runs_module.load_model(Path(run)), runs_module.load_data(Path(run))
        verification = export_module.verify(
            model, saved_model=saved_model, tflite=tflite, onnx=onnx, x=runs_module.held_out(pipelines)
        )
        if output:
            write_json(Path(output), verification.to_dict())
    print(verification)


def predict(
    *, model: str = "saved_models/digits", input: str, output: str, sample: bool = False, seed: int = 0
) -> None:
    """Runs an exported model: what its signature `serving_default` makes of the examples in a file.

    Args:
        model: a folder of versions, a SavedModel, a .tflite file or a folder of ONNX models.
        input: a .npy file of x [N, ...], in the units that the export takes: after `tfvae train` those of the source,
            such as pixels from 0 to 255, which the export scales itself.
        output: the .npz file to write, for a VAE with mean (in the same units), elbo, reconstruction_log_likelihood and
            kl at the mean of q(z|x), and the parameters of q(z|x).
        sample: also write sample, a draw of what the model takes each example for, with the spread of data, which the
            mean does not have.
        seed: seed of the draws.
    """
    with _exit_on_errors(USAGE_ERROR):
        if Path(input).suffix != ".npy":
            raise ValueError(f"`--input` must be a .npy file. Received: {input}")
        exported = export_module.load(model)
        x = np.load(input, allow_pickle=False)
        outputs = exported.predict(x)
        if "encode" in exported.signatures:
            outputs |= exported.encode(x)
        if sample:
            name = "reconstruct_sample"
            if name not in exported.signatures:
                raise ValueError(
                    "`--sample` needs an export that draws, which those for counts and those in int8 do not. Received: "
                    f"{exported!r}"
                )
            outputs["sample"] = exported.reconstruct_sample(x, **exported.noise(name, len(x), seed))
        # Opened here, because NumPy adds a suffix to a name.
        with files.replacing(Path(output)) as written, written.open("wb") as file:
            np.savez(file, **outputs)
    print(f"Wrote {output} ({', '.join(outputs)} of {len(x)} examples)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: the words after `tfvae`; None takes them from `sys.argv`.
    """
    parser = _Parser(prog="tfvae", description="Variational autoencoders, from training to TF Serving and the phone.")
    subcommands = parser.add_subcommands()
    parsers = {}
    for command in (train, evaluate, generate, export, verify, predict):
        parsers[command] = _command_parser(command)
        subcommands.add_subcommand(command.__name__, parsers[command])
    parsed = parser.parse_args(arguments)
    command = {command.__name__: command for command in parsers}[parsed.subcommand]
    chosen = parsed[parsed.subcommand]
    chosen.pop("config", None)
    with _exit_on_errors(USAGE_ERROR):
        keywords = vars(parsers[command].instantiate(chosen))
    if command is not train:
        command(**keywords)
        return
    # Around the whole command, because all workers take part in making the model too.
    with restart.on_lost_worker("--resume"):
        train(**keywords, config_yaml=parsers[train].dump(chosen, skip_unset=False))


class _Parser(ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _exit(message, USAGE_ERROR)


def _command_parser(command: Callable[..., None]) -> _Parser:
    """A parser whose flags are the arguments of a function; the first one is positional, unless it is keyword-only."""
    docstring = docstring_parser.parse(command.__doc__)
    signature = inspect.signature(command).parameters
    first = next(iter(signature.values()))
    parser = _Parser(description=docstring.short_description)
    parser.add_argument("--config", action="config", help="a YAML file of the arguments")
    skip: set[str | int] = {"config_yaml"}
    if first.kind is not first.KEYWORD_ONLY:
        parser.add_argument(first.name, nargs="?", default=first.default, help=docstring.params[0].description)
        skip.add(first.name)
    for parameter in docstring.params:
        if signature[parameter.arg_name].annotation is bool:
            # A flag without a value means true.
            parser.add_argument(
                f"--{parameter.arg_name}", type=bool, nargs="?", const=True, default=False, help=parameter.description
            )
            skip.add(parameter.arg_name)
    parser.add_function_arguments(command, as_group=False, skip=skip)
    if command is train:
        parser.set_defaults(_DEFAULT_PARTS)
    return parser


@contextlib.contextmanager
def _exit_on_errors(code: int) -> Iterator[None]:
    """Turns an error that the user can correct, or a refused export, into a one-line message and an exit code."""
    try:
        yield
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        _exit(str(error), code)


def _exit(message: str, code: int) -> NoReturn:
    print("tfvae: error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
