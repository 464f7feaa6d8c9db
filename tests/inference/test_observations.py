"""Data as a dataset for variational inference: forms, batches, dtypes and errors."""

import numpy as np
import pytest
import tensorflow as tf

from tfvae.inference import observations

X = np.arange(20.0).reshape(10, 2)
Y = np.arange(10)


def read(x, y=None, batch_size=None, num_data=None, replicas=1):
    return observations.read(x, y, batch_size=batch_size, num_data=num_data, replicas=replicas, seed=lambda: 0)


def elements(data):
    return [element[0] for element in data.dataset]


FORMS = {
    "array": (X, None),
    "tensor": (tf.constant(X), None),
    "x and y": (X, Y),
    "tuple": ((X, Y), None),
    "dict": ({"x": X, "y": Y}, None),
    "dict and y": ({"x": X}, Y),
    "nested": ({"a": (X, Y), "b": Y}, None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [None, 10, 4])
def test_all_rows_are_there_once(form, batch_size):
    x, y = FORMS[form]
    data = read(x, y, batch_size)
    assert data.num_data == 10
    assert data.whole == (batch_size != 4)
    batches = elements(data)
    assert [len(tf.nest.flatten(batch)[0]) for batch in batches] == ([4, 4, 2] if batch_size == 4 else [10])
    tf.nest.assert_same_structure(batches[0], x if y is None else (x, y))
    columns = zip(*(tf.nest.flatten(batch) for batch in batches), strict=True)
    for parts, expected in zip(columns, tf.nest.flatten(x if y is None else (x, y)), strict=True):
        found = np.concatenate(parts)
        order = np.argsort(found[:, 0] if found.ndim == 2 else found)
        np.testing.assert_array_equal(found[order], expected)


def test_rows_stay_together():
    for x, y in elements(read(X, Y, 4)):
        np.testing.assert_array_equal(x[:, 0], 2.0 * tf.cast(y, tf.float32))


def test_floats_become_float32_and_integers_stay():
    arrays = {"f": X, "h": X.astype("float16"), "i": Y, "u": Y.astype("uint8"), "b": Y > 3}
    for data in (read(arrays), read(arrays, batch_size=4)):
        types = {name: part.dtype.name for name, part in elements(data)[0].items()}
        assert types == {"f": "float32", "h": "float32", "i": "int64", "u": "uint8", "b": "bool"}
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    assert [part.dtype.name for part in elements(read(dataset, num_data=10))[0]] == ["float32", "int64"]


def test_up_to_4096_rows_are_taken_at_once():
    assert read(np.zeros(4096)).whole
    data = read(np.zeros(4097))
    assert not data.whole
    assert [len(batch) for batch in elements(data)] == [1024, 1024, 1024, 1024, 1]


@pytest.mark.parametrize("parts", [(X,), (X, Y)])
def test_a_dataset_is_taken_as_it_is(parts):
    data = read(tf.data.Dataset.from_tensor_slices(parts).batch(4), num_data=10)
    assert not data.whole
    batches = elements(data)
    assert len(batches) == 3
    for index, part in enumerate(parts):
        found = np.concatenate([batch if len(parts) == 1 else batch[index] for batch in batches])
        np.testing.assert_array_equal(found, part)


def test_no_data():
    data = read(None, replicas=2)
    assert data.num_data is None
    assert data.whole
    (element,) = elements(data)
    assert observations.is_none(element)
    assert len(tf.nest.flatten(element)[0]) == 2
    assert not observations.is_none({"x": X})
    assert not observations.is_none(X)


DATASET = tf.data.Dataset.from_tensor_slices(X).batch(4)
WEIGHTED = tf.data.Dataset.from_tensor_slices((X, Y, Y)).batch(4)
BAD = {
    "y without x": ({"x": None, "y": Y}, "`x` must be the data"),
    "num_data without x": ({"x": None, "num_data": 3}, "`x` must be the data"),
    "dataset and y": ({"x": DATASET, "y": Y, "num_data": 10}, "`y` and `batch_size` must be None"),
    "dataset and batch_size": ({"x": DATASET, "batch_size": 2, "num_data": 10}, "`y` and `batch_size` must be None"),
    "dataset without num_data": ({"x": DATASET}, "`num_data`, the number of rows"),
    "weights": ({"x": WEIGHTED, "num_data": 10}, "`x` must be a dataset of x or"),
    "other num_data": ({"x": X, "num_data": 11}, "`x` must have num_data=11 rows"),
    "empty": ({"x": X[:0]}, "`x` must hold at least one example"),
    "no array": ({"x": {}}, "`x` must hold arrays"),
    "number": ({"x": 3.0}, "`x` must hold arrays with one row"),
    "list of numbers": ({"x": [1.0, 2.0]}, "`x` must hold arrays with one row"),
    "rows differ": ({"x": X, "y": Y[:-1]}, "`x` must hold arrays with one row"),
    "NaN": ({"x": np.where(X == 3, np.nan, X)}, "`x` must be finite"),
    "NaN in y": ({"x": X, "y": np.full(10, np.inf)}, "`y` must be finite"),
    "text": ({"x": np.array(["a", "b"])}, "`x` must hold real numbers"),
    "None within": ({"x": {"a": X, "b": None}}, r"`x\['b'\]` must hold real numbers"),
    "NaN within": ({"x": (X, np.full(10, np.nan))}, r"`x\[1\]` must be finite"),
    "batch_size 0": ({"x": X, "batch_size": 0}, "`batch_size` must be an integer"),
    "batch_size 1.5": ({"x": X, "batch_size": 1.5}, "`batch_size` must be an integer"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_data_is_refused(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=rf"(?s)^({message}).*Received: [^:]*"):
        read(**arguments)
