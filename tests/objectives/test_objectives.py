"""Objectives: their values by hand, and what their constructors reject."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfvae import VAE
from tfvae.elbo import ElboTerms, Path, Sampling
from tfvae.networks import dense_decoder, dense_encoder
from tfvae.objectives import ELBO, IWAE, MIWAE, Objective

TERMS = ElboTerms(
    reconstruction_log_likelihood=tf.constant([[-1.0, -2.0], [-3.0, -6.0]]),
    log_prior=tf.constant([[-0.5, -1.0], [-0.25, -2.0]]),
    log_posterior=tf.constant([[-2.0, -0.5], [-1.0, -4.0]]),
    kl=tf.constant([0.5, 3.0]),
)


@pytest.mark.parametrize(
    ("beta", "expected"), [(0, [-2.0, -4.0]), (0.5, [-2.25, -5.5]), (1.0, [-2.5, -7.0]), (4.0, [-4.0, -16.0])]
)
def test_value_is_the_mean_log_likelihood_minus_beta_kl(beta, expected):
    np.testing.assert_array_equal(ELBO(beta)(TERMS), expected)


@pytest.mark.parametrize("arguments", [{}, {"num_samples": 5}, {"analytic_kl": False}])
def test_with_beta_1_the_value_is_the_elbo_of_the_terms(arguments):
    np.testing.assert_array_equal(ELBO(**arguments)(TERMS), TERMS.elbo)


def test_the_value_is_float32_for_each_example():
    value = ELBO(4.0)(TERMS)
    assert value.dtype == tf.float32
    assert value.shape == (2,)


def test_defaults_are_those_of_the_plain_bound():
    assert ELBO().get_config() == {
        "num_samples": 1,
        "analytic_kl": True,
        "beta": 1.0,
        "sticking_the_landing": False,
    }


def test_beta_is_the_only_positional_argument():
    assert ELBO(4.0).beta == 4.0
    with pytest.raises(TypeError):
        ELBO(4.0, 16)


@pytest.mark.parametrize(("name", "value"), [("beta", 2.0), ("num_samples", 2), ("analytic_kl", False)])
def test_an_objective_is_immutable(name, value):
    objective = ELBO()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(objective, name, value)


def test_objectives_with_equal_arguments_are_equal():
    assert ELBO(4.0, num_samples=3) == ELBO(beta=4, num_samples=3)
    assert ELBO(4.0) != ELBO(4.0, analytic_kl=False)
    assert len({ELBO(4.0), ELBO(4.0), ELBO(1.0)}) == 2


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Objective()


@pytest.mark.parametrize("num_samples", [0, -1, True, 1.5, 2.0, "x", None])
def test_num_samples_must_be_a_positive_integer(num_samples):
    with pytest.raises(
        ValueError, match=rf"`num_samples` must be an integer of at least 1\. Received: num_samples={num_samples!r}$"
    ):
        ELBO(num_samples=num_samples)


@pytest.mark.parametrize("beta", [-1, -1e-9, float("nan"), float("inf"), "x", None, True])
def test_beta_must_be_a_finite_number_of_at_least_0(beta):
    with pytest.raises(ValueError, match=rf"`beta` must be a finite number of at least 0\. Received: beta={beta!r}$"):
        ELBO(beta=beta)


@pytest.mark.parametrize("analytic_kl", ["False", None])
def test_analytic_kl_must_be_a_bool(analytic_kl):
    with pytest.raises(ValueError, match=rf"`analytic_kl` must be .*Received: analytic_kl={analytic_kl!r}$"):
        ELBO(analytic_kl=analytic_kl)


def test_numpy_numbers_become_pythons():
    config = ELBO(np.float32(4.0), num_samples=np.int64(3)).get_config()
    assert config == {"num_samples": 3, "analytic_kl": True, "beta": 4.0, "sticking_the_landing": False}
    assert {name: type(value) for name, value in config.items()} == {
        "num_samples": int,
        "analytic_kl": bool,
        "beta": float,
        "sticking_the_landing": bool,
    }


@pytest.mark.parametrize("doubly_reparameterized", [False, True])
def test_iwae_is_the_logarithm_of_the_mean_weight(doubly_reparameterized):
    value = IWAE(2, doubly_reparameterized=doubly_reparameterized)(TERMS)
    expected = [np.log((np.exp(0.5) + np.exp(-2.25)) / 2), np.log((np.exp(-2.5) + np.exp(-4.0)) / 2)]
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_iwae_of_weights_that_float32_cannot_hold():
    terms = TERMS._replace(reconstruction_log_likelihood=TERMS.reconstruction_log_likelihood - 1e4)
    np.testing.assert_allclose(IWAE(2)(terms), IWAE(2)(TERMS) - 1e4, rtol=1e-6)


def test_the_path_of_iwae_is_weighted_by_the_normalised_weights():
    first = 1 / (1 + np.exp([-2.25 - 0.5, -4.0 + 2.5]))
    weights = IWAE(2, doubly_reparameterized=True).path_weights(TERMS)
    np.testing.assert_allclose(weights, [first, 1 - first], rtol=1e-5)


def test_the_path_of_each_group_of_miwae_is_weighted_by_itself():
    # Each group has one draw, so it is an ELBO and the path has weight 1.
    weights = MIWAE(2, 2, doubly_reparameterized=True).path_weights(TERMS)
    np.testing.assert_array_equal(weights, np.ones([2, 2]))


def test_the_path_of_the_elbo_is_as_it_is():
    assert ELBO(sticking_the_landing=True).path_weights(TERMS) is None


def test_defaults_of_iwae():
    assert IWAE().get_config() == {"num_samples": 5, "doubly_reparameterized": False}
    assert not IWAE().path_gradient
    assert IWAE(doubly_reparameterized=True).path_gradient


def test_sticking_the_landing_needs_the_monte_carlo_form():
    objective = ELBO(2.0, sticking_the_landing=True)
    assert objective.path_gradient
    assert not objective.analytic_kl
    assert not ELBO().path_gradient
    np.testing.assert_array_equal(objective(TERMS), ELBO(2.0)(TERMS))


@pytest.mark.parametrize("value", ["False", None, 1])
@pytest.mark.parametrize(("objective", "name"), [(ELBO, "sticking_the_landing"), (IWAE, "doubly_reparameterized")])
def test_switches_must_be_bools(objective, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be True or False\. Received: {name}={value!r}$"):
        objective(**{name: value})


@pytest.mark.parametrize("num_samples", [0, True, 2.0, None])
def test_num_samples_of_iwae_must_be_a_positive_integer(num_samples):
    with pytest.raises(ValueError, match=rf"`num_samples` must be .*Received: num_samples={num_samples!r}$"):
        IWAE(num_samples)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_path_gradients_of_a_vae_are_those_of_the_decoder_and_others_of_the_encoder(beta):
    vae = VAE(dense_encoder((4,), hidden=(3,)), dense_decoder(2, (4,), hidden=(3,)), 2)
    x = tf.constant(np.random.default_rng(0).normal(size=(5, 4)), tf.float32)
    pairs = [
        (ELBO(beta, num_samples=4, analytic_kl=False), ELBO(beta, num_samples=4, sticking_the_landing=True)),
        (IWAE(4), IWAE(4, doubly_reparameterized=True)),
    ]
    for pair in pairs:
        losses, gradients = [], []
        for objective in pair:
            path = Path() if objective.path_gradient else None
            with tf.GradientTape() as tape:
                terms = vae.elbo_terms(x, Sampling(4, tf.constant([1, 2]), analytic_kl=False, path=path))
                if path is not None:
                    path.weights = objective.path_weights(terms)
                loss = tf.reduce_mean(objective(terms))
            losses.append(loss)
            variables = {part: getattr(vae, part).trainable_variables for part in ("encoder", "decoder")}
            gradients.append(tape.gradient(loss, variables))
        assert float(losses[0]) == float(losses[1])
        for one, other in zip(gradients[0]["decoder"], gradients[1]["decoder"], strict=True):
            np.testing.assert_array_equal(one, other)
        assert not any(
            np.allclose(one, other, rtol=1e-3)
            for one, other in zip(gradients[0]["encoder"], gradients[1]["encoder"], strict=True)
        )


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(4.0, num_samples=3, analytic_kl=False), ELBO(num_samples=3, sticking_the_landing=True)]
)
def test_the_model_estimates_the_terms_as_the_objective_asks_and_minimises_its_negative(objective, monkeypatch):
    seen = []
    vae = VAE(dense_encoder((4,), hidden=()), dense_decoder(2, (4,), hidden=()), 2, objective=objective)
    original = vae.elbo_terms

    def spy(x, sampling):
        seen.append((sampling, original(x, sampling)))
        return seen[-1][1]

    monkeypatch.setattr(vae, "elbo_terms", spy)
    vae.compile(run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    loss = vae.evaluate(x, verbose=0, return_dict=True)["loss"]
    ((sampling, terms),) = seen
    assert sampling.num_samples == objective.num_samples == terms.reconstruction_log_likelihood.shape[0]
    assert sampling.analytic_kl is objective.analytic_kl
    assert objective.path_gradient is (sampling.path is not None)
    monte_carlo = np.mean(terms.log_posterior - terms.log_prior, axis=0)
    assert np.allclose(terms.kl, monte_carlo) is not objective.analytic_kl
    expected = np.mean(terms.reconstruction_log_likelihood, axis=0) - objective.beta * terms.kl.numpy()
    assert loss == pytest.approx(-expected.mean(), rel=1e-5)
