"""Calls of the client: float32 inputs are neither copied nor changed, and batches may have any size."""

import keras
import numpy as np
import pytest

import tfvae
from tfvae import export, likelihoods, networks

DIM, LATENT_DIM = 6, 3
X = np.random.default_rng(0).standard_normal((600, DIM), np.float32)


@pytest.fixture(scope="module", params=["saved_model", "tflite"])
def client(request, tmp_path_factory):
    keras.utils.set_random_seed(0)
    encoder, decoder = networks.dense_encoder((DIM,), (8,)), networks.dense_decoder(LATENT_DIM, (DIM,), (8,))
    model = tfvae.VAE(encoder, decoder, LATENT_DIM, likelihood=likelihoods.Normal())
    return export.load(getattr(export, request.param)(model, tmp_path_factory.mktemp("exports") / "model.tflite"))


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 512, 600])
def test_any_number_of_rows_is_answered_row_by_row(client, rows):
    received = client.encode(X[:rows])
    for name, value in received.items():
        assert value.shape == (rows, LATENT_DIM)
        expected = np.concatenate([client.encode(X[row : row + 1])[name] for row in range(rows)])
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_float32_is_handed_on_as_it_is(client, monkeypatch):
    given = []
    call = client._call
    monkeypatch.setattr(client, "_call", lambda signature, arrays: given.append(arrays["x"]) or call(signature, arrays))
    for x in (X[:5], X):
        client.encode(x)
    assert all(np.shares_memory(array, X) for array in given)


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(X[:5]),
        np.repeat(X[:5], 2, axis=0)[::2],
        np.repeat(X[:5], 2, axis=1)[:, ::2],
        X[:5].astype(">f4"),
        np.ma.masked_greater(X[:5], 0.5),
    ],
    ids=["columns first", "every other row", "every other column", "big endian", "masked"],
)
def test_the_layout_of_an_array_does_not_matter(client, x):
    for name, value in client.encode(X[:5].copy()).items():
        np.testing.assert_array_equal(client.encode(x)[name], value)


def test_a_call_changes_neither_its_input_nor_an_earlier_answer(client):
    x = X[:5].copy()
    x.flags.writeable = False
    first = client.encode(x)
    kept = {name: value.copy() for name, value in first.items()}
    client.encode(X[5:10])
    np.testing.assert_array_equal(x, X[:5])
    for name, value in first.items():
        assert value.flags.writeable
        np.testing.assert_array_equal(value, kept[name])
