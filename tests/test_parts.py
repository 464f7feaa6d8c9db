"""What every posterior, prior, likelihood and objective must do: configurations, XLA, mixed precision, files.

A new part needs a line in the CASES of `tests/helpers/part_cases.py`.
"""

import functools
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from ai_edge_litert.interpreter import Interpreter

from tests.helpers.part_cases import CASES, EVENT_SHAPE, LATENT_DIM, SLOTS, X, case_id, slot_of
from tfvae import VAE, likelihoods, objectives, posteriors, priors
from tfvae.elbo import Path, Sampling
from tfvae.networks import dense_decoder, dense_encoder

# The partner of a part whose z has another support than the default's.
PARTNERS = {
    ("posterior", "sphere"): ("prior", priors.HypersphericalUniform),
    ("prior", "sphere"): ("posterior", posteriors.PowerSpherical),
    ("posterior", "simplex"): ("prior", functools.partial(priors.RelaxedOneHotCategorical, num_categories=2)),
    ("prior", "simplex"): ("posterior", functools.partial(posteriors.RelaxedOneHotCategorical, num_categories=2)),
}


@pytest.fixture(params=CASES, ids=case_id)
def case(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["", "named"])
def arguments(case, request):
    """The constructor arguments of the case, without and with those that every Keras layer takes."""
    layer_arguments = {"name": "part", "trainable": False} if issubclass(case[0], keras.layers.Layer) else {}
    return {**case[1], **(layer_arguments if request.param else {})}


@pytest.fixture(params=["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def mixed_precision(request, dtype_policy):
    dtype_policy(request.param)
    return request.param


def as_json(part):
    """The configuration as a file has it, with lists for the tuples in that of a network."""
    return json.dumps(part.get_config())


def vae_with(case, **compile_arguments):
    """A VAE with the part in its slot and the defaults, or what the part needs, in the others."""
    part, arguments = case
    parts = {slot_of(part): part(**arguments)}
    partner = PARTNERS.get((slot_of(part), getattr(part, "support", "real")))
    if partner:
        parts[partner[0]] = partner[1]()
    if not getattr(part, "has_density", True):
        parts["objective"] = objectives.MMD()
    parameter_shape = parts.get("likelihood", likelihoods.Normal()).parameter_shape(EVENT_SHAPE)
    vae = VAE(
        dense_encoder(EVENT_SHAPE, hidden=(8,), activation="tanh"),
        dense_decoder(LATENT_DIM, parameter_shape, hidden=(8,), activation="tanh"),
        LATENT_DIM,
        **parts,
    )
    vae.compile(keras.optimizers.Adam(0.01), **compile_arguments)
    return vae


def assert_fit_trains_every_weight(vae, epochs=1):
    before = [variable.numpy().copy() for variable in vae.trainable_variables]
    loss = vae.fit(X, batch_size=16, epochs=epochs, verbose=0).history["loss"][-1]
    assert np.isfinite(loss)
    for variable, old in zip(vae.trainable_variables, before, strict=True):
        new = variable.numpy()
        assert np.all(np.isfinite(new)), variable.path
        assert np.any(new != old), variable.path


@pytest.mark.parametrize("slot", SLOTS)
def test_no_missing_parts(slot):
    module, base = SLOTS[slot]
    defined = {
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__.startswith(f"{module.__name__}.")
        and not inspect.isabstract(value)
        and not name.startswith("_")
    }
    tested = {part for part, _ in CASES if slot_of(part) == slot}
    assert defined == tested, f"parts without a case in this file: {defined - tested}"


def test_config_is_exactly_the_constructors_arguments(case, arguments):
    part, _ = case
    config = part(**arguments).get_config()
    parameters = inspect.signature(part).parameters.values()
    expected = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    if issubclass(part, keras.layers.Layer):
        expected |= {"name", "trainable", "dtype"}
    assert set(config) == expected
    assert arguments.items() <= config.items()


def test_config_round_trip(case, arguments):
    part, _ = case
    original = part(**arguments)
    again = part.from_config(original.get_config())
    assert type(again) is part
    assert again.get_config() == original.get_config()


def test_config_round_trip_through_keras_in_safe_mode(case, arguments):
    part, _ = case
    original = part(**arguments)
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(original)))
    assert serialized["registered_name"] == f"{SLOTS[slot_of(part)][0].__name__}>{part.__name__}"
    again = keras.saving.deserialize_keras_object(serialized, safe_mode=True)
    assert type(again) is part
    assert as_json(again) == as_json(original)


# But for the one that is built from a model.
OVER_Z = [case for case in CASES if slot_of(case[0]) in ("posterior", "prior") and case[0] is not priors.VampPrior]


@pytest.mark.parametrize("case", OVER_Z, ids=case_id)
def test_a_part_says_whether_the_dimensions_of_z_are_independent(case):
    kind, arguments = case
    part = kind(**arguments)
    part.build((None, LATENT_DIM))
    is_prior = slot_of(kind) == "prior"
    distribution = part.distribution() if is_prior else part.distribution(part(tf.zeros([2, LATENT_DIM])))
    is_independent = (
        isinstance(distribution, tfp.distributions.Independent) and not distribution.distribution.event_shape.rank
    )
    assert part.is_independent == is_independent


LIKELIHOODS = [case for case in CASES if slot_of(case[0]) == "likelihood"]


@pytest.mark.parametrize("case", LIKELIHOODS, ids=case_id)
def test_a_likelihood_that_factorises_is_the_sum_over_elements_and_no_other_is(case):
    part, arguments = case
    likelihood = part(**arguments)
    shape = likelihood.parameter_shape(EVENT_SHAPE)
    likelihood.build((None, *shape))
    parameters = np.random.default_rng(0).normal(size=(3, 2, *shape)).astype("float32")
    elements = likelihood.element_log_prob(tf.constant(X[:2]), tf.constant(parameters))
    by_element = tf.reduce_sum(elements, axis=list(range(2, 2 + len(EVENT_SHAPE))))
    is_sum = np.allclose(by_element, likelihood.log_prob(X[:2], parameters), rtol=1e-5)
    assert likelihood.factorises == is_sum == (part is not likelihoods.Perceptual)


# Objectives are never built.
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if slot_of(case[0]) != "objective"],
    ids=case_id,
)
def test_config_of_a_part_in_a_built_model_makes_a_part_that_is_not_built(case):
    original = getattr(vae_with(case), slot_of(case[0]))
    again = type(original).from_config(original.get_config())
    assert again.get_config() == original.get_config()
    assert not getattr(again, "built", False)
    assert getattr(again, "latent_dim", LATENT_DIM) == LATENT_DIM


@pytest.mark.slow
def test_trains_under_xla(case):
    assert_fit_trains_every_weight(vae_with(case, jit_compile=True))


@pytest.mark.slow
# The data are noise, about which a posterior need not say anything.
@pytest.mark.filterwarnings("ignore:The posterior has collapsed:UserWarning")
def test_terms_and_training_under_mixed_precision(case, mixed_precision):
    vae = vae_with(case, jit_compile=False)
    assert vae.encoder.compute_dtype == vae.decoder.compute_dtype == mixed_precision.removeprefix("mixed_")
    objective = vae.objective
    terms = vae.elbo_terms(
        tf.constant(X),
        Sampling(
            num_samples=objective.num_samples,
            seed=tf.constant([1, 2]),
            path=Path() if objective.path_gradient else None,
        ),
    )
    for name in ("reconstruction_log_likelihood", "log_prior", "log_posterior", "kl"):
        term = getattr(terms, name)
        if term is None:
            assert not vae.has_bound
            continue
        assert term.dtype == tf.float32, name
        assert np.all(np.isfinite(term)), name
    assert objective(terms).dtype == tf.float32
    # Keras skips steps whose gradient overflows float16 and halves its loss scale each time, so one epoch is too few.
    assert_fit_trains_every_weight(vae, epochs=5)


# One part of each slot; the slow test of mixed precision has all of them too.
SOME_MIXED = [
    next(case for case in CASES if case[0] is part)
    for part in (posteriors.CouplingFlow, priors.NormalMixture, likelihoods.NegativeBinomial, objectives.MMD)
]


@pytest.mark.parametrize(
    "case",
    [case if case in SOME_MIXED else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
    ids=case_id,
)
@pytest.mark.usefixtures("mixed_precision")
def test_mixed_precision_gives_nearly_the_terms_of_float32(case, dtype_policy):
    mixed = vae_with(case)
    dtype_policy("float32")
    single = vae_with(case)
    single.set_weights(mixed.get_weights())
    terms = [
        vae.elbo_terms(tf.constant(X), Sampling(num_samples=4, seed=tf.constant([1, 2]))) for vae in (mixed, single)
    ]
    # bfloat16 has less than three digits, and the ELBO sums six pixels after two layers.
    if mixed.has_bound:
        np.testing.assert_allclose(terms[0].elbo, terms[1].elbo, rtol=0.03, atol=0.1)
    else:
        np.testing.assert_allclose(*(each.reconstruction_log_likelihood for each in terms), rtol=0.03, atol=0.1)


# On a device

DRAWN = [case for case in CASES if slot_of(case[0]) in ("posterior", "prior")]
GENERATOR = np.random.default_rng(1)
# Features and noise.
INPUTS = [GENERATOR.normal(size=(5, size)).astype("float32") for size in (8, LATENT_DIM)]


def drawn(case):
    """What an export holds of a part: a function from features and noise to z and its log-density."""
    vae = vae_with(case)
    generator = np.random.default_rng(0)
    # So that no weight has a value, such as 0, that could hide a mistake.
    vae.set_weights([w + generator.normal(scale=0.3, size=w.shape) for w in vae.get_weights()])

    def from_posterior(features, noise):
        parameters = vae.posterior(features)
        z, log_prob = vae.posterior.sample_and_log_prob_from(parameters, noise)
        return {**parameters, "z": z, **({} if log_prob is None else {"log_prob": log_prob})}

    def from_prior(features, noise):
        more = features[:, : vae.prior.noise_dim]
        z = vae.prior.sample_from(tf.concat([noise, more], axis=1) if vae.prior.noise_dim else noise)
        return {"z": z, "log_prob": vae.prior.distribution_from(more).log_prob(z)}

    return from_posterior if slot_of(case[0]) == "posterior" else from_prior


@pytest.fixture(scope="module")
def on_a_device():
    """The functions that draw from each posterior and prior, and what one TFLite model of them all gives."""
    functions = [drawn(case) for case in DRAWN]

    @tf.function(autograph=False)
    def every_part(features, noise):
        outputs = [function(features, noise) for function in functions]
        return {f"{index} {name}": value for index, part in enumerate(outputs) for name, value in part.items()}

    graph = every_part.get_concrete_function(*(tf.TensorSpec([None, array.shape[1]]) for array in INPUTS))
    # By default the converter takes built-in ops alone.
    interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_concrete_functions([graph]).convert())
    inputs = [place["index"] for place in interpreter.get_input_details()]
    for place, array in zip(inputs, INPUTS, strict=True):
        interpreter.resize_tensor_input(place, array.shape)
    interpreter.allocate_tensors()
    for place, array in zip(inputs, INPUTS, strict=True):
        interpreter.set_tensor(place, array)
    interpreter.invoke()
    outputs = (interpreter.get_tensor(place["index"]) for place in interpreter.get_output_details())
    return functions, dict(zip(sorted(graph.structured_outputs), outputs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(DRAWN)), ids=map(case_id, DRAWN))
def test_a_device_draws_what_the_part_does(on_a_device, index):
    functions, outputs = on_a_device
    expected = functions[index](*map(tf.constant, INPUTS))
    assert {name for name in outputs if name.startswith(f"{index} ")} == {f"{index} {name}" for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[f"{index} {name}"], value, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_a_file_gives_the_same_model(case, tmp_path):
    vae = vae_with(case, jit_compile=False)
    vae.fit(X, batch_size=16, verbose=0)
    vae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    slot = slot_of(case[0])
    assert as_json(getattr(loaded, slot)) == as_json(getattr(vae, slot))
    for variable, other in zip(vae.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy(), err_msg=variable.path)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), vae.predict(X, verbose=0))
    if vae.has_bound:
        np.testing.assert_array_equal(
            loaded.log_likelihood(X, num_samples=20, seed=7), vae.log_likelihood(X, num_samples=20, seed=7)
        )
    assert loaded.evaluate(X, verbose=0, return_dict=True) == vae.evaluate(X, verbose=0, return_dict=True)
