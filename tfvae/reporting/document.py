"""`report`: what a trained model does well and badly, in one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks, files
from tfvae.data import tables
from tfvae.data.schema import frame_of, is_rows
from tfvae.export.report import Verification
from tfvae.exportable import weight_count
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE
from tfvae.reporting import arrays, sections, series_sections, table_sections
from tfvae.reporting.measures import Measures
from tfvae.reporting.page import Section, listed, page, text
from tfvae.reporting.subject import MOST_EXAMPLES, Subject, classes

_OF_ARRAYS = (
    arrays.reconstructions,
    arrays.samples,
    sections.latent_space,
    arrays.traversals,
    arrays.interpolations,
    arrays.unusual,
)
_OF_CONDITIONS = (arrays.reconstructions, arrays.samples_given, sections.latent_space, arrays.unusual)
_OF_LABELS = (sections.classes, *_OF_CONDITIONS)
_OF_TABLES = (
    table_sections.columns,
    table_sections.generated,
    sections.latent_space,
    table_sections.traversals,
    table_sections.interpolations,
    table_sections.unusual,
)


_OF_SERIES = (
    series_sections.reconstructions,
    series_sections.gaps,
    series_sections.samples,
    sections.latent_space,
    series_sections.traversals,
    series_sections.unusual,
)


def report(
    model: VAE,
    data: Any,
    path: str | Path,
    *,
    title: str | None = None,
    labels: Any = None,
    train: Any = None,
    history: Mapping[str, Sequence[float]] | None = None,
    verification: Verification | Mapping[str, Any] | None = None,
    facts: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    measures: Measures | None = None,
    num_samples: int = 256,
    seed: int = 0,
) -> Path:
    """Writes a report on a trained model: one HTML file, which needs nothing else, to read and to send.

    It has the bound and log p(x) with their standard errors, the curves of the training, reconstructions, samples, the
    latent space, what each latent dimension changes, interpolations, unusual examples with their reasons, and what the
    model consists of. For a model of a table it has the columns and generated rows in the place of pictures; for a
    model of windows of time series, whose `series` is known, lines of each channel, and gaps that it fills in; for one
    with conditions or labels, samples given each of them. What is not known is left out.

    Args:
        model: a trained `tfvae.VAE`.
        data: held-out data: an array [N, ...], a data frame for a model of a table, or a dictionary of arrays, such as
            `fit` takes, for a model with conditions or labels. The first 10,000 are used.
        path: the file, or a folder that is there, in which it becomes report.html. An earlier one is replaced.
        title: the title; None means the name of the folder.
        labels: the class of each example [N], which colours the latent space and chooses the pairs of interpolations;
            for a model of a table also the name of a column of `data`, which the model need not use.
        train: data that the model was trained on, as `data`, among which the nearest of each sample is sought.
        history: `fit(...).history`.
        verification: what `tfvae.export.verify` returned, or the content of verification.json.
        facts: further texts by name, such as the command that made the model: those of one line for the head of the
            report, and others for its end.
        warnings: warnings that were given.
        measures: those of the same data, if they were taken before.
        num_samples: draws of z for each example for log p(x).
        seed: the seed of all draws.

    Returns:
        The path of the file.

    Raises:
        ValueError: the model is not a `tfvae.VAE` that was built, or the data do not fit it.
    """
    path = Path(path)
    path = path / "report.html" if path.is_dir() else path
    if not isinstance(model, VAE) or isinstance(model, AutoregressiveVAE) or not model.built:
        raise ValueError(f"`model` must be a tfvae.VAE, which was trained. Received: {checks.shown(model)}")
    num_samples = checks.positive_integer("num_samples", num_samples)
    x, given, rows = _examples(model, data)
    labels = classes(labels, rows, len(x))
    if labels is None:
        labels = _labels_of(given)
    train_x = model.of_rows(train) if rows is not None else train["x"] if isinstance(train, Mapping) else train
    if train is not None and np.shape(train_x)[1:] != x.shape[1:]:
        raise ValueError(
            f"`train` must hold examples of the shape {list(x.shape[1:])}. Received: {list(np.shape(train_x)[1:])}"
        )
    subject = Subject(
        model,
        x,
        given,
        rows,
        None if train is None else np.asarray(train_x[:MOST_EXAMPLES], np.float32),
        labels,
        history or {},
        verification.to_dict() if isinstance(verification, Verification) else verification,
        facts or {},
        warnings,
        num_samples,
        seed,
        measures,
    )
    made: list[Section | None] = [sections.held_out(subject), sections.curves(subject)]
    of_kind = _OF_LABELS if "label" in given else _OF_CONDITIONS if given else _OF_ARRAYS
    of_kind = _OF_SERIES if model.series is not None and not given else of_kind
    made += [make(subject) for make in (of_kind if rows is None else _OF_TABLES)]
    made += [sections.exports(subject), sections.warnings_given(subject), sections.origin(subject)]
    title = path.resolve().parent.name if title is None else title
    content = page(title, _lead(subject), [section for section in made if section is not None])
    with files.replacing(path) as written:
        written.write_text(content, encoding="utf-8")
    return path


def _examples(model: VAE, data: Any) -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
    """Held-out x, what it is given, and the same as rows or None; no more than the first 10,000."""
    kind = "label" if isinstance(model, SemiSupervisedVAE) else "condition"
    has_given = isinstance(model, ConditionalVAE)
    if model.table is not None:
        expected, is_right = "rows, such as a data frame, because the model is of a table", is_rows(data)
    elif has_given:
        expected = f'a dictionary of arrays, {{"x": x, "{kind}": {kind}}}'
        is_right = isinstance(data, Mapping) and set(data) == {"x", kind}
    else:
        expected, is_right = "an array", not is_rows(data) and not isinstance(data, Mapping)
    if not is_right:
        raise ValueError(f"`data` must be {expected}. Received: {checks.shown(data)}")
    rows = None if model.table is None else frame_of(data).iloc[:MOST_EXAMPLES]
    arrays_of = dict(data) if has_given else {"x": data if rows is None else rows}
    if not all(len(rows) if rows is not None else np.ndim(each) and len(each) for each in arrays_of.values()):
        raise ValueError(f"`data` must hold examples [N, ...]. Received: {checks.shown(data)}")
    if rows is not None:
        arrays_of["x"] = model.of_rows(rows)
    arrays_of = {name: np.asarray(each[:MOST_EXAMPLES]) for name, each in arrays_of.items()}
    arrays_of["x"] = arrays_of["x"].astype(np.float32)
    checked: Any = arrays_of if has_given else arrays_of["x"]
    model.check_data(checked)
    return arrays_of.pop("x"), arrays_of, rows


def _labels_of(given: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The classes that labels or one-hot conditions say, if they do."""
    if "label" in given:
        label = given["label"].astype(int)
        return np.where(label < 0, "unknown", label.astype(str))
    condition = given.get("condition")
    if condition is None or condition.shape[1] < 2:
        return None
    is_one_hot = np.isin(condition, (0, 1)).all() and (condition.sum(axis=1) == 1).all()
    return condition.argmax(axis=1).astype(str) if is_one_hot and condition.shape[1] <= tables.MOST_CLASSES else None


def _lead(subject: Subject) -> str:
    model = subject.model
    what = "rows" if subject.rows is not None else f"examples of shape {list(subject.x.shape[1:])}"
    words = (
        f"A {type(model).__name__} with {weight_count(model):,} weights and {model.latent_dim} latent dimensions, "
        f"evaluated on {len(subject.x):,} {what}."
    )
    short = {name: words for name, words in subject.facts.items() if "\n" not in words}
    return text(words) + (listed(short) if short else "")
