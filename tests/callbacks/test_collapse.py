"""The warning of a posterior that has collapsed, as a whole or in a part of z."""

import re
import warnings

import keras
import numpy as np
import pytest

import tfvae
from tests.models.test_every_model import MODELS
from tfvae.callbacks import PosteriorCollapseWarning
from tfvae.objectives import ELBO


def collapses(record):
    return [str(warning.message) for warning in record if "collapsed" in str(warning.message)]


def warnings_of(model, values, weights=None):
    """The warnings of a training whose epochs have the given KL divergences and KL weights."""
    callback = PosteriorCollapseWarning()
    callback.set_model(model)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        callback.on_train_begin()
        for epoch, (kl, weight) in enumerate(zip(values, weights or [1.0] * len(values), strict=True)):
            model.warm_up_kl(start=weight, steps=10**6)
            callback.on_epoch_end(epoch, {"kl": kl})
    return collapses(record)


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ([5.0, 3.0, 4.0], None),
        ([0.04], None),
        ([0.04, 0.03, 0.02], 2),
        ([5.0, 0.04, 0.03], 3),
        ([0.0, 0.0], 2),
        # Training that starts to use z, and training that loses z only for one epoch.
        ([0.01, 0.02, 0.04, 0.3, 2.0], None),
        ([5.0, 0.04, 0.3, 0.04], None),
        ([float("nan")] * 3, None),
    ],
)
def test_a_collapse_is_warned_of_once(values, epoch, known_model):
    found = warnings_of(known_model(), values)
    assert len(found) == (epoch is not None)
    for message in found:
        assert f"was {values[epoch - 1]:.2g} nats in epoch {epoch}, " in message
        assert "KLWarmUp" in message


def test_a_warm_up_is_no_collapse(known_model):
    assert not warnings_of(known_model(), [0.01] * 4, [0.1, 0.5, 0.9, 1.0])
    assert "in epoch 5, " in warnings_of(known_model(), [0.01] * 5, [0.1, 0.5, 0.9, 1.0, 1.0])[0]


@pytest.mark.parametrize(
    "kind", ["a large beta", pytest.param("a decoder that ignores z", marks=pytest.mark.slow), "healthy"]
)
def test_a_fit_that_collapses_says_so_and_a_healthy_one_does_not(kind, tiny_vae, quiet_vae, recwarn):
    x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32") @ np.ones((2, 4), "float32")
    build = quiet_vae if kind == "a decoder that ignores z" else tiny_vae
    vae = build(objective=ELBO(beta=100.0 if kind == "a large beta" else 1.0), likelihood=tfvae.likelihoods.Normal(0.3))
    vae.compile(keras.optimizers.Adam(0.03), steps_per_execution=10)
    kl = vae.fit(x, batch_size=20, epochs=15, verbose=0).history["kl"][-1]
    assert (kl > 1) == (kind == "healthy")
    assert len(collapses(recwarn)) == (kind != "healthy")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        # The divergence of the labels does not show that z is used.
        ("semi-supervised", {"kl": [1.2, 1.1], "kl_z": [0.02, 0.01]}, "the metric `kl_z`, was 0.01 nats"),
        ("semi-supervised", {"kl": [3.0, 3.0], "kl_z": [2.0, 2.0]}, None),
        # One layer is used and the other is not; in a bottom-up model the first divergence may be below 0.
        ("hierarchical", {"kl_1": [5.0, 5.0], "kl_2": [0.02, 0.01]}, "the metric `kl_2`, was 0.01 nats"),
        ("hierarchical", {"kl_1": [-1.0, -1.0], "kl_2": [5.0, 5.0], "kl": [4.0, 4.0]}, None),
        (
            "ladder",
            {"kl_1": [0.02, 0.01], "kl_2": [5.0, 5.0], "kl": [5.0, 5.0]},
            "`kl_1`, was 0.01 nats in epoch 2, so .* 1 of its layers",
        ),
        ("ladder", {"kl_1": [0.02, 0.01], "kl_2": [0.03, 0.02]}, "`kl_1`, was 0.01 .* `kl_2`, was 0.02 .* 2 of its"),
        (
            "deep",
            {"kl_1": [5.0, 5.0], "kl_2": [0.02, 0.01], "kl": [5.0, 5.0]},
            "`kl_2`, was 0.01 nats in epoch 2, so .* 1 of its layers",
        ),
        ("deep", {"kl_1": [5.0, 5.0], "kl_2": [0.02, 0.03], "kl": [5.0, 5.0]}, None),
        ("vq", {"kl": [0.0, 0.0]}, None),
    ],
)
def test_a_collapse_of_a_part_of_z_is_found(name, values, message):
    callback = PosteriorCollapseWarning()
    callback.set_model(MODELS[name][0]())
    callback.on_train_begin()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        for epoch in range(2):
            callback.on_epoch_end(epoch, {key: both[epoch] for key, both in values.items()})
    found = collapses(record)
    assert len(found) == (message is not None)
    assert not found or re.search(message, found[0])


def test_a_layer_that_collapses_later_is_warned_of_too():
    callback = PosteriorCollapseWarning()
    callback.set_model(MODELS["deep"][0]())
    callback.on_train_begin()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        for epoch, kl_1 in enumerate([5.0, 0.04, 0.03, 0.02]):
            callback.on_epoch_end(epoch, {"kl_1": kl_1, "kl_2": 0.01})
    early, late = collapses(record)
    assert "`kl_2`, was 0.01 nats in epoch 2, " in early
    assert "`kl_1`, was 0.03 nats in epoch 3, " in late
    assert "kl_1" not in early
    assert "kl_2" not in late


def test_variational_inference_has_no_posterior_of_each_x_to_collapse(recwarn):
    model = tfvae.VariationalInference(lambda latents, _: -0.5 * latents["x"] ** 2, {"x": ()})
    # q starts at the exact posterior, and log p(z) is not known separately, so `kl` is a negative entropy.
    assert max(model.fit(epochs=2, verbose=0).history["kl"]) < 0.05
    assert not collapses(recwarn)
