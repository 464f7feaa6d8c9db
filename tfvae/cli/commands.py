"""The command line, `tfvae`: `train`, `evaluate`, `generate`, `export`, `verify`, `predict`, `detect`, and so on.

Each command is a function, and its arguments are the command's flags. Their help texts are the descriptions under
`Args:`. The parts of the model are chosen by class name: `--likelihood Normal --likelihood.scale 0.1`.

TensorFlow is imported inside the functions, once the arguments are valid and the files exist.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings

import tfvae
from tfvae import files
from tfvae.cli import (
    chosen_callbacks,
    flags,
    noise,
    parser,
    parts,
    paths,
    seeds,
    train_checks,
    train_command,
    yaml_files,
)
from tfvae.cli.compare_command import compare
from tfvae.cli.detect_command import detect
from tfvae.cli.explore_command import explore
from tfvae.cli.predict_command import predict
from tfvae.cli.train_command import train
from tfvae.data import tables

if TYPE_CHECKING:
    from tfvae.data import Pipelines
    from tfvae.models.vae import VAE

_MOST_IN_A_PICTURE = 10_000
_load_yaml = yaml_files.checked(get_loader("yaml"))


def evaluate(
    run: str = "runs/digits",
    data: str | None = None,
    num_samples: flags.Count = 1000,
    seed: flags.Seed = 0,
    allow_import: flags.Modules = (),
) -> None:
    """Prints the held-out ELBO, log-likelihood and KL divergence of a trained model, as far as it has them.

    Args:
        run: the folder of the run.
        data: data other than the run's, by name or path; its held-out part is used.
        num_samples: draws of z per example for the importance-sampled log-likelihood.
        seed: seed of the draws.
        allow_import: modules of your own with parts of the model.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        if data is not None:
            paths.check_data(data)
        model, pipelines = _load(run, allow_import, data)
    from tfvae.cli import run_folder as runs_module
    from tfvae.reporting.measures import measure

    x = runs_module.held_out(pipelines)
    print(runs_module.evaluation(model, x, measure(model, x, num_samples, seed)))


def generate(
    run: str = "runs/digits",
    output: str = "samples.png",
    n: flags.Count = 64,
    sample: bool = False,
    seed: flags.Seed = 0,
    allow_import: flags.Modules = (),
) -> None:
    """Generates examples from the prior.

    Args:
        run: the folder of the run.
        output: the file to write: a picture (.png), an array (.npy) in the units of the run's data or, for a run of a
            table, rows with its columns (.csv or .parquet); the picture then shows its columns beside those of real
            rows. For a run of time series a table has a row for each step of each sample.
        n: number of examples.
        sample: draw from p(x|z), for synthetic data with the spread of real data, instead of taking its mean.
        seed: seed of the draws.
        allow_import: modules of your own with parts of the model.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        path = paths.check_output(output, ".png", ".npy", *tables.SUFFIXES)
        if path.suffix == ".png" and n > _MOST_IN_A_PICTURE:
            raise ValueError(f"`--n` must be at most {_MOST_IN_A_PICTURE} for a picture. Received: {n}")
        model = _load_model(run, allow_import, with_data=path.suffix != ".png")
        from tfvae import plots
        from tfvae.cli import run_folder as runs_module

        is_array = path.suffix == ".npy"
        if model.table is not None and is_array:
            raise ValueError(f"`--output` must end in .png, .csv or .parquet for a run of a table. Received: {output}")
        # Read before anything is made: the data of the run may be no table.
        is_plain = model.table is None and model.series is None
        names = runs_module.column_names(Path(run)) if tables.is_table(path) and is_plain else None
        made = model.generate(n, seed=seed, sample=sample)
        if path.suffix == ".png":
            if model.series is not None:
                picture = plots.series(model.series.raw(made), channels=model.series.channels, max_examples=8)
            elif model.table is None:
                picture = plots.samples(made)
            else:
                real = runs_module.load_rows(paths.check_run(run), model.table).held_out
                picture = plots.marginals(real, made, model.table.kinds)
            runs_module.write_picture(picture, path)
        else:
            if model.series is not None:
                made = model.series.raw(made)
                made = made if is_array else model.series.frame_of_windows(made)
            elif model.table is None:
                pipelines = runs_module.load_data(Path(run))
                units = model.export_units(pipelines.offset, pipelines.scale)["sample" if sample else "mean"]
                made = made if units is None else made * units[1] + units[0]
            with files.replacing(path) as written:
                if is_array:
                    np.save(written, made)
                else:
                    tables.write(made, written, names)
    print(f"Wrote {path}")


def export(
    run: str = "runs/digits",
    *,
    output: str | None = None,
    keep: Annotated[int | None, flags.optional(flags.COUNT)] = None,
    batching: bool = False,
    quantize: Literal["float16", "dynamic", "int8"] | None = None,
    latency: bool = True,
    format: Literal["onnx"] | None = None,
    threshold: Annotated[float | None, flags.optional(flags.NUMBER)] = None,
    false_alarm_rate: Annotated[float | None, flags.optional(flags.RATE)] = None,
    contamination: Annotated[float | None, flags.optional(flags.RATE)] = None,
    allow_import: flags.Modules = (),
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
        latency: measure the latency of the exports.
        format: onnx writes <output>/onnx/ alone, a folder of ONNX models, which needs pip install 'tfvae[onnx]'; the
            arguments keep, batching and quantize are then not for it.
        threshold: calibrates the model before, so that what has a score above this, in nats above that of typical
            held-out data, is an anomaly. model.keras of the run gets it too.
        false_alarm_rate: the same with the threshold that this share of data like the held-out ones is above.
        contamination: the same for held-out data of which this share are anomalies.
        allow_import: modules of your own with parts of the model.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        if format is not None and (keep, batching, quantize) != (None, False, None):
            raise ValueError(
                "`--keep`, `--batching` and `--quantize` must not be given with `--format`. Received: "
                f"--format {format}"
            )
        given = {"threshold": threshold, "false_alarm_rate": false_alarm_rate, "contamination": contamination}
        calibration = {name: value for name, value in given.items() if value is not None}
        if len(calibration) > 1:
            raise ValueError(
                "At most one of `--threshold`, `--false_alarm_rate` and `--contamination` must be given. Received: "
                + " ".join(f"--{name} {value:g}" for name, value in calibration.items())
            )
        folder = Path(output) if output else Path("saved_models") / paths.name_of(run)
        paths.check_export(folder, "--output")
        model, pipelines = _load(run, allow_import)
        from tfvae.cli import exports
        from tfvae.cli import run_folder as runs_module
        from tfvae.cli.run_training import RunLock

        if calibration:
            with RunLock() as run_lock:
                run_lock.lock(Path(run))
                if model.series is None:
                    runs_module.calibrate(model, Path(run), runs_module.held_out(pipelines), **calibration)
                else:
                    from tfvae.cli import series_run

                    after = runs_module.load_series(Path(run), model.series).after
                    series_run.calibrate(model, Path(run), after, **calibration)

    with parser.exit_on_errors(1), noise.hidden():
        if format == "onnx":
            exports.write_onnx(model, folder / "onnx", pipelines, latency=latency)
            return
        card = runs_module.card(Path(run))
        exports.write(model, folder, pipelines, card, keep, batching, quantize, latency=latency)


def verify(
    run: str = "runs/digits",
    *,
    saved_model: str | None = None,
    tflite: str | None = None,
    onnx: str | None = None,
    output: str | None = None,
    latency: bool = True,
    allow_import: flags.Modules = (),
) -> None:
    """Compares exported files with the Keras model that they were made from, on the held-out data.

    Args:
        run: the folder of the run.
        saved_model: the SavedModel to compare; a folder of versions means the newest.
        tflite: the .tflite file to compare.
        onnx: the folder of ONNX models to compare.
        output: a JSON file to which the comparison is written.
        latency: measure the latency of the files too.
        allow_import: modules of your own with parts of the model.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        given = {"saved_model": saved_model, "tflite": tflite, "onnx": onnx}
        if not any(given.values()):
            raise ValueError(f"What to compare must be given: `--{'` or `--'.join(given)}`. Received: none of them")
        for name, path in given.items():
            if path is not None:
                paths.check_existing(path, f"--{name}", "an exported file or folder")
        written = paths.check_output(output, ".json") if output else None
        model, pipelines = _load(run, allow_import)
        from tfvae import export as export_module
        from tfvae.cli import exports
        from tfvae.cli import run_folder as runs_module
        from tfvae.export.metadata import write_json

        x, timed_calls = runs_module.held_out(pipelines), exports.timed_calls(latency)
        with noise.hidden():
            verification = export_module.verify(
                model, saved_model=saved_model, tflite=tflite, onnx=onnx, x=x, timed_calls=timed_calls
            )
        if written:
            write_json(written, verification.to_dict())
    print(verification)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: the words after `tfvae`; None takes them from `sys.argv`.
    """
    set_loader("yaml", _load_yaml, (yaml.YAMLError,))
    words = parser.with_underscores(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        with parser.exit_on_errors(parser.USAGE_ERROR):
            words = chosen_callbacks.folded(words, _load_yaml)
    commands = (train, evaluate, generate, export, verify, predict, detect, explore, compare)
    parsers = {command.__name__: _command_parser(command) for command in commands}
    others, choices = parts.split(words) if words[:1] == ["train"] else (words, [])
    name, chosen = _parse(parsers, others)
    if name != "train":
        with parser.exit_on_errors(parser.USAGE_ERROR):
            keywords = vars(parsers[name].instantiate(chosen))
        {command.__name__: command for command in commands}[name](**keywords)
        return
    allowed = chosen.allow_import
    # What --print_config and --likelihood.help print is known only to the parts.
    if chosen.print_config is None and all(argument != "help" for _, argument, _ in choices):
        with parser.exit_on_errors(parser.USAGE_ERROR):
            train_checks.check(chosen, choices)
    noise.import_tensorflow()
    from tfvae.cli.run_training import RunLock
    from tfvae.distribute import strategies

    with parser.exit_on_errors(parser.USAGE_ERROR), _only_imports_from("tfvae", *allowed):
        parsers["train"] = _command_parser(train, part_types=_part_types())
        _, chosen = _parse(parsers, words)
        runs = seeds.choices(chosen)
        # All at once, because classes of other modules can be imported only here.
        instantiated = [vars(parsers["train"].instantiate(one)) for one in runs]
        configs = [parsers["train"].dump(one, skip_unset=False) for one in runs]

    typed = shlex.join(["tfvae", *(sys.argv[1:] if arguments is None else arguments)])

    def train_run(index: int) -> None:
        # Around the whole command, because all workers take part in making the model too.
        with RunLock() as run_lock, strategies.naming_a_lost_worker(), noise.noted_warnings() as given:
            texts = {"config_yaml": configs[index], "command": typed, "warnings_given": given}
            train(**instantiated[index], **texts, run_lock=run_lock)

    if chosen.seeds is not None:
        seeds.train_each(runs, configs, train_run)
        return
    try:
        train_run(0)
    except FloatingPointError as error:
        raise SystemExit(f"tfvae: {error}") from error


def _command_parser(command: Any, part_types: dict[str, type] | None = None) -> parser.Parser:
    groups = train_command.GROUPS if command is train else {}
    return parser.command_parser(
        command, groups, skip=["config_yaml", "command", "warnings_given", "run_lock"], part_types=part_types
    )


def _parse(parsers: dict[str, parser.Parser], words: Sequence[str]) -> tuple[str, Namespace]:
    """The name of the command, and its arguments."""
    top = parser.Parser(
        prog="tfvae",
        description="Variational autoencoders, from training to TF Serving and the phone.",
        version=tfvae.__version__,
        allow_abbrev=False,
    )
    top.known_flags = [flag for each in parsers.values() for flag in each.known_flags]
    top.commands = list(parsers)
    subcommands = top.add_subcommands()
    for name, each in parsers.items():
        subcommands.add_subcommand(name, each, help=each.description)
    parsed = top.parse_args(words)
    chosen = parsed[parsed.subcommand]
    chosen.pop("config", None)
    return parsed.subcommand, chosen


def _part_types() -> dict[str, type]:
    from tfvae.likelihoods import Likelihood
    from tfvae.objectives import Objective
    from tfvae.posteriors import Posterior
    from tfvae.priors import Prior

    return {"posterior": Posterior, "prior": Prior, "likelihood": Likelihood, "objective": Objective}


@contextlib.contextmanager
def _only_imports_from(*modules: str) -> Iterator[None]:
    """Lets the parser import only from these modules, because importing a module runs its code."""
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(modules))
    try:
        yield
    finally:
        # jsonargparse has no way to forget a module, only to deny it again.
        set_parsing_settings(import_path_denylist=list(modules))


def _load_model(run: str, modules: Sequence[str], *, with_data: bool = True) -> "VAE":
    """Loads the model of a run; its parts may come from `modules`."""
    folder = paths.check_run(run, with_data=with_data)
    noise.import_tensorflow()
    train_checks.import_allowed(modules)
    from tfvae.cli import run_folder as runs_module

    return runs_module.load_model(folder)


def _load(run: str, modules: Sequence[str], data: str | None = None) -> tuple["VAE", "Pipelines"]:
    """Loads the model of a run, and its data or others."""
    model = _load_model(run, modules)
    from tfvae.cli import run_folder as runs_module

    return model, runs_module.load_data(Path(run), data, model.table, model.series)
