"""Exports of models of texts and of sequences of any length."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tests.helpers import texts
from tests.helpers.texts import LATENT_DIM, TEXTS, VOCABULARY
from tfvae import export
from tfvae.data import Vocabulary
from tfvae.export.text_rows import TextRows
from tfvae.likelihoods import Missing, Normal
from tfvae.models import text_inputs


@pytest.mark.parametrize(
    ("kind", "given", "other"),
    [
        ("characters", ["to be", "é\n—"], "xyz"),
        ("words", ["to be or", "not  to"], "to new be"),
        ("smiles", ["C[nH+]%12Cl", "BrC#N", "[C@@H](C)C%12"], "C[Fe]"),
    ],
)
def test_a_graph_cuts_texts_as_the_vocabulary_does(kind, given, other):
    vocabulary = Vocabulary.learn(given, kind)
    columns = text_inputs.columns(vocabulary, 2)
    codes = columns.in_graph({"text": tf.constant(given)})
    np.testing.assert_array_equal(codes, vocabulary.encode(given))
    longer = text_inputs.columns(vocabulary, 30).in_graph({"text": tf.constant(given)})
    np.testing.assert_array_equal(longer, vocabulary.encode(given, 30))
    np.testing.assert_array_equal(columns.raw(codes.numpy())["text"], vocabulary.decode(codes))
    # What is no text of the vocabulary is marked by infinity, and other rows are as they would be alone.
    wrong = columns.in_graph({"text": tf.constant([other, "", given[0]])}).numpy()
    assert np.isinf(wrong[:2]).any(axis=(1, 2)).all()
    assert vocabulary.decode(wrong[2:]) == given[:1] or kind == "words"
    with_unknown = Vocabulary.learn(given, kind, unknown=True)
    made = text_inputs.columns(with_unknown, 1).in_graph({"text": tf.constant([other])})
    np.testing.assert_array_equal(made, with_unknown.encode([other]))


def test_one_text_alone_is_refused_with_the_way_out():
    rows = TextRows({"vocabulary": VOCABULARY.get_config()})
    with pytest.raises(ValueError, match=r"^`x` must be a list of texts. Received: x=.ab., one text: give it as"):
        rows.codes("ab")
    assert rows.codes(["ab"]).shape == (1, 3, 1)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return texts.text_vae(length=6)


@pytest.mark.slow
def test_a_saved_model_takes_texts_of_any_length_and_gives_texts(model, tmp_path):
    path = export.saved_model(model, tmp_path / "texts", x=TEXTS)
    loaded = export.load(path)
    longer = [*TEXTS, "abababababab"]
    np.testing.assert_allclose(loaded.encode(longer)["loc"], model.encode(longer)["loc"], atol=1e-5)
    epsilon = np.ones((len(longer), LATENT_DIM), np.float32)
    for given in (longer, VOCABULARY.encode(longer, 20)):
        scores, expected = loaded.score(given, epsilon), model.score(given, epsilon)
        for name in ("elbo", "kl"):
            np.testing.assert_allclose(scores[name], expected[name], atol=1e-4)
    assert scores["step_log_likelihood"].shape[0] == len(longer)
    assert loaded.reconstruct(TEXTS) == model.reconstruct(TEXTS)
    z = np.zeros((2, LATENT_DIM), np.float32)
    assert loaded.decode(z) == model.decode(z)
    drawn = loaded.generate_sample(**loaded.noise("generate_sample", 50, seed=0))
    assert len(set(drawn)) > 5
    served = tf.saved_model.load(str(path)).signatures["score"]
    answer = served(text=tf.constant(["ab", "what", "", "ab"]), epsilon=tf.zeros((4, LATENT_DIM)))
    np.testing.assert_array_equal(np.isnan(answer["elbo"]), [False, True, True, False])
    np.testing.assert_allclose(answer["elbo"][0], model.score(["ab"])["elbo"][0], rtol=1e-4)
    readme = (tmp_path / "texts" / "README.md").read_text()
    assert "text [B]" in readme
    assert "T is the number of" in readme
    assert "It has 6 steps, the `length` of the model, whatever T is" in " ".join(readme.split())
    assert "or has a symbol that the vocabulary does not have, gets NaN" in " ".join(readme.split())
    assert "the columns" not in readme
    assert Vocabulary.from_config(loaded.metadata["vocabulary"]).symbols == VOCABULARY.symbols
    agreed = export.verify(model, saved_model=path, x=TEXTS, timed_calls=0)
    assert {row.signature for row in agreed.agreements} == set(model.export_signatures())
    assert max(row.max_difference for row in agreed.agreements) < 1e-4
    with pytest.raises(ValueError, match="'c' at index 0"):
        loaded.encode(["c"])


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "float16", "dynamic"])
def test_a_tflite_file_writes_whole_texts_by_built_in_ops(model, tmp_path, quantize):
    path = export.tflite(model, tmp_path / "texts.tflite", batch_size=1, quantize=quantize)
    loaded = export.load(path)
    given = [text for text in TEXTS if len(text) < 6]
    made = loaded.encode(given)["loc"]
    np.testing.assert_allclose(made, model.encode(given)["loc"], atol=1e-5 if quantize is None else 0.05)
    z = np.zeros((2, LATENT_DIM), np.float32)
    if quantize is None:
        assert loaded.reconstruct(given) == model.reconstruct(given)
        assert loaded.decode(z) == model.decode(z)
        score = loaded.score(given, np.zeros((len(given), LATENT_DIM)))
        np.testing.assert_allclose(score["elbo"], model.score(given)["elbo"], atol=1e-4)
    # What is no code harms its own row alone.
    codes = np.array([[1.0, 0.0] + [np.nan] * 4, [1.0, 7.0] + [np.nan] * 4, [0.5] * 6], np.float32)[..., np.newaxis]
    scores = loaded.score(codes, np.zeros((3, LATENT_DIM)))["elbo"]
    np.testing.assert_array_equal(np.isnan(scores), [False, True, True])
    assert ("generate_sample" in loaded.signatures) == (quantize != "dynamic")
    with pytest.raises(ValueError, match="at most 5 symbols"):
        loaded.encode(["abababa"])


@pytest.mark.slow
def test_sequences_of_numbers_are_exported_in_their_own_units(tmp_path):
    keras.utils.set_random_seed(0)
    model = tfvae.AutoregressiveVAE(
        texts.series_encoder(2),
        texts.series_decoder(2, 2),
        LATENT_DIM,
        likelihood=Missing(Normal(), fill=False),
        length=5,
    )
    with pytest.raises(ValueError, match="`x` must have at most 5 steps"):
        export.saved_model(model, tmp_path / "numbers", x=np.zeros((3, 7, 2), np.float32))
    offset, scale = np.array([10.0, -3.0]), np.array([2.0, 0.5])
    x = np.random.default_rng(0).normal(size=(9, 4, 2)).astype("float32")
    loaded = export.load(export.saved_model(model, tmp_path / "numbers", x=x, offset=offset, scale=scale))
    longer = np.random.default_rng(1).normal(size=(3, 8, 2)).astype("float32")
    np.testing.assert_allclose(
        loaded.score(longer * scale + offset, np.zeros((3, LATENT_DIM)))["step_log_likelihood"],
        model.score(longer)["step_log_likelihood"],
        atol=1e-4,
    )
    z = np.ones((2, LATENT_DIM), np.float32)
    np.testing.assert_allclose(loaded.decode(z), model.decode(z) * scale + offset, atol=1e-4)


def test_a_model_without_a_length_or_of_onnx_is_refused(tmp_path):
    model = texts.text_vae()
    with pytest.raises(ValueError, match=r"`model` must have a `length`.*Received: length=None"):
        export.saved_model(model, tmp_path / "texts")
    with pytest.raises(ValueError, match="can only be exported as a SavedModel or a TFLite"):
        export.onnx(model, tmp_path / "onnx")
