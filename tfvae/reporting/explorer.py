"""A static page on which a model is explored in the browser: it runs the .tflite file by LiteRT.js."""

import base64
import gzip
import html
import importlib.resources
import json
import os
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks, files
from tfvae.data.schema import frame_of, is_rows
from tfvae.export.device import tflite
from tfvae.exportable import weight_count
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE
from tfvae.reporting import page_data
from tfvae.reporting.subject import classes

# The version of LiteRT.js that was tested, and the SHA-384 of each of its files that the page loads.
_VERSION = "2.5.3"
_RUNTIME = {
    "core": ("core/dist/index.js", "MapSVJ/DPwvaWpp7q+Bid9O3uY1oB0KOU1QRMP+Mm5zdz5oMme/BUyX6dVAMWnPg"),
    "utils": ("wasm-utils/dist/index.js", "HIPwlWsctS5BRqrnvJKDVJ8SvqKB0QmiImdr6+hpP7+8UqeMJX/qrBkdfKQV2WZ/"),
    "glue": (
        "core/wasm/litert_wasm_compat_internal.js",
        "oh4nb8zDq6eVOpGeZE5gwDOJ16QujHLL8k/HEXt3XiPxr+8zn3YnkXP8P3BlJET1",
    ),
    "wasm": (
        "core/wasm/litert_wasm_compat_internal.wasm",
        "glAZ6WjS7tLRt89pbTPXvLC1c7DCaVSfL2ngn5gZJiUuPs76fWYJy7ZeFaD0PJXx",
    ),
}
_CDN = "https://cdn.jsdelivr.net/npm/@litertjs/"
# How LiteRT.js is fetched.
INSTALL = f"npm install @litertjs/core@{_VERSION}"
# The parts of the script, which is one module, in their order.
_SCRIPTS = ("model.js", "paint.js", "rows.js", "examine.js", "explore.js")
# How many examples of arrays the page has to choose from, how many points its map has, and how many classes its legend.
_EXAMPLES, _POINTS, MOST_CLASSES = 24, 500, 14


def web(
    model: VAE,
    folder: str | os.PathLike[str],
    x: Any,
    *,
    labels: Any = None,
    num_examples: int | None = None,
    title: str | None = None,
    offset: Any = None,
    scale: Any = None,
    runtime: str | os.PathLike[str] | None = None,
    single_file: bool = False,
    seed: int = 0,
) -> Path:
    """Writes a page on which z is moved by sliders and on a map, examples are scored, and samples are drawn.

    The page is static: any web server can serve the folder. The model runs in the browser, by LiteRT.js; what is drawn
    or dropped on the page stays there.

    Args:
        model: a `tfvae.VAE` without conditions, whose z are real vectors. For a model of a table, the page has a form
            with a field for each column, and takes rows of a .csv file. Windows of time series [T, C] are drawn as a
            line for each of the first 8 channels; a .csv file then has a column for each channel.
        folder: the folder, made if it is not there; index.html and the files of an earlier page are replaced.
        x: examples [N, ...] in the model's units, or rows for a model of a table; at least 2, such as held-out data.
            z of the first 500 are the points of the map.
        labels: the class of each example [N], of at most 14, which colours the map; or None. For a model of a table
            also the name of a column of `x`.
        num_examples: how many examples can be chosen on the page, which holds them, from the first on. None means 24 of
            arrays, and no rows of a table, because these may be of persons: the page then has a typical row alone.
        title: the title; None means the name of the folder.
        offset: see `tfvae.export.tflite`; a model that has `series` has its own.
        scale: see `tfvae.export.tflite`.
        runtime: the folder node_modules in which `npm install @litertjs/core` put LiteRT.js, whose files are copied.
            None lets the page fetch them from a CDN, and check their hashes.
        single_file: put everything into index.html, which then opens without a server too; needs `runtime`.
        seed: of the draws from the prior, where it is not N(0, I).

    Returns:
        The path of index.html.

    Raises:
        ValueError: the model or an argument is not of the required kind, or LiteRT.js is not in `runtime`.
        NotImplementedError: a part of the model cannot be exported.
    """
    folder = Path(folder)
    _check(model, runtime, single_file)
    rows = None if model.table is None or not is_rows(x) else frame_of(x)
    if model.table is not None and rows is None:
        raise ValueError(f"`x` must be rows, because the model is of a table. Received: {checks.shown(x)}")
    if num_examples is None:
        num_examples = _EXAMPLES if rows is None else 0
    num_examples = checks.positive_integer("num_examples", num_examples, minimum=0)
    labels = classes(labels, rows, len(x))
    if labels is not None and len(np.unique(labels)) > MOST_CLASSES:
        raise ValueError(
            f"`labels` must have at most {MOST_CLASSES} classes. Received: {len(np.unique(labels))} classes"
        )
    x = np.asarray(x if rows is None else model.of_rows(rows), np.float32)
    model.check_data(x)
    if len(x) < 2:
        raise ValueError(f"`x` must hold at least 2 examples. Received: {len(x)}")
    x, labels = x[:_POINTS], None if labels is None else labels[:_POINTS]
    title = folder.resolve().name if title is None else title
    config = page_data.of_model(model, x, rows, labels, num_examples, offset, scale, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with files.temporary_folder(folder) as temporary:
        written = tflite(model, temporary / "model.tflite", batch_size=1, x=x, offset=offset, scale=scale)
        sources = _sources(written, None if runtime is None else Path(runtime), single_file)
        page = temporary / "index.html"
        page.write_text(_page(title, model, config, sources), encoding="utf-8")
        if not single_file:
            files.move_in(written, folder / written.name)
            if runtime is not None:
                for path, _ in _RUNTIME.values():
                    copied = temporary / Path(path).name
                    shutil.copyfile(_package(Path(runtime)) / path, copied)
                    place = folder / "litert" / path
                    place.parent.mkdir(parents=True, exist_ok=True)
                    files.move_in(copied, place)
        return files.move_in(page, folder / "index.html")


def _check(model: Any, runtime: Any, single_file: bool) -> None:
    if (
        not isinstance(model, VAE)
        or isinstance(model, ConditionalVAE | SemiSupervisedVAE | AutoregressiveVAE)
        or not model.built
    ):
        raise ValueError(f"`model` must be a tfvae.VAE without conditions, built. Received: {checks.shown(model)}")
    if page_data.is_window(model.event_shape) and model.likelihood.mean_shape(model.event_shape) != model.event_shape:
        raise ValueError(
            "`model` must have a likelihood whose mean has the shape of x, for the lines of its channels. Received: "
            f"{checks.shown(model.likelihood)}"
        )
    if model.posterior.support != "real":
        raise ValueError(
            "`model` must have z that are real vectors, for the sliders. Received: a posterior "
            f"{type(model.posterior).__name__}, on a {model.posterior.support}"
        )
    if runtime is None:
        if single_file:
            raise ValueError(
                f"`runtime` must be given for a single file: the folder node_modules after `{INSTALL}`. Received: "
                "runtime=None"
            )
        return
    missing = [path for path, _ in _RUNTIME.values() if not (_package(Path(runtime)) / path).is_file()]
    if missing:
        raise ValueError(
            f"`runtime` must be the folder node_modules in which `{INSTALL}` put LiteRT.js. Received: "
            f"runtime={str(runtime)!r}, without @litertjs/{missing[0]}"
        )


def _package(runtime: Path) -> Path:
    return runtime / "@litertjs"


def _sources(model: Path, runtime: Path | None, single_file: bool) -> dict[str, dict[str, str]]:
    """Where the script finds each file."""
    sources = {}
    for name, (path, digest) in _RUNTIME.items():
        if single_file and runtime is not None:
            sources[name] = {"base64": _packed(_package(runtime) / path)}
        elif runtime is not None:
            sources[name] = {"url": f"litert/{path}"}
        else:
            package, _, rest = path.partition("/")
            sources[name] = {"url": f"{_CDN}{package}@{_VERSION}/{rest}", "integrity": f"sha384-{digest}"}
    sources["model"] = {"base64": _packed(model)} if single_file else {"url": model.name}
    return sources


def _packed(path: Path) -> str:
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()


def _page(title: str, model: VAE, config: dict[str, Any], sources: dict[str, dict[str, str]]) -> str:
    folder = importlib.resources.files("tfvae.reporting") / "web"
    page, loader, *scripts = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "runtime.js", *_SCRIPTS)
    )
    script = "\n".join(scripts)
    # No text in JSON may end the element.
    config_json, sources_json = (json.dumps(part).replace("<", "\\u003c") for part in (config, sources))
    lead = f"A {type(model).__name__} with {weight_count(model):,} weights and {model.latent_dim} latent dimensions."
    runtime = f'<script type="application/json" id="runtime">{sources_json}</script>\n<script>\n{loader}</script>'
    measure = "negative ELBO" if model.has_bound else "negative log-likelihood of the reconstruction"
    if not model.has_bound and "kl" not in model.undefined:
        measure += " plus the KL divergence"
    fields = {
        "title": html.escape(title),
        "measure": measure,
        "lead": lead,
        "config": config_json,
        "runtime": runtime,
        "script": script,
    }
    return string.Template(page).substitute(fields)
