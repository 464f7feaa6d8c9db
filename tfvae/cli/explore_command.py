"""`tfvae explore`: the page on which the model of a run is explored in the browser."""

from pathlib import Path

from tfvae.cli import flags, noise, parser, paths, train_command


def explore(
    run: str = "runs/digits",
    output: str | None = None,
    runtime: str | None = None,
    single_file: bool = False,
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
        seed: seed of draws from the prior.
        allow_import: modules of your own with parts of the model.
    """
    folder = paths.check_run(run)
    noise.import_tensorflow()
    train_command.import_allowed(allow_import)
    from tfvae.cli import run_folder
    from tfvae.reporting.explorer import INSTALL, MOST_CLASSES, web

    with parser.exit_on_errors(parser.USAGE_ERROR):
        model = run_folder.load_model(folder)
        pipelines = run_folder.load_data(folder, None, model.table)
        x = run_folder.held_out(pipelines)
        labels = run_folder.labels(folder, len(x), most_classes=MOST_CLASSES)
        with noise.hidden():
            page = web(
                model,
                folder / "explore" if output is None else Path(output),
                x,
                labels=labels,
                title=folder.resolve().name,
                offset=pipelines.offset,
                scale=pipelines.scale,
                runtime=runtime,
                single_file=single_file,
                seed=seed,
            )
    print(f"Wrote {page}" + ("" if single_file else f": python -m http.server --directory {page.parent} shows it"))
    if runtime is None:
        print(f"The page fetches LiteRT.js from a CDN; with --runtime, after `{INSTALL}`, it needs no other server.")
