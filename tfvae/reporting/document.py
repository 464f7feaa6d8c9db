"""`report`: what a trained model does well and badly, in one HTML file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks, files
from tfvae.data import tables
from tfvae.data.schema import frame_of, is_rows
from tfvae.data.vocabulary import are_texts
from tfvae.export.report import Verification
from tfvae.exportable import weight_count
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.sequential import SequentialVAE
from tfvae.models.vae import VAE
from tfvae.reporting import arrays, sections, sequence_sections, series_sections, table_sections
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


_OF_STEPS = (
    sequence_sections.reconstructions,
    sequence_sections.forecasts,
    sequence_sections.samples,
    sequence_sections.unusual,
)
_OF_SEQUENCES = (sequence_sections.reconstructions, sequence_sections.samples, sections.latent_space)
_OF_TEXTS = (
    sequence_sections.texts,
    sequence_sections.written,
    sections.latent_space,
    sequence_sections.ways,
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
    model: VAE | SequentialVAE,
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
    with conditions or labels, samples given each of them. For a `tfvae.SequentialVAE` it has sequences, forecasts of
    the ends of held-out ones, and unusual steps; for a `tfvae.AutoregressiveVAE` what it generates, as texts if it has
    a vocabulary; both have the measures of a step too. What is not known is left out.

    Args:
        model: a trained `tfvae.VAE` or `tfvae.SequentialVAE`.
        data: held-out data: an array [N, ...], a data frame for a model of a table, texts for one of texts, or a
            dictionary of arrays, such as `fit` takes, for a model with conditions or labels. The first 10,000 are used.
        path: the file, or a folder that is there, in which it becomes report.html. An earlier one is replaced.
        title: the title; None means the name of the folder.
        labels: the class of each example [N], which colours the latent space and chooses the pairs of interpolations;
            for a model of a table also the name of a column of `data`, which the model need not use. None for a
            `SequentialVAE`, which has no map.
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
        ValueError: the model is none of these or was not built, or the data do not fit it.
    """
    path = Path(path)
    path = path / "report.html" if path.is_dir() else path
    if not isinstance(model, VAE | SequentialVAE) or not model.built:
        raise ValueError(
            "`model` must be a tfvae.VAE or a tfvae.SequentialVAE, which was trained; for others, such as hierarchies, "
            "there is no report, but `evaluate`, `log_likelihood`, `score` and `generate`. Received: "
            f"{checks.shown(model)}"
        )
    num_samples = checks.positive_integer("num_samples", num_samples)
    if labels is not None and isinstance(model, SequentialVAE):
        raise ValueError(f"`labels` must be None for a SequentialVAE. Received: {checks.shown(labels)}")
    x, given, rows = _examples(model, data)
    labels = classes(labels, rows, len(x))
    if labels is None:
        labels = _labels_of(given)
    are_sequences = isinstance(model, SequentialVAE | AutoregressiveVAE)
    train_x = train["x"] if rows is None and isinstance(train, Mapping) else train
    if train is not None:
        train_x = model.of_rows(train_x[:MOST_EXAMPLES] if are_texts(train_x) else train_x)
        checks.check_shape(np.asarray(train_x), (None, *x.shape[2:]) if are_sequences else x.shape[1:], "train")
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
    first = sequence_sections.held_out if are_sequences else sections.held_out
    made: list[Section | None] = [first(subject), sections.curves(subject)]
    made += [make(subject) for make in _of_kind(subject)]
    made += [sections.exports(subject), sections.warnings_given(subject), sections.origin(subject)]
    title = path.resolve().parent.name if title is None else title
    content = page(title, _lead(subject), [section for section in made if section is not None])
    with files.replacing(path) as written:
        written.write_text(content, encoding="utf-8")
    return path


def _of_kind(subject: Subject) -> tuple[Callable[[Subject], Section | None], ...]:
    """What makes the sections of models and data of one kind."""
    model, given = subject.model, subject.given
    if isinstance(model, SequentialVAE):
        # Steps that are no vectors are not drawn.
        return _OF_STEPS if subject.x.ndim == 3 else ()
    if isinstance(model, AutoregressiveVAE):
        return _OF_SEQUENCES if model.vocabulary is None else _OF_TEXTS
    if subject.rows is not None:
        return _OF_TABLES
    if given:
        return _OF_LABELS if "label" in given else _OF_CONDITIONS
    return _OF_ARRAYS if model.series is None else _OF_SERIES


def _examples(model: VAE | SequentialVAE, data: Any) -> tuple[np.ndarray, dict[str, np.ndarray], Any]:
    """Held-out x, what it is given, and the same as rows or None; no more than the first 10,000."""
    kind = "label" if isinstance(model, SemiSupervisedVAE) else "condition"
    has_given = isinstance(model, ConditionalVAE)
    if isinstance(model, AutoregressiveVAE) and are_texts(data):
        data = model.of_rows(data[:MOST_EXAMPLES])
    is_of_table = isinstance(model, VAE) and model.table is not None
    if is_of_table:
        expected, is_right = "rows, such as a data frame, because the model is of a table", is_rows(data)
    elif has_given:
        expected = f'a dictionary of arrays, {{"x": x, "{kind}": {kind}}}'
        is_right = isinstance(data, Mapping) and set(data) == {"x", kind}
    else:
        expected, is_right = "an array", not is_rows(data) and not isinstance(data, Mapping)
    if not is_right:
        raise ValueError(f"`data` must be {expected}. Received: {checks.shown(data)}")
    rows = frame_of(data).iloc[:MOST_EXAMPLES] if is_of_table else None
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
    if isinstance(model, SequentialVAE | AutoregressiveVAE):
        what = f"sequences of up to {subject.x.shape[1]} steps"
    kind = type(model).__name__
    words = (
        f"{'An' if kind[0] in 'AEIOU' else 'A'} {kind} with {weight_count(model):,} weights and {model.latent_dim} "
        f"latent dimensions, evaluated on {len(subject.x):,} {what}."
    )
    short = {name: words for name, words in subject.facts.items() if "\n" not in words}
    return text(words) + (listed(short) if short else "")
