"""Exported files against the Keras model, in this process and in one that has only TensorFlow."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfvae
from tfvae import export, likelihoods, networks

EVENT_SHAPE = (8, 8, 1)
SIGNATURES = {"encode", "decode", "reconstruct", "generate", "score", "serving_default"}


def binary_images(n):
    """Valid under every likelihood."""
    return np.random.default_rng(0).integers(0, 2, size=(n, *EVENT_SHAPE)).astype(np.float32)


def build(network="dense", likelihood=None, latent_dim=3):
    if network == "dense":
        encoder = networks.dense_encoder(EVENT_SHAPE, hidden=(16,))
        decoder = networks.dense_decoder(latent_dim, EVENT_SHAPE, hidden=(16,))
    else:
        encoder = networks.convolutional_encoder(EVENT_SHAPE, filters=(4,), hidden=(16,))
        decoder = networks.convolutional_decoder(latent_dim, EVENT_SHAPE, filters=(4,), hidden=(16,))
    return tfvae.VAE(encoder, decoder, latent_dim, likelihood=likelihood)


@pytest.mark.parametrize("network", ["dense", "convolutional"])
@pytest.mark.parametrize(
    "likelihood",
    [likelihoods.Normal(scale="learned"), likelihoods.Bernoulli(), likelihoods.ContinuousBernoulli()],
    ids=lambda part: type(part).__name__,
)
def test_every_signature_agrees_with_keras(tmp_path, network, likelihood):
    model = build(network, type(likelihood).from_config(likelihood.get_config()))
    version = export.saved_model(model, tmp_path / "model")
    file = export.tflite(model, tmp_path / "model.tflite")
    for batch in (1, 7):
        rows = export.verify(model, saved_model=version, tflite=file, x=binary_images(batch), timed_calls=1).agreements
        assert {(row.format, row.signature) for row in rows} == {
            (name, signature) for name in ("SavedModel", "TFLite") for signature in SIGNATURES
        }
        for row in rows:
            # Float32 sums in another order: some units in the last place of the largest value.
            assert row.max_difference < 5e-6 * max(row.max_value, 1), row


def test_verify_sees_a_wrong_export(tmp_path):
    model = build()
    version = export.saved_model(model, tmp_path / "model")
    model.decoder.layers[-2].bias.assign_add(np.full(64, 0.25))
    verification = export.verify(model, saved_model=version, x=binary_images(4), timed_calls=1)
    rows = {row.signature: row for row in verification.agreements if row.output in ("mean", "loc")}
    np.testing.assert_allclose(rows["decode"].max_difference, 0.25, rtol=1e-5)
    np.testing.assert_allclose(rows["decode"].mean_difference, 0.25, rtol=1e-5)
    assert rows["encode"].max_difference == 0
    assert "decode" in str(verification)


def test_saved_model_answers_where_only_tensorflow_is(tmp_path, run_python):
    model = build("convolutional")
    x = binary_images(5)
    version = export.saved_model(model, tmp_path / "model")
    np.savez(tmp_path / "expected.npz", x=x, mean=model.reconstruct(x), **model.encode(x))
    run_python(
        """
        import sys
        import numpy as np

        for name in ("tfvae", "keras", "tensorflow_probability", "tf_keras"):
            sys.modules[name] = None
        import tensorflow as tf

        loaded = tf.saved_model.load(sys.argv[1])
        expected = np.load(sys.argv[2])
        x = tf.constant(expected["x"])
        encoded = loaded.signatures["encode"](x=x)
        outputs = {**encoded, **loaded.signatures["decode"](z=encoded["loc"])}
        for name in ("loc", "scale", "mean"):
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, atol=1e-6)
        for signature in ("reconstruct", "serving_default"):
            mean = loaded.signatures[signature](x=x)["mean"]
            np.testing.assert_allclose(mean, expected["mean"], rtol=1e-5, atol=1e-6)
        """,
        version,
        tmp_path / "expected.npz",
    )


def test_saved_model_holds_no_path_and_no_training_state(tmp_path):
    model = build()
    model.compile("adam")
    model.fit(binary_images(8) * 0.5, verbose=0)
    version = export.saved_model(model, tmp_path / "model")
    variables = (version / "variables/variables.data-00000-of-00001").stat().st_size
    # Adam's state would treble it.
    assert variables < 4 * model.count_params() + 2000
    assert str(tmp_path).encode() not in (version / "saved_model.pb").read_bytes()


def test_versions_count_up_and_nothing_else_stays(tmp_path):
    model = build()
    folder = tmp_path / "model"
    (folder / "7").mkdir(parents=True)
    assert export.saved_model(model, folder).name == "8"
    assert export.saved_model(model, folder).name == "9"
    documents = {"README.md", "models.config", "batching.config", ".lock"}
    assert {path.name for path in folder.iterdir()} == {"7", "8", "9", *documents}


def test_tflite_has_built_in_ops_and_the_weights_once(tmp_path):
    model = tfvae.VAE(networks.dense_encoder(EVENT_SHAPE), networks.dense_decoder(8, EVENT_SHAPE), 8)
    file = export.tflite(model, tmp_path / "model.tflite")
    # The graphs of six signatures are some tens of kilobytes, the weights 400.
    assert file.stat().st_size < 4 * model.count_params() + 60_000
    interpreter = Interpreter(model_path=str(file))
    assert set(interpreter.get_signature_list()) == SIGNATURES
    operators = {details["op_name"] for details in interpreter._get_ops_details()}
    assert "FULLY_CONNECTED" in operators
    assert not any(name.startswith("Flex") or name == "CUSTOM" for name in operators)


def test_a_model_that_is_not_built_is_refused(tmp_path, lazy_vae):
    for function in (export.saved_model, export.tflite):
        with pytest.raises(ValueError, match="`model` must be built"):
            function(lazy_vae(), tmp_path / "x")
    assert not (tmp_path / "x").exists()
