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
from tfvae.evaluation import kl_per_dimension
from tfvae.export.device import tflite
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE
from tfvae.priors import StandardNormal

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
# How many examples the page has to choose from, how many points its map has, and how many classes its legend.
_EXAMPLES, _POINTS, MOST_CLASSES = 24, 500, 14
_PRIOR_DRAWS = 256
# The standard deviation of a dimension that does not depend on x.
_LEAST_SPREAD = 1e-3


def web(
    model: VAE,
    folder: str | os.PathLike[str],
    x: Any,
    *,
    labels: Any = None,
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
        model: a `tfvae.VAE` without conditions, of arrays, whose z are real vectors.
        folder: the folder, made if it is not there; index.html and the files of an earlier page are replaced.
        x: examples [N, ...] in the model's units, at least 2, such as held-out data. The first 24 can be chosen on the
            page, and the first 500 are the points of its map.
        labels: the class of each example [N], of at most 14, which colours the map; or None.
        title: the title; None means the name of the folder.
        offset: see `tfvae.export.tflite`.
        scale: see `tfvae.export.tflite`.
        runtime: the folder node_modules in which `npm install @litertjs/core` put LiteRT.js, whose files are copied.
            None lets the page fetch them from a CDN, and check their hashes.
        single_file: put everything into index.html, which then opens without a server too; needs `runtime`.
        seed: of the draws from the prior, where it is not N(0, I).

    Returns:
        The path of index.html.

    Raises:
        ValueError: the model or an argument is not of the required kind, or LiteRT.js is not in `runtime`.
        NotImplementedError: the model is of a table.
    """
    folder = Path(folder)
    _check(model, runtime, single_file)
    x = np.asarray(x, np.float32)
    model.check_data(x)
    if len(x) < 2:
        raise ValueError(f"`x` must hold at least 2 examples. Received: {len(x)}")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(x),) or len(np.unique(labels)) > MOST_CLASSES:
            raise ValueError(
                f"`labels` must have the shape [{len(x)}] and at most {MOST_CLASSES} classes. Received: shape "
                f"{list(labels.shape)} and {len(np.unique(labels))} classes"
            )
        labels = labels[:_POINTS]
    x = x[:_POINTS]
    title = folder.resolve().name if title is None else title
    config = _config(model, x, labels, offset, scale, seed)
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
    if not isinstance(model, VAE) or isinstance(model, ConditionalVAE | SemiSupervisedVAE) or not model.built:
        raise ValueError(f"`model` must be a tfvae.VAE without conditions, built. Received: {checks.shown(model)}")
    if model.table is not None:
        raise NotImplementedError("`model` must be of arrays: the page has no rows of tables yet. Received: a table's")
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


def _config(model: VAE, x: np.ndarray, labels: np.ndarray | None, offset: Any, scale: Any, seed: int) -> dict[str, Any]:
    """What the script of the page must know, in raw units."""
    z = np.asarray(model.posterior.center(model.encode(x)))
    try:
        kl = kl_per_dimension(model, x, seed=seed)
    except ValueError:  # Of dimensions that depend on one another.
        kl = np.full(model.latent_dim, np.nan)
    order = np.argsort(-(z.var(axis=0) if np.isnan(kl).any() else kl), kind="stable")
    raw = x if scale is None else x * np.asarray(scale) + np.asarray(offset)
    is_image = x.ndim == 4 and x.shape[-1] in (1, 3)
    known = {} if labels is None else {"labels": [str(each) for each in labels]}
    names = [f"example {place + 1}" for place in range(min(_EXAMPLES, len(x)))]
    if known:
        names = [f"{name}, {label}" for name, label in zip(names, known["labels"], strict=False)]
    decision = model.decision
    # The units of the sliders and of the map: those of the prior, or those of the examples where it is not N(0, I).
    center, spread, draws = np.zeros(model.latent_dim), np.ones(model.latent_dim), None
    if not isinstance(model.prior, StandardNormal):
        center, spread = z.mean(axis=0), np.maximum(z.std(axis=0), _LEAST_SPREAD)
        draws = _rounded(model.prior.distribution().sample(_PRIOR_DRAWS, seed=[seed, 0]))
    return {
        "kind": "image" if is_image else "vector",
        "event_shape": list(x.shape[1:]),
        "latent_dim": model.latent_dim,
        "limits": [float(raw.min()), float(raw.max())],
        "order": order.tolist(),
        "kl": [None if np.isnan(each) else float(each) for each in kl],
        "z_mean": _rounded(center),
        "z_sd": _rounded(spread),
        "prior_draws": draws,
        "points": _rounded(z),
        "examples": _rounded(raw[:_EXAMPLES].reshape(min(_EXAMPLES, len(x)), -1)),
        "example_names": names,
        **known,
        "classes": sorted(set(known["labels"])) if known else None,
        "detects": decision is not None,
        "threshold": None if decision is None else float(decision.threshold.value),
    }


def _rounded(values: Any) -> list[Any]:
    return np.round(np.asarray(values, float), 5).tolist()


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
    page, script, loader = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "explore.js", "runtime.js")
    )
    # No text in JSON may end the element.
    config_json, sources_json = (json.dumps(part).replace("<", "\\u003c") for part in (config, sources))
    lead = f"A {type(model).__name__} with {model.count_params():,} weights and {model.latent_dim} latent dimensions."
    runtime = f'<script type="application/json" id="runtime">{sources_json}</script>\n<script>\n{loader}</script>'
    fields = {"title": html.escape(title), "lead": lead, "config": config_json, "runtime": runtime, "script": script}
    return string.Template(page).substitute(fields)
