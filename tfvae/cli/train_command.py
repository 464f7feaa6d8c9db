"""The command `tfvae train`: its flags, and what it does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from tfvae import files
from tfvae.cli import chosen_callbacks, ending, flags, noise, record, yaml_files
from tfvae.cli.parser import USAGE_ERROR, exit_on_errors
from tfvae.cli.train_checks import check_callbacks, import_allowed
from tfvae.data import tables

if TYPE_CHECKING:
    from tfvae.cli.run_training import RunLock

GROUPS = {
    "data": ("data", "batch_size", "validation_fraction", "binarize", "image_size", "skip_unreadable"),
    "columns of a table": ("drop", "columns", "kinds", "label"),
    "time series": ("sequence", "time", "by", "length", "stride", "step"),
    "networks": ("network", "hidden", "filters", "activation", "latent_dim"),
    "parts of the model": ("posterior", "prior", "likelihood", "objective", "allow_import"),
    "training": (
        *("learning_rate", "schedule", "ema", "epochs", "early_stopping", "callbacks"),
        *("steps_per_execution", "jit_compile", "seed", "seeds", "split_seed"),
    ),
    "devices": ("strategy", "devices", "worker_timeout"),
    "after the training": ("evaluate", "num_samples", "pictures", "report", "export", "latency"),
    "the run and its files": ("name", "runs", "saved_models", "save_freq", "resume", "overwrite"),
}


def train(
    data: str = "digits",
    *,
    name: str | None = None,
    batch_size: flags.Count = 32,
    validation_fraction: Annotated[float, flags.FRACTION] = 0.2,
    binarize: Literal["dynamic", "threshold"] | None = None,
    image_size: Annotated[Sequence[int] | None, flags.optional(flags.IMAGE_SIZE)] = None,
    skip_unreadable: bool = False,
    drop: Annotated[Sequence[str] | None, flags.optional(flags.COLUMN_NAMES)] = None,
    columns: Annotated[Sequence[str] | None, flags.optional(flags.COLUMN_NAMES)] = None,
    kinds: Annotated[Mapping[str, str] | None, flags.optional(flags.COLUMN_KINDS)] = None,
    label: str | None = None,
    sequence: bool = False,
    time: str | None = None,
    by: str | None = None,
    length: Annotated[int | None, flags.optional(flags.LENGTH)] = None,
    stride: Annotated[int | None, flags.optional(flags.COUNT)] = None,
    step: Annotated[str | float | None, flags.optional(flags.STEP)] = None,
    network: Literal["dense", "convolutional", "residual", "temporal", "recurrent", "transformer"] = "dense",
    hidden: Annotated[Sequence[int], flags.WIDTHS] = (256, 128),
    filters: Annotated[Sequence[int], flags.WIDTHS] = (32, 64),
    activation: str = "silu",
    latent_dim: Annotated[int, flags.LATENT_DIM] = 8,
    posterior: Any,
    prior: Any,
    likelihood: Any,
    objective: Any,
    allow_import: flags.Modules = (),
    learning_rate: Annotated[float, flags.POSITIVE] = 2e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    ema: Annotated[float | None, flags.optional(flags.FRACTION)] = None,
    epochs: flags.Count = 120,
    early_stopping: Annotated[int | None, flags.optional(flags.COUNT)] = None,
    callbacks: Annotated[Sequence[Any] | None, flags.CALLBACKS] = None,
    steps_per_execution: flags.Count = 1,
    jit_compile: Annotated[bool | Literal["auto"], flags.either(flags.SWITCH, flags.choice(["auto"]))] = "auto",
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto",
    devices: Annotated[int | None, flags.optional(flags.DEVICES)] = None,
    worker_timeout: Annotated[float, flags.POSITIVE] = 300.0,
    save_freq: Annotated[int | Literal["epoch"], flags.either(flags.COUNT, flags.choice(["epoch"]))] = "epoch",
    resume: bool = False,
    evaluate: bool = True,
    num_samples: flags.Count = 1000,
    pictures: bool = True,
    report: bool = True,
    export: Literal["all", "saved_model", "tflite", "none"] = "all",
    latency: bool = True,
    seed: flags.Seed = 0,
    seeds: Annotated[Sequence[int] | None, flags.optional(flags.SEEDS)] = None,
    split_seed: Annotated[int | None, flags.optional(flags.SEED)] = None,
    runs: str = "runs",
    saved_models: str = "saved_models",
    overwrite: bool = False,
    config_yaml: str = "",
    command: str,
    warnings_given: record.Warnings,
    run_lock: "RunLock",
) -> None:
    """Trains a VAE, calibrates and evaluates it on held-out data, draws pictures, writes a report and exports it.

    Writes <runs>/<name>/ (model.keras, history.csv, config.yaml, training.json, evaluation.txt, report.html,
    reconstructions.png, samples.png, latent.png, history.png; for a table table.txt, and marginals.png and
    anomalies.png in the place of the first two pictures; for time series series.json and
    anomalies.png too), and in <saved_models>/<name>/ the exports <version>/,
    <name>.tflite and <name>_batch1.tflite.

    Args:
        data: digits, mnist, fashion_mnist, cifar10, cifar100, a .npy, .npz, .csv or .parquet file, an image folder, or
            several .tfrecord, .npy or .npz files, as a folder or a pattern with * (then give --name).
        name: name of the run and of the exported model; by default the name of the data.
        batch_size: number of examples in a batch.
        validation_fraction: share of the data that is held out, unless the data set has a test split of its own.
        binarize: makes values in [0, 1] binary: dynamic draws them anew in each epoch, threshold compares with 0.5.
        image_size: height and width to which the images of a folder are resized, such as 32 or 32,48.
        skip_unreadable: leave out the images of a folder that cannot be read, with a warning that counts them.
        drop: columns of a table to leave out, such as "note,zip".
        columns: the columns of a table to take; by default all.
        kinds: what columns of a table are, such as age=count,zip=category, where the table that is printed at the start
            is wrong; a kind is number, count, bool, category, date, constant or identifier.
        label: column of a table that colours the latent space in the report; the model learns it too, unless --drop
            has it.
        sequence: the data are time series, each row of a table or of an array one step, which are cut into windows; the
            last part of the time is held out. The channels are the columns, but for those of --time, --by and --drop.
        time: column with the time of each row, a number or a date; by default the order of the rows.
        by: column that says which series a row belongs to, such as machine.
        length: number of steps of a window; by default, with --by, a whole sequence.
        stride: number of steps from the start of a window of the training to that of the next; by default an eighth of
            a window.
        step: time from one step to the next, such as 10min, "1 month" or a number; by default the median.
        network: kind of encoder and decoder; the last three are for time series.
        hidden: widths of the encoder's dense layers, such as 256,128; the decoder mirrors them.
        filters: filters of the encoder's convolutions, or of each resolution of residual networks, such as 32,64; the
            decoder mirrors them. For time series the first of them is the number of features of each step.
        activation: the networks' activation function, by its Keras name.
        latent_dim: dimension of the latent space.
        posterior: the family of the approximate posterior q(z|x).
        prior: the prior p(z).
        likelihood: the likelihood p(x|z); for a table, that of its numbers, whose learned scale is one for each column,
            and for time series that of the channels, whose learned scale is one for each channel.
        objective: the bound that training maximises.
        allow_import: modules of your own, such as my_parts, whose classes may be parts of the model.
        learning_rate: Adam's initial learning rate.
        schedule: how the learning rate goes on: cosine falls to 0 along a cosine, constant leaves it to callbacks.
        ema: momentum of averages of the weights over the steps, such as 0.999; the held-out bound of each epoch and the
            model are then those of the averages. By default, there are none.
        epochs: number of passes over the training data, at most.
        early_stopping: number of epochs without a new highest held-out bound, val_elbo, after which the training ends;
            the model is then that of the best epoch.
        callbacks: callback of Keras or tfvae, such as TensorBoard, Pictures or ReduceLROnPlateau, or the class path of
            another; its arguments follow, such as --callbacks.patience 3. Given again, it adds one.
        steps_per_execution: number of steps that run in one call of TensorFlow.
        jit_compile: compile the steps with XLA; auto where that is faster.
        strategy: how to use several devices: auto, one_device, mirrored, multi_worker (each worker runs this command,
            with its own TF_CONFIG) or tpu.
        devices: number of devices for mirrored; without GPUs the CPU is split into that many.
        worker_timeout: seconds to wait for the other workers.
        save_freq: number of steps between two checkpoints, or epoch for one after each epoch.
        resume: continue the training of this name if it was interrupted.
        evaluate: compute the held-out bound and log-likelihood after the training.
        num_samples: draws of z per example for the importance-sampled log-likelihood.
        pictures: draw reconstructions, samples, the latent space and the history after the training.
        report: write report.html after the training: the evaluation and pictures of all kinds in one page.
        export: what to export after the training.
        latency: measure the latency of the exports.
        seed: seed of the weights, the noise, the split and the order of the data.
        seeds: seeds such as 0,1,2, each of which makes a run <name>/seed-<seed>, on the same split; those that are
            complete are left, and one that was interrupted goes on. Then compares them, as compare does.
        split_seed: seed of the split and the order of the data; by default that of --seed, or 0 with --seeds.
        runs: folder of the runs.
        saved_models: folder of the exported models.
        overwrite: overwrite an earlier run of this name.
        config_yaml: the text of the run's config.yaml; the command line supplies it.
        command: the command as it was typed; the command line supplies it.
        warnings_given: notes the warnings; the command line supplies it.
        run_lock: keeps other processes from training this run; the command line supplies it.
    """
    import keras
    import tensorflow as tf

    from tfvae import data as data_module
    from tfvae import plots
    from tfvae.cli import exports, run_training, series_run, table_run
    from tfvae.cli import run_folder as runs_module
    from tfvae.cli.history import history
    from tfvae.distribute import strategies
    from tfvae.export import units
    from tfvae.export.metadata import write_json
    from tfvae.models.vae import VAE
    from tfvae.reporting import rows_of_table
    from tfvae.reporting.measures import measure
    from tfvae.reporting.unusual_windows import unusual_windows as unusual_windows_of

    with exit_on_errors(USAGE_ERROR):
        import_allowed(allow_import)
        chosen_by_name = check_callbacks(callbacks, allow_import, schedule, data, sequence)
        for path, arguments in chosen_by_name:
            chosen_callbacks.resolve(path, arguments)
        name = name or Path(data).stem
        run = Path(runs) / name
        if run.exists() and strategies.is_chief():
            run_lock.lock(run)
        trained = resume and run_training.is_trained(run, epochs)
        if trained:
            config = yaml_files.read(run / "config.yaml")
            run_training.check_same(config, yaml.safe_load(config_yaml), run)
        if trained and ((run / "evaluation.txt").exists() or not strategies.is_chief()):
            print(f"{run} is trained already")
            return
        # A trained model needs no other workers, and they may have ended.
        if trained:
            chosen = tf.distribute.get_strategy()
        else:
            chosen = strategies.strategy(strategy, devices=devices, timeout=worker_timeout)
            ending.catch_sigterm_again()
        worker, workers = strategies.workers(chosen)
        chief = worker == 0
        if early_stopping is not None and workers > 1:
            raise ValueError(f"`--early_stopping` must not be given for several workers. Received: {workers} workers")
    with exit_on_errors(USAGE_ERROR), chosen.scope():
        data_seed = seed if split_seed is None else split_seed
        rows, of_series = None, None
        model_parts = {"posterior": posterior, "prior": prior, "objective": objective}
        if sequence:
            of_series = data_module.load_series(
                data,
                length,
                time=time,
                by=by,
                step=step,
                stride=stride,
                drop=drop or (),
                columns=columns,
                batch_size=batch_size,
                validation_fraction=validation_fraction,
                seed=data_seed,
            )
            pipelines = of_series.pipelines
        elif tables.is_table(data):
            rows = data_module.load_rows(
                data,
                kinds=kinds,
                drop=drop or (),
                columns=columns,
                batch_size=batch_size,
                validation_fraction=validation_fraction,
                seed=data_seed,
            )
            pipelines = rows.pipelines
        else:
            pipelines = data_module.load(
                data,
                batch_size=batch_size,
                validation_fraction=validation_fraction,
                binarize=binarize,
                image_size=None if image_size is None else (image_size[0], image_size[1]),
                skip_unreadable=skip_unreadable,
                seed=data_seed,
            )
        keras.utils.set_random_seed(seed)
        held_out = runs_module.held_out(pipelines)
        if rows is not None:
            model = table_run.make_model(rows.table, likelihood, latent_dim, tuple(hidden), activation, **model_parts)
        elif of_series is not None:
            widths = tuple(hidden), tuple(filters)
            model = series_run.make_model(
                of_series.series, network, likelihood, latent_dim, *widths, activation, **model_parts
            )
            if export != "none":
                # Otherwise only the exports, after the training, would say that float32 has too few digits.
                units.make(model, None, None)
        else:
            encoder, decoder = run_training.make_networks(
                network, held_out.shape[1:], latent_dim, likelihood, tuple(hidden), tuple(filters), activation
            )
            model = VAE(encoder, decoder, latent_dim, likelihood=likelihood, **model_parts)
        model.check_data(held_out)
        rate: Any = learning_rate
        if schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(pipelines.train))
        averaging = {} if ema is None else {"use_ema": True, "ema_momentum": ema}
        optimizer = keras.optimizers.Adam(rate, **averaging)
        model.compile(optimizer, steps_per_execution=steps_per_execution, jit_compile=jit_compile)
        further = []
        if not trained:
            metrics = run_training.metrics(model)
            further = chosen_callbacks.make(chosen_by_name, run, held_out, metrics, workers, chief=chief)
        if chief and not trained:
            run_lock.lock(run)
            run_training.start(run, config_yaml, resume=resume, overwrite=overwrite)
            if rows is not None:
                files.write_text(run / "table.txt", f"{rows.table}\n")
                print(f"{rows.table}\n")
            if of_series is not None:
                write_json(run / "series.json", of_series.series.get_config())
                print(f"{of_series.series}\n")
        if chief:
            record.add_texts(run, "commands", [command])
            warnings_given.keep_in(run)
    if not trained:
        run_training.fit(
            model,
            pipelines,
            run,
            epochs=epochs,
            save_freq=save_freq,
            chief=chief,
            patience=early_stopping,
            chosen=further,
        )
    if not chief:
        return
    # A copy made outside of the strategy: within it, the other workers would have to take part.
    model = runs_module.load_model(run)
    if model.decision is None and model.likelihood.factorises:
        if of_series is None:
            runs_module.calibrate(model, run, held_out)
        else:
            series_run.calibrate(model, run, of_series.after)
    evaluation, measures = "left out by --evaluate false", None
    if evaluate:
        measures = measure(model, held_out, num_samples, seed)
        evaluation = runs_module.evaluation(model, held_out, measures)
        record.add(run, **runs_module.measured(model, held_out, measures, seed))
        print("\n" + evaluation)
    if rows is not None:
        held_out_rows = rows.held_out.head(len(held_out))
        unusual = None if model.decision is None else rows_of_table.unusual_rows(model, rows.table, held_out_rows)
        if unusual is not None:
            print(f"\nThe most unusual held-out rows, with what adds most to their scores:\n{unusual}")
    if of_series is not None and model.decision is not None:
        unusual_windows = unusual_windows_of(model, of_series.held_out)
        print(f"\nThe most unusual held-out windows, with what adds most to their scores:\n{unusual_windows}")
    if pictures:
        epochs_of_run = history(run)
        if epochs_of_run:
            runs_module.write_picture(plots.history(epochs_of_run), run / "history.png")
        if rows is not None:
            table_run.draw(model, rows.table, held_out, held_out_rows, unusual, run, seed)
        elif of_series is not None:
            series_run.draw(model, of_series.held_out, run, seed)
        else:
            runs_module.draw(model, held_out, run, seed)
    verification = None
    if export != "none":
        with exit_on_errors(1), noise.hidden():
            folder, card = Path(saved_models) / run.name, runs_module.card(run, evaluation)
            verification = exports.write(model, folder, pipelines, card, formats=export, latency=latency)
    if verification is not None:
        sizes = {cost.format: cost.size for cost in verification.costs if cost.size is not None}
        record.add(run, bytes=sizes)
    if report:
        data_of_report = held_out if rows is None else held_out_rows
        runs_module.report(
            model,
            run,
            pipelines,
            data_of_report,
            measures,
            verification,
            num_samples,
            seed,
            label=label,
            numbers=None if of_series is None else series_run.times_of(of_series.held_out),
        )
    # Written last, because its presence marks a complete run.
    files.write_text(run / "evaluation.txt", evaluation + "\n")
    print(
        f"\nWrote {run}/ (model.keras, history.csv, config.yaml, evaluation.txt"
        f"{', pictures' if pictures else ''}{', report.html' if report else ''})"
    )
