"""Posterior x prior x likelihood x objective: each combination trains, saves and exports, or is refused with a reason.

The default tests have every class of parts in a model, whose step runs eagerly, because to trace it takes most of the
time; the slow ones trace it, and have all arguments, and every pair of parts.
"""

import gc
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.part_cases import CASES, EVENT_SHAPE, LATENT_DIM, SLOTS, X, case_id, slot_of
from tfvae import VAE, export, objectives, posteriors, priors
from tfvae.elbo import Sampling
from tfvae.networks import dense_decoder, dense_encoder

FORMATS = ("saved_model", "tflite")
PARTS = {slot: [case for case in CASES if slot_of(case[0]) == slot] for slot in SLOTS}
INDEPENDENT = (posteriors.DiagonalNormal, posteriors.Laplace, priors.StandardNormal, priors.Normal)
WITHOUT_MEAN = (
    posteriors.CouplingFlow,
    posteriors.InverseAutoregressiveFlow,
    posteriors.SplineFlow,
    posteriors.SylvesterFlow,
    posteriors.RelaxedOneHotCategorical,
    posteriors.PowerSpherical,
    posteriors.VonMisesFisher,
)


def refusals(parts):
    """The error and message that a model of these parts must raise: on construction, and in its first step."""
    posterior, prior, objective = (parts[slot] for slot in ("posterior", "prior", "objective"))
    if prior.support not in (None, posterior.support):
        return (ValueError, "`prior` must have the support of"), None
    if objective.needs_density and not posterior.has_density:
        return (ValueError, "`objective` must not need log q"), None
    if not posterior.has_density and isinstance(prior, priors.VampPrior):
        return (NotImplementedError, "which has no density"), None
    if not posterior.has_log_prob and (objective.path_gradient or isinstance(prior, priors.VampPrior)):
        return (NotImplementedError, "its own draws alone"), None
    needs_each = isinstance(objective, objectives.BetaTCVAE), getattr(objective, "per_dimension", False)
    if (any(needs_each) and not isinstance(posterior, INDEPENDENT)) or (
        needs_each[1] and not isinstance(prior, INDEPENDENT)
    ):
        return (ValueError, "`objective` must not need independent dimensions"), None
    if getattr(objective, "covariance", None) == "means" and isinstance(posterior, WITHOUT_MEAN):
        return None, (ValueError, '`covariance` must be "draws"')
    return None, None


def model_of(parts, run_eagerly=False):
    parameter_shape = parts["likelihood"].parameter_shape(EVENT_SHAPE)
    vae = VAE(
        dense_encoder(EVENT_SHAPE, hidden=(8,), activation="tanh"),
        dense_decoder(LATENT_DIM, parameter_shape, hidden=(8,), activation="tanh"),
        LATENT_DIM,
        **parts,
    )
    vae.compile(keras.optimizers.Adam(0.001), jit_compile=False, run_eagerly=run_eagerly)
    return vae


def check(cases, tmp_path, formats=FORMATS, run_eagerly=False):
    """Checks that a model of these parts trains, saves and exports, or raises the errors it must."""
    keras.utils.set_random_seed(0)
    parts = {slot: part(**arguments) for slot, (part, arguments) in cases.items()}
    at_once, in_first_step = refusals(parts)
    if at_once is not None:
        with pytest.raises(at_once[0], match=at_once[1]):
            model_of(parts)
        return
    vae = model_of(parts, run_eagerly)
    if in_first_step is not None:
        with pytest.raises(in_first_step[0], match=in_first_step[1]):
            vae.train_on_batch(X)
        return
    assert np.isfinite(vae.train_on_batch(X, return_dict=True)["loss"])
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    # Not traced, as those of a prediction would be.
    terms = [model.elbo_terms(X, Sampling(num_samples=1, seed=tf.constant([0, 0])))[:4] for model in (loaded, vae)]
    tf.nest.map_structure(np.testing.assert_array_equal, *terms)
    # Each export compares itself with the model, and raises an error if they differ.
    if "saved_model" in formats:
        export.saved_model(loaded, tmp_path / "model", x=X)
    if "tflite" not in formats:
        return
    if isinstance(parts["posterior"], posteriors.FullCovarianceNormal) and isinstance(parts["prior"], priors.VampPrior):
        with pytest.raises(NotImplementedError, match="TFLite cannot run this model with its built-in ops"):
            export.tflite(loaded, tmp_path / "model.tflite", x=X)
        return
    export.tflite(loaded, tmp_path / "model.tflite", x=X)


def first_of_its_class(slot, index):
    return PARTS[slot][index][0] not in [part for part, _ in PARTS[slot][:index]]


def every_part(firsts):
    """Models of compatible parts that together cover the first, or all other, parts of each class.

    They are chosen greedily by the number of new parts.
    """
    made = {slot: [part(**arguments) for part, arguments in cases] for slot, cases in PARTS.items()}
    missing = {
        (slot, index)
        for slot, cases in PARTS.items()
        for index in range(len(cases))
        if first_of_its_class(slot, index) == firsts
    }
    fitting = [
        dict(zip(SLOTS, indices, strict=True))
        for indices in itertools.product(*(range(len(cases)) for cases in PARTS.values()))
        if indices[list(SLOTS).index("likelihood")] == 0
        and refusals({slot: made[slot][index] for slot, index in zip(SLOTS, indices, strict=True)}) == (None, None)
    ]
    while missing:
        chosen = max(fitting, key=lambda model: len(missing & set(model.items())))
        # Likelihoods are compatible with every other part, so a missing one can replace the first.
        likelihood = min((index for slot, index in missing if slot == "likelihood"), default=0)
        chosen = {**chosen, "likelihood": likelihood}
        missing -= set(chosen.items())
        yield {slot: PARTS[slot][index] for slot, index in chosen.items()}


def every_pair():
    """Models that together cover every pair of parts, chosen greedily by the number of new pairs."""
    slots = list(PARTS)
    indices = [range(len(PARTS[slot])) for slot in slots]
    missing = {
        (first, one, second, other)
        for first, second in itertools.combinations(range(len(slots)), 2)
        for one in indices[first]
        for other in indices[second]
    }
    while missing:
        first, one, second, other = min(missing)
        chosen = {first: one, second: other}
        for place in sorted(set(range(len(slots))) - set(chosen)):
            gains = [
                sum(
                    (*low, *high) in missing
                    for low, high in (sorted([(place, index), pair]) for pair in chosen.items())
                )
                for index in indices[place]
            ]
            chosen[place] = int(np.argmax(gains))
        missing -= {(*low, *high) for low, high in itertools.combinations(sorted(chosen.items()), 2)}
        yield {slot: PARTS[slot][chosen[place]] for place, slot in enumerate(slots)}


def model_id(cases):
    return "-".join(case_id(case) for case in cases.values())


# Without exports: those of each part are tested in test_parts.py, and those of all these models in the slow test.
@pytest.mark.parametrize("run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["eager", "graph"])
@pytest.mark.parametrize(
    "cases",
    [*every_part(True), *(pytest.param(cases, marks=pytest.mark.slow) for cases in every_part(False))],
    ids=model_id,
)
def test_every_part_in_a_model(cases, run_eagerly, tmp_path):
    assert refusals({slot: part(**arguments) for slot, (part, arguments) in cases.items()}) == (None, None)
    check(cases, tmp_path, formats=(), run_eagerly=run_eagerly)


@pytest.fixture
def forgotten():
    """Frees what Keras keeps of the models of a test, about 60 MB each."""
    yield
    keras.backend.clear_session()
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("cases", list(every_pair()), ids=model_id)
def test_every_pair_of_parts_in_a_model(cases, tmp_path):
    check(cases, tmp_path)
