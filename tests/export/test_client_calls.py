"""Calls of the client: float32 inputs are neither copied nor changed, and batches may have any size."""

import numpy as np
import pytest

DIM, LATENT_DIM = 4, 2
X = np.random.default_rng(0).standard_normal((600, DIM), np.float32)


@pytest.fixture(scope="module", params=["version", "tflite"])
def client(request, exported):
    return exported("linear").clients[request.param]


@pytest.fixture(scope="module")
def row_by_row(client):
    """The answers to some rows of X alone, at both sides of where the client cuts X into batches."""
    return {row: client.encode(X[row : row + 1]) for row in (0, 1, 254, 255, 256, 257, 511, 512, 513, 599)}


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 255, 256, 257, 512, 600])
def test_any_number_of_rows_is_answered_row_by_row(client, row_by_row, rows):
    received = client.encode(X[:rows])
    for name, value in received.items():
        assert value.shape == (rows, LATENT_DIM)
        for row, answer in row_by_row.items():
            if row < rows:
                np.testing.assert_allclose(value[row], answer[name][0], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_float32_is_handed_on_as_it_is(client, monkeypatch):
    given = []
    call = client._call
    monkeypatch.setattr(client, "_call", lambda signature, arrays: given.append(arrays["x"]) or call(signature, arrays))
    for x in (X[:5], X):
        client.encode(x)
    assert all(np.shares_memory(array, X) for array in given)


@pytest.mark.slow
@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(X[:5]),
        np.repeat(X[:5], 2, axis=0)[::2],
        np.repeat(X[:5], 2, axis=1)[:, ::2],
        X[:5].astype(">f4"),
        np.ma.masked_array(X[:5]),
    ],
    ids=["columns first", "every other row", "every other column", "big endian", "masked"],
)
def test_the_layout_of_an_array_does_not_matter(client, x):
    for name, value in client.encode(X[:5].copy()).items():
        np.testing.assert_array_equal(client.encode(x)[name], value)


@pytest.mark.slow
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
