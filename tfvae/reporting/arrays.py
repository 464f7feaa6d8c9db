"""The sections of a report on data that are arrays: pictures, series and vectors."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.neighbors import NearestNeighbors

from tfvae import evaluation, plots
from tfvae.models.conditional import ConditionalVAE
from tfvae.plots.examples import is_image
from tfvae.reporting import sections
from tfvae.reporting.page import Section, picture, table, text
from tfvae.reporting.subject import Subject

_EXAMPLES = 16
_SAMPLES = 64
_WAYS = 4
# How many conditions there are samples of, and how many of each; and how many numbers of a condition are shown.
_CONDITIONS, _OF_EACH, _MOST_NUMBERS = 10, 8, 12
_UNUSUAL = 8
# As many dimensions are traversed at most.
_MOST_TRAVERSED = 12


def reconstructions(subject: Subject) -> Section:
    """Held-out examples beside their reconstructions."""
    x = subject.x[:_EXAMPLES]
    made = _drawable(subject, subject.model.reconstruct(subject.data(slice(_EXAMPLES))))
    figure = plots.reconstructions(x, made, limits=subject.limits)
    return Section("Reconstructions", _picture(subject, figure, "Held-out examples and their reconstructions"))


def samples(subject: Subject) -> Section:
    """What the model generates: the means of p(x|z), draws from it, and the nearest training examples."""
    model, seed = subject.model, subject.seed
    means = _drawable(subject, model.generate(_SAMPLES, seed=seed))
    draws = _drawable(subject, model.generate(_SAMPLES, seed=seed, sample=True))
    count = _SAMPLES if is_image(subject.x.shape[1:]) else _EXAMPLES
    body = ""
    for title, x in (("Means of p(x|z), for z of the prior", means), ("Draws from p(x|z), for the same z", draws)):
        figure = plots.samples(x[:count], limits=subject.limits)
        figure.suptitle(title)
        body += _picture(subject, figure, f"Generated examples: {title.lower()}")
    if subject.train is not None and len(subject.train):
        body += _nearest_of(subject, means[:_EXAMPLES])
    return Section("Samples", body)


def samples_given(subject: Subject) -> Section:
    """What the model generates given each class or condition."""
    (name, given), model = next(iter(subject.given.items())), subject.model
    assert isinstance(model, ConditionalVAE)
    known = given[given >= 0] if name == "label" else given
    # Of one-hot conditions, the first class first.
    distinct = np.unique(known, axis=0)[:: 1 if name == "label" else -1]
    if len(distinct) > _CONDITIONS:
        lead = f"Means of p(x|z) given the {name} of each of the first held-out examples, one in each row."
        distinct = known[:_CONDITIONS]
    else:
        lead = f"Means of p(x|z) given each {name} that the held-out examples have, one in each row."
    repeated = np.repeat(distinct, _OF_EACH, axis=0)
    means = _drawable(subject, model.generate(repeated, seed=subject.seed))
    figure = plots.samples(means, _OF_EACH, limits=subject.limits)
    figure.suptitle(lead)
    body = _picture(subject, figure, lead)
    rows = [[str(place), _shown(values)] for place, values in enumerate(distinct, start=1)]
    body += table(["row", name], rows)
    if subject.train is not None and len(subject.train):
        body += _nearest_of(subject, means[::_OF_EACH])
    return Section("Samples", body)


def _shown(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in np.ravel(values)[:_MOST_NUMBERS]) + (
        ", ..." if np.size(values) > _MOST_NUMBERS else ""
    )


def traversals(subject: Subject) -> Section | None:
    """What changes along each active latent dimension."""
    found = sections.traversals(subject)
    if found is None or isinstance(found, Section):
        return found
    x = _drawable(subject, found.x)[:_MOST_TRAVERSED]
    figure = plots.traversals(x, found.labels[:_MOST_TRAVERSED], found.values, limits=subject.limits)
    body = text(sections.of_traversals(found))
    return Section("Along each latent dimension", body + _picture(subject, figure, "What each dimension of z changes"))


def interpolations(subject: Subject) -> Section | None:
    """Ways between pairs of held-out examples, of different classes if these are known."""
    if len(subject.x) < 2:
        return None
    first, last = sections.pairs(subject, _WAYS)
    found = evaluation.interpolations(subject.model, subject.x[first], subject.x[last])
    figure = plots.interpolations(_drawable(subject, found), limits=subject.limits)
    figure.suptitle("From an example on the left to one on the right, by even steps of z")
    return Section("Between two examples", _picture(subject, figure, "Ways between two examples, through latent space"))


def unusual(subject: Subject) -> Section | None:
    """The held-out examples of highest score, and where in them the score comes from."""
    if subject.model.decision is None:
        return None
    found = subject.model.detect(subject.data())
    order = np.argsort(-found["score"], kind="stable")[:_UNUSUAL]
    x, nats = subject.x[order], found["contributions"][order].reshape(len(order), *subject.x.shape[1:])
    body = sections.scores(subject)
    scores = ", ".join(f"{score:.1f}" for score in found["score"][order])
    body += f"<h3>The most unusual</h3>{text(f'Their scores, in the order of the pictures: {scores} nats.')}"
    reconstruction = _drawable(subject, subject.model.reconstruct(subject.data(order)))
    figure = plots.reconstructions(x, reconstruction, limits=subject.limits)
    body += _picture(subject, figure, "The most unusual held-out examples and their reconstructions")
    if is_image(subject.x.shape[1:]):
        nats = nats.sum(axis=-1, keepdims=True)
    figure = plots.samples(nats)
    lightness = ", light for much" if is_image(subject.x.shape[1:]) else ", in nats"
    figure.suptitle(f"What each element adds to the score{lightness}")
    body += _picture(subject, figure, "What each element of the most unusual examples adds to their scores")
    return Section("Unusual examples", body)


def _drawable(subject: Subject, x: np.ndarray) -> np.ndarray:
    return np.asarray(subject.model.likelihood.to_data(x))


def _picture(subject: Subject, figure: Figure, description: str) -> str:
    return picture(figure, description, as_pixels=is_image(subject.x.shape[1:]))


def _nearest_of(subject: Subject, means: np.ndarray) -> str:
    """Generated examples beside the training examples that are nearest to them, as HTML."""
    assert subject.train is not None
    figure = plots.reconstructions(
        means, _nearest(means, subject.train), names=("sample", "nearest training example"), limits=subject.limits
    )
    lead = "The nearest by Euclidean distance. A sample that equals one would be a copy of it."
    shown = _picture(subject, figure, "Generated examples, and the training example nearest to each")
    return f"<h3>Nearest training examples</h3>{text(lead)}{shown}"


def _nearest(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    rows = NearestNeighbors(n_neighbors=1).fit(train.reshape(len(train), -1))
    return train[rows.kneighbors(x.reshape(len(x), -1), return_distance=False)[:, 0]]
