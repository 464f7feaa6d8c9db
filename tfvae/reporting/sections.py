"""The sections of a report that every model has: figures, curves, latent space, scores, exports and origin."""

import math
import platform
from importlib import metadata

import numpy as np

from tfvae import evaluation, plots
from tfvae.callbacks.warnings import COLLAPSE_ADVICE, COLLAPSED
from tfvae.evaluation.latent_space import ACTIVE
from tfvae.models.autoregressive import AutoregressiveVAE
from tfvae.models.semi_supervised import SemiSupervisedVAE
from tfvae.models.variational_model import described
from tfvae.plots.bars import bars
from tfvae.reporting.measures import standard_error
from tfvae.reporting.page import Section, code, listed, picture, table, text
from tfvae.reporting.subject import Subject

_PACKAGES = ("tfvae", "keras", "tensorflow", "tensorflow-probability")


def held_out(subject: Subject) -> Section:
    """The bound, log p(x) and the KL divergence, or what the model has of them, with their standard errors."""
    dimensions = math.prod(subject.x.shape[1:])
    # What is no bound on log p(x) is not the length of a code for x.
    in_bits = subject.rows is None and subject.model.has_bound
    rows = []
    for label, values in subject.measures.labelled().items():
        mean, error = float(np.mean(values)), standard_error(values)
        row = [label, f"{mean:.3f}", f"{error:.3f}"]
        if in_bits:
            sign = 1 if label == "KL" else -1
            row.append(f"{sign * mean / (dimensions * math.log(2)):.4f}")
        rows.append(row)
    header = ["measure", "nats per example" if subject.rows is None else "nats per row", "standard error"]
    body = table([*header, "bits per dimension"] if in_bits else header, rows)
    if len(subject.x) > 1:
        body += text(of_active(subject))
    return Section("Held-out data", body + without_bound(subject))


def without_bound(subject: Subject) -> str:
    """Why the model has no bound on log p(x), as HTML; empty if it has one."""
    why = subject.model.undefined.get("elbo")
    return "" if why is None else text(f"There is no lower bound on log p(x): {why}")


def of_active(subject: Subject) -> str:
    """How many latent dimensions are used."""
    return (
        f"{subject.active} of {subject.model.latent_dim} latent dimensions are active, which means that the variance "
        f"of the posterior mean over the examples is above {ACTIVE:g}."
    )


def curves(subject: Subject) -> Section | None:
    """The history of the training, if it is known."""
    if not subject.history:
        return None
    figure = plots.history(subject.history)
    shown = "The bound and its two terms" if subject.model.has_bound else "The terms of the bound that the model has"
    return Section("Training", picture(figure, f"{shown}, for each epoch of the training"))


def latent_space(subject: Subject) -> Section:
    """The map of the posterior means, and the KL divergence of each dimension."""
    model, x = subject.model, subject.x
    z = np.asarray(model.posterior.center(model.encode(subject.data())))
    are_examples = subject.rows is None and model.series is None and not isinstance(model, AutoregressiveVAE)
    shown = x if are_examples else None
    by_class = "" if subject.labels is None else f", coloured by {'class' if model.series is None else 'time'}"
    body = picture(
        plots.latent(z, shown, labels=subject.labels, limits=None if shown is None else subject.limits),
        f"Each held-out example at its place in the latent space{by_class}",
        as_pixels=True,
    )
    if "kl" in subject.model.undefined:
        return Section("Latent space", body)
    try:
        kl = evaluation.kl_per_dimension(model, subject.data(), seed=subject.seed)
    except ValueError:
        why = "The KL divergence has no parts by dimension: those of q(z|x) or of p(z) are not independent."
        return Section("Latent space", body + text(why))
    order = np.argsort(-kl, kind="stable")
    figure = bars("KL divergence of each dimension", [f"z[{place}]" for place in order], kl[order], "nats")
    return Section("Latent space", body + picture(figure, "The KL divergence of each latent dimension, in nats"))


def traversals(subject: Subject) -> evaluation.Traversals | Section | None:
    """What changes along each active latent dimension; a section that says that there is none; or None for others."""
    if subject.model.posterior.support != "real" or len(subject.x) < 2:
        return None
    if not subject.active:
        return Section("Along each latent dimension", text(_of_no_dimension(subject.measures.kl)))
    return evaluation.traversals(subject.model, subject.x, seed=subject.seed)


def _of_no_dimension(kl_of_examples: np.ndarray | None) -> str:
    """What it means that no dimension is active, where the examples have a KL divergence [N], or none."""
    measured = (
        f"No dimension is active: the posterior mean of each has a variance of at most {ACTIVE:g} over the examples."
    )
    if kl_of_examples is None:
        return f"{measured} Train for more epochs, or give what holds z near the prior a smaller weight."
    kl = float(np.mean(kl_of_examples))
    measured += f" KL(q(z|x) || p(z)) is {kl:.3g} nats"
    if kl < COLLAPSED:
        found = "the posterior has collapsed to the prior, and z says almost nothing about x"
        return f"{measured}: {found}. {COLLAPSE_ADVICE}"
    return (
        f"{measured}, so the posterior has not collapsed to the prior, but z says little about x yet. Train for more "
        "epochs; tfvae.evaluation.traversals draws the dimensions that it is given, active or not."
    )


def of_traversals(found: evaluation.Traversals) -> str:
    """What is in the pictures or tables of traversals."""
    measure = "variance" if np.isnan(found.kl).any() else "KL divergence"
    return (
        f"From the dimension of highest {measure} on, in standard deviations of z; the other dimensions stay at their "
        "mean."
    )


def pairs(subject: Subject, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the first and of the last example of each way."""
    generator = np.random.default_rng(subject.seed)
    order = generator.permutation(len(subject.x))
    first, others = order[:count], np.roll(order, -1 - len(order) // 2)[:count]
    if subject.labels is None:
        return first, others
    labels = np.asarray(subject.labels)
    last = [
        next((row for row in np.roll(order, -place - 1) if labels[row] != labels[start]), other)
        for place, (start, other) in enumerate(zip(first, others, strict=True))
    ]
    return first, np.array(last)


def classes(subject: Subject) -> Section | None:
    """How often the classifier of a `SemiSupervisedVAE` is right, and which classes it takes for which."""
    assert isinstance(subject.model, SemiSupervisedVAE)
    label = subject.given["label"].astype(int)
    is_known = label >= 0
    if not is_known.any():
        return None
    found = subject.model.classify(subject.x[is_known]).argmax(axis=1)
    right = np.mean(found == label[is_known])
    body = text(f"The most probable class is right for {right:.1%} of the {is_known.sum():,} examples with a label.")
    names = np.unique(np.concatenate([label[is_known], found]))
    counts = [[np.sum((label[is_known] == a) & (found == b)) for b in names] for a in names]
    rows = [[f"class {name}", *map(str, row)] for name, row in zip(names, counts, strict=True)]
    return Section("Classes", body + table(["taken for", *map(str, names)], rows))


def scores(subject: Subject) -> str:
    """The distribution of the anomaly scores, as HTML."""
    model = subject.model
    assert model.decision is not None
    found = model.detect(subject.data())
    figure = plots.anomalies(found["score"], model.decision.threshold.value)
    return picture(figure, "How many held-out examples have which anomaly score, and the threshold")


def exports(subject: Subject) -> Section | None:
    """How far the exports are from the model, if they were compared."""
    if subject.verification is None:
        return None
    agreements = subject.verification["agreements"]
    names = list(dict.fromkeys(row["format"] for row in agreements))
    found = {(row["format"], row["signature"], row["output"]): row for row in agreements}
    rows = []
    for signature, output in dict.fromkeys((row["signature"], row["output"]) for row in agreements):
        cells = [found.get((name, signature, output)) for name in names]
        largest = max(cell["max_value"] for cell in cells if cell is not None)
        differences = ["" if cell is None else f"{cell['max_difference']:.1e}" for cell in cells]
        rows.append([f"{signature}: {output}", f"{largest:.4g}", *differences])
    costs = [[row["format"], f"{row['size']:,}"] for row in subject.verification["costs"] if row["size"] is not None]
    lead = f"The largest differences from the Keras model on {subject.verification['num_examples']} examples."
    body = text(lead) + table(["output", "largest value", *names], rows) + table(["format", "bytes"], costs)
    return Section("Exports", body)


def warnings_given(subject: Subject) -> Section | None:
    """The warnings that were given, if any."""
    if not subject.warnings:
        return None
    return Section("Warnings", "".join(text(words) for words in dict.fromkeys(subject.warnings)))


def origin(subject: Subject) -> Section:
    """The parts of the model, the versions of the packages, and the further facts."""
    model = subject.model
    slots = ("posterior", "conditional", "prior", "likelihood", "objective", "memory")
    parts = {slot: described(getattr(model, slot)) for slot in slots if getattr(model, slot, None) is not None}
    if model.compiled:
        parts["optimizer"] = described(model.optimizer)
    body = "<h3>Parts</h3>" + listed(parts)
    for name in ("encoder", "combiner", "transition", "decoder"):
        network = getattr(model, name, None)
        if network is None:
            continue
        layers = [f"{layer.name}: {type(layer).__name__}, {layer.count_params():,} weights" for layer in network.layers]
        body += f"<h3>{name.capitalize()}</h3>" + code("\n".join(layers))
    for name, words in subject.facts.items():
        if "\n" not in words:
            # In the head of the report.
            continue
        body += f"<h3>{name}</h3>" + code(words)
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    versions.append(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    return Section("How it was made", body + "<h3>Versions</h3>" + code("\n".join(versions)))
