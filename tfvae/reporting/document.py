"""`report`: what a trained model does well and badly, in one HTML file."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfvae import checks, files
from tfvae.data.schema import frame_of, is_rows
from tfvae.export.report import Verification
from tfvae.models.conditional import ConditionalVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.vae import VAE
from tfvae.reporting import arrays, sections, table_sections
from tfvae.reporting.measures import Measures, measure
from tfvae.reporting.page import Section, page
from tfvae.reporting.subject import MOST_EXAMPLES, Subject, classes

_OF_ARRAYS = (
    arrays.reconstructions,
    arrays.samples,
    sections.latent_space,
    arrays.traversals,
    arrays.interpolations,
    arrays.unusual,
)
_OF_TABLES = (table_sections.columns, table_sections.generated, sections.latent_space, table_sections.unusual)


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
    model consists of. For a model of a table it has the columns and generated rows in the place of pictures. What is
    not known is left out.

    Args:
        model: a trained `tfvae.VAE`.
        data: held-out data: an array [N, ...], or a data frame for a model of a table. The first 10,000 are used.
        path: the file, or a folder that is there, in which it becomes report.html. An earlier one is replaced.
        title: the title; None means the name of the folder.
        labels: the class of each example [N], which colours the latent space and chooses the pairs of interpolations; for
            a model of a table also the name of a column of `data`, which the model need not use.
        train: data that the model was trained on, among which the nearest of each sample is sought.
        history: `fit(...).history`.
        verification: what `tfvae.export.verify` returned, or the content of verification.json.
        facts: further texts by name, such as the command that made the model.
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
    if not isinstance(model, VAE) or isinstance(model, ConditionalVAE | SemiSupervisedVAE) or not model.built:
        raise ValueError(
            "`model` must be a tfvae.VAE without conditions or labels, which was trained. Received: "
            f"{checks.shown(model)}"
        )
    num_samples = checks.positive_integer("num_samples", num_samples)
    if (model.table is not None) != is_rows(data):
        expected = "an array" if model.table is None else "rows, such as a data frame, because the model is of a table"
        raise ValueError(f"`data` must be {expected}. Received: {checks.shown(data)}")
    rows = None if model.table is None else frame_of(data).iloc[:MOST_EXAMPLES]
    if not (np.ndim(data) and len(data) if rows is None else len(rows)):
        raise ValueError(f"`data` must hold examples [N, ...]. Received: {checks.shown(data)}")
    x = np.asarray(data[:MOST_EXAMPLES] if rows is None else model.of_rows(rows), np.float32)
    model.check_data(x)
    labels = classes(labels, None if rows is None else frame_of(data), len(data))
    labels = None if labels is None else labels[:MOST_EXAMPLES]
    if train is not None and rows is None and np.shape(train)[1:] != x.shape[1:]:
        raise ValueError(
            f"`train` must hold examples of the shape {list(x.shape[1:])}. Received: {list(np.shape(train)[1:])}"
        )
    subject = Subject(
        model,
        x,
        rows,
        None if train is None or rows is not None else np.asarray(train[:MOST_EXAMPLES], np.float32),
        labels,
        history or {},
        verification.to_dict() if isinstance(verification, Verification) else verification,
        facts or {},
        warnings,
        num_samples,
        seed,
    )
    measures = measure(model, x, num_samples, seed) if measures is None else measures
    made: list[Section | None] = [sections.held_out(subject, measures), sections.curves(subject)]
    made += [make(subject) for make in (_OF_ARRAYS if rows is None else _OF_TABLES)]
    made += [sections.exports(subject), sections.warnings_given(subject), sections.origin(subject)]
    title = path.resolve().parent.name if title is None else title
    text = page(title, _lead(subject), [section for section in made if section is not None])
    with files.replacing(path) as written:
        written.write_text(text, encoding="utf-8")
    return path


def _lead(subject: Subject) -> str:
    model = subject.model
    what = "rows" if subject.rows is not None else f"examples of shape {list(subject.x.shape[1:])}"
    words = (
        f"A {type(model).__name__} with {model.count_params():,} weights and {model.latent_dim} latent dimensions, "
        f"evaluated on {len(subject.x):,} {what}."
    )
    return f"<p>{html.escape(words)}</p>"
