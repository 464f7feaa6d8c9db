"""`tfvae explore`: the page on which the model of a run is explored in the browser."""

from pathlib import Path
from typing import Annotated, Any

from tfvae.cli import flags, noise, parser, paths, train_checks


def explore(
    run: str = "runs/digits",
    output: str | None = None,
    runtime: str | None = None,
    single_file: bool = False,
    examples: Annotated[int | None, flags.optional(flags.integer(0, flags.MOST))] = None,
    label: str | None = None,
    seed: flags.Seed = 0,
    allow_import: flags.Modules = (),
) -> None:
    """Writes a page to explore a trained model in the browser: sliders, a map, scores of one's own examples, samples.

    The page is static, and the model runs in it by LiteRT.js. Any web server shows it, such as
    python -m http.server --directory <output>.

    Args:
        run: the folder of the run.
        output: folder for the page; by default explore in the folder of the run.
        runtime: the folder node_modules after "npm install @litertjs/core@2.5.3", whose files are copied; without it
            the page fetches LiteRT.js from a CDN, and checks its hashes.
        single_file: put everything into one index.html, which opens without a server; needs --runtime.
        examples: how many held-out examples can be chosen on the page, which holds them; by default 24, and no rows of
            a table, which may be of persons: the page then has a typical row alone.
        label: the column of a table that colours the map; by default that of the training.
        seed: seed of draws from the prior.
        allow_import: modules of your own with parts of the model.
    """
    with parser.exit_on_errors(parser.USAGE_ERROR):
        folder = paths.check_run(run)
        noise.import_tensorflow()
        train_checks.import_allowed(allow_import)
    from tfvae.cli import run_folder
    from tfvae.reporting.explorer import INSTALL, MOST_CLASSES, web

    with parser.exit_on_errors(parser.USAGE_ERROR):
        model = run_folder.load_model(folder)
        labels: Any
        if model.table is None:
            pipelines = run_folder.load_data(folder, series=model.series)
            x = run_folder.held_out(pipelines)
            if label is not None:
                raise ValueError(f"`--label` must be given for the run of a table alone. Received: --label {label}")
            # The classes of windows are not known, and their units are in the model.
            is_series = model.series is not None
            labels = None if is_series else run_folder.labels(folder, len(x), most_classes=MOST_CLASSES)
            units = {} if is_series else {"offset": pipelines.offset, "scale": pipelines.scale}
        else:
            x = run_folder.load_rows(folder, model.table).held_out
            labels = run_folder.read_config(folder).get("label") if label is None else label
            units = {}
        with noise.hidden():
            page = web(
                model,
                folder / "explore" if output is None else Path(output),
                x,
                labels=labels,
                num_examples=examples,
                title=folder.resolve().name,
                **units,
                runtime=runtime,
                single_file=single_file,
                seed=seed,
            )
    print(f"Wrote {page}" + ("" if single_file else f": python -m http.server --directory {page.parent} shows it"))
    if runtime is None:
        print(f"The page fetches LiteRT.js from a CDN; with --runtime, after `{INSTALL}`, it needs no other server.")
