"""How the constructors of models treat the parts that they are given."""

import keras
import pytest

import tfvae
from tfvae import networks
from tfvae.likelihoods import Likelihood, Normal
from tfvae.models import parts
from tfvae.posteriors import DiagonalNormal, Posterior
from tfvae.priors import Prior, StandardNormal


def test_a_part_is_taken_as_it_is_and_none_is_the_default():
    normal = Normal(0.1)
    assert parts.checked_part("likelihood", normal, Likelihood, default=Normal) is normal
    first, second = (parts.checked_part("likelihood", None, Likelihood, default=Normal) for _ in range(2))
    assert type(first) is type(second) is Normal
    # Models do not share parts.
    assert first is not second


@pytest.mark.parametrize(
    ("kinds", "given", "expected"),
    [
        ((Likelihood,), "Normal", "a Likelihood. Received: 'Normal'"),
        ((Likelihood,), None, "a Likelihood. Received: None"),
        ((Likelihood,), Normal, "a Likelihood. Received: <class"),
        ((Prior, Posterior), 1, "a Prior or a Posterior. Received: 1"),
        ((tfvae.objectives.Objective,), 1, "an Objective. Received: 1"),
    ],
)
def test_a_part_of_another_kind_is_named(kinds, given, expected):
    with pytest.raises(ValueError, match=f"^`part` must be {expected}"):
        parts.checked_part("part", given, *kinds)


def test_a_network_is_a_keras_layer():
    dense = keras.layers.Dense(2)
    assert parts.checked_network("encoder", dense) is dense
    with pytest.raises(ValueError, match=r"^`encoder` must be a Keras model. Received: <function"):
        parts.checked_network("encoder", lambda x: x)


def test_a_part_is_built_once():
    prior = StandardNormal(2)
    parts.build(prior, (None, 2))
    assert prior.built
    prior.build = None
    parts.build(prior, (None, 2))


def test_a_part_that_is_refused_leaves_the_others_as_they_were():
    posterior = DiagonalNormal()
    for wrong in ({"prior": 1}, {"likelihood": 1}, {"objective": 1}):
        with pytest.raises(ValueError, match=f"^`{next(iter(wrong))}` must be "):
            tfvae.VAE(networks.dense_encoder((3,), (4,)), networks.dense_decoder(2, (3,), (4,)), 2, posterior, **wrong)
    assert posterior.latent_dim is None
    assert not posterior.built


@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (
            DiagonalNormal(3),
            "latent_dim=1, that of the .*, or None. Received: latent_dim=3",
        ),
        (tfvae.posteriors.PowerSpherical(), r'the support "real".*Received: PowerSpherical, whose support is sphere'),
    ],
)
def test_a_family_must_be_over_the_unconstrained_space(posterior, message):
    with pytest.raises(ValueError, match=f"^`posterior` must have {message}"):
        tfvae.LocalLatents({"z": ()}, networks.dense_encoder((3,), (4,)), posterior)
    with pytest.raises(ValueError, match=f"^`posterior` must have {message}"):
        tfvae.VariationalInference(lambda latents, data: latents["z"], {"z": ()}, posterior=posterior)
