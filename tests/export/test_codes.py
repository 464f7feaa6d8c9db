"""Exports of a VQVAE: codes from x, x from codes, and draws of both by noise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfvae import VQVAE, CodePrior, export, networks, private_apis

X = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")
K, POSITIONS = 4, 3


def vqvae(prior=None, **arguments):
    keras.utils.set_random_seed(0)
    encoder = networks.dense_decoder(5, (POSITIONS, 4), (6,), name="encoder")
    vectors = keras.Input((POSITIONS, 4))
    decoder = keras.Model(vectors, keras.layers.Dense(5)(keras.layers.Flatten()(vectors)))
    model = VQVAE(encoder, decoder, K, prior=prior, **arguments)
    rng = np.random.default_rng(1)
    for weight in [model.codebook, *(prior.weights if prior else ())]:
        weight.assign(weight + 0.5 * rng.normal(size=weight.shape))
    return model


def check(model, exported):
    """Compares the methods of an opened export with those of the model, where rounding changes no code."""
    clear = model.export_examples(model.export_data(X))
    x, uniform = clear["encode"]["x"], clear["generate"]["uniform"]
    codes = exported.encode(x)["codes"]
    np.testing.assert_array_equal(codes, model.encode(x))
    np.testing.assert_allclose(exported.decode(codes), model.decode(codes.astype(int)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported.reconstruct(x), model.reconstruct(x), rtol=1e-4, atol=1e-5)
    expected = model.decode(model._codes_of_noise(uniform))
    np.testing.assert_allclose(exported.generate(uniform), expected, rtol=1e-4, atol=1e-5)
    assert exported.noise("generate", 7)["uniform"].shape == (7, *uniform.shape[1:])
    for name, values in model.score(x).items():
        np.testing.assert_allclose(exported.score(x)[name], values, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(exported.predict(x)[name], values, rtol=1e-4, atol=1e-4)
    for wrong in (0.5, -1, K):
        given = codes.copy()
        given.ravel()[0] = wrong
        with pytest.raises(ValueError, match=rf"`codes` must hold integers from 0 to 3\. Received: codes .* {wrong:g}"):
            exported.decode(given)


@pytest.mark.parametrize("kind", ["uniform", pytest.param("learned", marks=pytest.mark.slow)])
def test_a_saved_model_takes_and_gives_codes(kind, tmp_path):
    model = vqvae(CodePrior(8, 2, 1) if kind == "learned" else None, num_levels=2)
    version = export.saved_model(model, tmp_path / "vq")
    exported = export.load(version)
    assert exported.metadata["num_codes"] == K
    assert exported.metadata["code_shape"] == [POSITIONS, 2]
    check(model, exported)
    # A server passes on what it is sent: wrong codes are answered with NaN, and the other rows are right.
    codes = model.encode(X[:3]).astype("float32")
    codes[1, 0, 0] = K
    answer = tf.saved_model.load(str(version)).signatures["decode"](codes=tf.constant(codes))["mean"].numpy()
    assert np.isnan(answer).any(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(answer[[0, 2]], model.reconstruct(X[:3])[[0, 2]], rtol=1e-4, atol=1e-5)
    assert "codes from 0 to 3 of the shape [3, 2]" in " ".join((tmp_path / "vq" / "README.md").read_text().split())


@pytest.mark.parametrize(
    ("kind", "batch_size"),
    [("learned", None), ("learned", 1), ("uniform", 1), ("groups", 1)],
)
@pytest.mark.slow
def test_a_tflite_file_of_built_in_ops_takes_and_gives_codes(kind, batch_size, tmp_path):
    prior = None if kind == "uniform" else CodePrior(8, 2, 1)
    model = vqvae(prior, **({"num_groups": 2} if kind == "groups" else {"num_levels": 2}))
    check(model, export.load(export.tflite(model, tmp_path / "vq.tflite", batch_size=batch_size)))


def test_examples_whose_codes_rounding_could_change_are_not_compared():
    model = vqvae()
    # Halfway between two codes.
    model.codebook.assign(np.repeat([[-1.0], [1.0], [5.0], [9.0]], 4, axis=1))
    given = keras.Input((POSITIONS, 4))
    private_apis.replace_layer(model, "encoder", keras.Model(given, keras.layers.Identity()(given)))
    x = np.zeros((4, POSITIONS, 4), np.float32)
    x[0], x[1], x[2] = 0.9, 1e-5, 2.9
    np.testing.assert_array_equal(model._are_clear(tf.constant(x)), [True, False, True, False])
    np.testing.assert_array_equal(model._clear(x), x[[0, 2, 0, 2]])


def test_an_int8_file_is_refused(tmp_path):
    with pytest.raises(NotImplementedError, match='quantize="int8" would round codes'):
        export.tflite(vqvae(), tmp_path / "vq.tflite", quantize="int8", x=X)


@pytest.mark.slow
def test_an_export_of_half_precision_and_a_coarse_file_agree(dtype_policy, tmp_path):
    dtype_policy("mixed_bfloat16")
    model = vqvae(CodePrior(8, 2, 1), num_levels=2)
    copy = model.in_float32()
    np.testing.assert_array_equal(copy.codebook, model.codebook)
    for quantize in ("float16", "dynamic"):
        exported = export.load(export.tflite(model, tmp_path / f"{quantize}.tflite", quantize=quantize))
        codes = copy.encode(X)
        assert np.mean(exported.encode(X)["codes"] == codes) > 0.95
        np.testing.assert_allclose(exported.decode(codes), copy.decode(codes), rtol=0.05, atol=0.05)
