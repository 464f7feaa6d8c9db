"""`fit(noisy, clean)`: q(z|x) is of the noisy x, and the likelihood of the clean y."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae import likelihoods as lk
from tfvae import networks

RNG = np.random.default_rng(0)
CLEAN = (RNG.uniform(size=(12, 4)) < 0.5).astype("float32")
NOISY = (CLEAN + 0.3 * RNG.normal(size=CLEAN.shape)).astype("float32")
WEIGHTS = np.linspace(0.5, 2.0, 12, dtype="float32")


def model_of(kind, likelihood):
    """A model of x [B, 4], and what it takes in the place of an array of x."""
    encoder, decoder = networks.dense_encoder((4,), (3,)), networks.dense_decoder(2, (4,), ())
    if kind == "vae":
        return tfvae.VAE(encoder, decoder, 2, likelihood=likelihood), lambda x: x
    if kind == "hierarchical":
        encoders, decoders = (
            [encoder, networks.dense_encoder((2,), (3,))],
            [decoder, networks.dense_encoder((2,), (3,))],
        )
        return tfvae.HierarchicalVAE(encoders, decoders, (2, 2), likelihood=likelihood), lambda x: x
    if kind == "vq":
        decoder = networks.dense_encoder((2, 3), (4,), activation="linear")
        return tfvae.VQVAE(networks.dense_decoder(4, (2, 3), ()), decoder, 5, likelihood=likelihood), lambda x: x
    encoder, decoder = (
        networks.dense_encoder((4,), (3,), condition_dim=2),
        networks.dense_decoder(2, (4,), (), condition_dim=2),
    )
    if kind == "conditional":
        return tfvae.ConditionalVAE(encoder, decoder, 2, 2, likelihood=likelihood), (
            lambda x: {"x": x, "condition": np.eye(2, dtype="float32")[np.arange(len(x)) % 2]}
        )
    classifier = networks.dense_decoder(4, (2,), ())
    return tfvae.SemiSupervisedVAE(encoder, decoder, classifier, 2, 2, likelihood=likelihood), (
        lambda x: {"x": x, "label": np.arange(len(x)) % 3 - 1}
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("vae", "conditional")),
        "semi-supervised",
        "hierarchical",
        "vq",
    ],
)
def test_the_likelihood_is_of_y_and_the_posterior_of_x(kind):
    model, of_x = model_of(kind, lk.Bernoulli())
    model.compile(run_eagerly=True)
    seen = []
    encode, log_prob = model.likelihood.encoder_input, model.likelihood.log_prob

    def spy(name, function):
        return lambda x, *others, **options: seen.append((name, x.numpy())) or function(x, *others, **options)

    model.likelihood.encoder_input, model.likelihood.log_prob = spy("q", encode), spy("p", log_prob)
    model.train_on_batch(of_x(NOISY), CLEAN, sample_weight=WEIGHTS)
    for name, expected in (("q", NOISY), ("p", CLEAN)):
        found = [x for each, x in seen if each == name]
        assert found
        for x in found:
            np.testing.assert_array_equal(x.reshape(12, -1, 4)[:, 0], expected)


def linear(**mode):
    """A VAE whose log p(x|z) does not depend on the noise, compiled in a mode, such as `run_eagerly=True`."""
    keras.utils.set_random_seed(0)
    deaf = keras.layers.Dense(3, kernel_initializer="zeros", trainable=False)
    decoder = keras.Sequential([keras.Input((2,)), deaf, keras.layers.Dense(4)])
    vae = tfvae.VAE(networks.dense_encoder((4,), (3,)), decoder, 2, likelihood=lk.Bernoulli())
    vae.compile(keras.optimizers.SGD(0.1), **mode)
    return vae


def sources():
    pairs = tf.data.Dataset.from_tensor_slices((NOISY, CLEAN)).batch(4)
    return {
        "arrays": {"x": NOISY, "y": CLEAN, "batch_size": 4},
        "lists": {"x": NOISY, "y": CLEAN.tolist(), "batch_size": 4},
        "dataset": {"x": pairs},
        "generator": {"x": ((NOISY[i : i + 4], CLEAN[i : i + 4]) for i in (0, 4, 8)), "steps_per_epoch": 3},
        "validation": {"x": CLEAN, "validation_data": (NOISY, CLEAN, WEIGHTS)},
        "split": {"x": np.vstack([CLEAN, NOISY]), "y": np.vstack([CLEAN, CLEAN]), "validation_split": 0.5},
    }


# log p(y|z) = -4 log 2 where all logits are 0, if y is 0 or 1; the noisy x would give another value.
EXPECTED = -4 * np.log(2)


@pytest.mark.parametrize("name", sources())
def test_pairs_of_any_form_are_evaluated_at_y(name):
    vae = linear(run_eagerly=True)
    source = sources()[name]
    if "validation_data" in source or "validation_split" in source:
        vae.optimizer.learning_rate = 0.0
        metrics = {key.removeprefix("val_"): value[0] for key, value in vae.fit(**source, verbose=0).history.items()}
    else:
        source["steps"] = source.pop("steps_per_epoch", None)
        metrics = vae.evaluate(**source, verbose=0, return_dict=True)
    np.testing.assert_allclose(metrics["reconstruction_log_likelihood"], EXPECTED, rtol=1e-6)


@pytest.mark.slow
def test_many_steps_in_one_execution_give_the_weights_of_single_steps_and_of_a_dataset():
    """With sample weights, whose gradient with respect to the last bias is the weighted mean of y - 1/2."""
    steps = linear()
    for start in (0, 4, 8):
        part = slice(start, start + 4)
        steps.train_on_batch(NOISY[part], CLEAN[part], WEIGHTS[part])
    dataset = linear()
    dataset.fit(tf.data.Dataset.from_tensor_slices((NOISY, CLEAN, WEIGHTS)).batch(4), verbose=0)
    for expected, weight in zip(steps.get_weights(), dataset.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)
    arrays = linear()
    arrays.fit(NOISY, CLEAN, batch_size=12, sample_weight=WEIGHTS, verbose=0)
    bias = arrays.decoder.layers[-1].bias
    np.testing.assert_allclose(bias, 0.1 * np.mean(WEIGHTS[:, None] * (CLEAN - 0.5), axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_y_that_is_x_or_has_another_shape_leaves_the_training_as_it_is():
    found = []
    for y in (None, CLEAN, CLEAN.copy(), np.arange(12), CLEAN[:, :3]):
        vae = linear(run_eagerly=True)
        vae.fit(CLEAN, y, verbose=0)
        found.append(vae.get_weights())
    for weights in found[1:]:
        for expected, weight in zip(found[0], weights, strict=True):
            np.testing.assert_array_equal(weight, expected)


def test_a_model_that_removes_noise_takes_noisy_x_even_from_a_file(tmp_path):
    vae = linear(run_eagerly=True)
    with pytest.raises(ValueError, match="hold only 0 and 1"):
        vae.reconstruct(NOISY)
    vae.fit(NOISY, CLEAN, verbose=0)
    vae.save(tmp_path / "model.keras")
    for model in (vae, keras.saving.load_model(tmp_path / "model.keras")):
        assert model.reconstruct(NOISY).shape == model.predict(NOISY, verbose=0).shape == CLEAN.shape
        assert model.encode(NOISY)["loc"].shape == (12, 2)
        # The likelihood of x is that of clean x.
        with pytest.raises(ValueError, match="hold only 0 and 1"):
            model.score(NOISY)
    vae.fit(CLEAN, verbose=0)
    with pytest.raises(ValueError, match="hold only 0 and 1"):
        vae.reconstruct(NOISY)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (NOISY.copy(), r"^`y` has the shape of x, so the likelihood is of y: .* hold only 0 and 1"),
        (np.where(CLEAN == 1, np.nan, 0), r"^`y` must be finite"),
        (CLEAN[:5], "same number of examples"),
    ],
)
def test_a_y_that_the_likelihood_cannot_give_is_refused(y, message):
    vae = linear()
    for call in (lambda: vae.fit(NOISY, y), lambda: vae.evaluate(NOISY, y), lambda: vae.train_on_batch(NOISY, y)):
        with pytest.raises(ValueError, match=message):
            call()


def test_class_weights_of_a_y_that_is_no_class_are_refused():
    with pytest.raises(ValueError, match=r"needs the classes as `y`\. Received: y of the shape of x, \[12, 4\]"):
        linear().fit(NOISY, CLEAN, class_weight={0: 1.0, 1: 2.0})


def test_a_dataset_that_hides_the_shape_of_y_is_refused():
    hidden = tf.TensorSpec(None, tf.float32)
    data = tf.data.Dataset.from_generator(
        lambda: iter([(NOISY, CLEAN)]), output_signature=(tf.TensorSpec((None, 4)), hidden)
    )
    with pytest.raises(ValueError, match="must be a dataset that knows the shapes of x and y"):
        linear().fit(data)


def test_a_placeholder_of_weights_is_no_target():
    """With x [N, 1], weights [N, 1] have its shape."""
    vae = tfvae.VAE(networks.dense_encoder((1,), ()), networks.dense_decoder(2, (1,), ()), 2, likelihood=lk.Bernoulli())
    vae.compile(run_eagerly=True)
    vae.fit(CLEAN[:, :1], sample_weight=WEIGHTS[:, None], verbose=0)
    assert not vae.denoises


@pytest.mark.slow
def test_a_training_to_remove_noise_that_goes_on_from_a_file_ends_like_one_in_one_piece(tmp_path):
    pairs = {"x": NOISY, "y": CLEAN, "sample_weight": WEIGHTS, "batch_size": 4, "verbose": 0}
    whole = linear()
    whole.fit(**pairs, epochs=3)
    part = linear()
    part.fit(**pairs, epochs=2)
    part.save(tmp_path / "model.keras")
    rest = keras.saving.load_model(tmp_path / "model.keras")
    rest.fit(**pairs, initial_epoch=2, epochs=3)
    assert rest.denoises
    for expected, weight in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "conditional", "semi-supervised", "hierarchical", "vq"])
def test_the_bound_of_pairs_grows_in_training_by_xla(kind):
    model, of_x = model_of(kind, lk.Bernoulli())
    model.compile(keras.optimizers.Adam(0.01), jit_compile=True)
    history = model.fit(of_x(NOISY), CLEAN, epochs=30, batch_size=4, verbose=0).history["reconstruction_log_likelihood"]
    assert history[-1] > history[0]
