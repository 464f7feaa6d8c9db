"""The client of models of tables, with functions in the place of files: what it makes of rows, and of bad ones."""

import re
import types

import numpy as np
import pandas as pd
import pytest

from tests.helpers import table_rows
from tfvae.export.client import ExportedModel


@pytest.fixture(scope="module")
def model():
    return table_rows.table_vae()


@pytest.fixture(scope="module")
def clients(model):
    """A client of numbers and codes, and one of named columns; each answers with what its function is given."""
    description = {**model.export_description(), "tfvae_version": "0"}
    arguments = model.table.arguments
    width = len(model.table.names)

    def client(shapes, **more):
        return ExportedModel(lambda signature, arrays: arrays, {"serving_default": shapes}, {**description, **more})

    return types.SimpleNamespace(
        codes=client({"x": (None, width)}),
        named=client({name: (None,) for name in arguments.values()}, inputs=dict(arguments)),
    )


def table_forms(frame):
    values = frame.astype(object).where(frame.notna(), None)
    yield "frame", {"x": frame}
    yield "columns", {"x": {name: values[name].tolist() for name in frame}}
    yield "list of rows", {"x": values.to_dict("records")}
    yield "keywords", {name: values[name].tolist() for name in frame}
    yield "to_pandas", {"x": types.SimpleNamespace(to_pandas=lambda: frame)}


def test_rows_of_any_form_become_the_same_inputs(model, clients):
    frame = table_rows.frame(5, seed=1)
    codes = model.table.codes(frame).astype(np.float32)
    named = model.table.raw(codes)
    for form, arguments in table_forms(frame):
        np.testing.assert_array_equal(clients.codes.predict(**arguments)["x"], codes, err_msg=form)
        received = clients.named.predict(**arguments)
        assert {name: values.tolist() for name, values in received.items()} == {
            name: pytest.approx(values.tolist(), nan_ok=True) if values.dtype != object else values.tolist()
            for name, values in named.items()
        }, form
    one = frame.iloc[0].to_dict()
    np.testing.assert_array_equal(clients.codes.predict(one)["x"], codes[:1])
    np.testing.assert_array_equal(clients.codes.predict(**one)["x"], codes[:1])
    np.testing.assert_array_equal(clients.codes.predict(codes)["x"], codes)
    # By the names of the inputs too.
    by_input = {argument: frame[name].tolist() for name, argument in model.table.arguments.items()}
    np.testing.assert_array_equal(clients.codes.predict(**by_input)["x"], codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="channel"), "Received: rows without channel"),
        (lambda frame: frame.assign(height="tall"), "Column \"height\" must hold numbers. Received: 'tall'"),
        (lambda frame: frame.assign(height=np.inf), 'Column "height" must hold finite numbers in float32. Received: '),
        (lambda frame: frame.assign(amount=1e300), 'Column "amount" must hold finite numbers in float32'),
        (lambda frame: frame.assign(items=-1), 'Column "items" must hold counts'),
        (lambda frame: frame.assign(shipped="2024-02-30"), 'Column "shipped" must hold dates'),
        (lambda frame: frame.assign(gift="perhaps"), 'Column "gift" must hold True, False, 1 or 0'),
        (lambda frame: np.zeros([2, 3]), "`x` must have the shape [N, "),
    ],
)
def test_a_bad_row_is_an_error_that_names_its_column(clients, change, message):
    for client in (clients.codes, clients.named):
        with pytest.raises(ValueError, match=re.escape(message)):
            client.predict(change(table_rows.frame(3, seed=1)))


def test_a_number_far_beyond_the_data_is_warned_of_by_the_name_of_its_column(clients):
    frame = table_rows.frame(3, seed=1).assign(height=1e6)
    for client in (clients.codes, clients.named):
        with pytest.warns(UserWarning, match=r'^Column "height" should be like the data of the export'):
            client.predict(frame)


def test_a_mean_and_a_sample_become_rows(model, clients):
    frame = table_rows.frame(4, seed=1)
    x = model.table.transform(frame)
    sample = clients.codes.rows(model.table.to_codes(x))
    pd.testing.assert_frame_equal(sample[["channel", "items", "shipped"]], frame[["channel", "items", "shipped"]])
    made = model.reconstruct(frame)
    mean = model.table.to_codes(model.reconstruct(x)).astype(np.float32)
    drop = ["order_id", "note"]
    pd.testing.assert_frame_equal(clients.codes.rows(mean).drop(columns=drop), made.drop(columns=drop))
    with pytest.raises(ValueError, match=r"^`array` must have the shape"):
        clients.codes.rows(np.zeros([2, 3]))


def test_rows_need_a_model_of_a_table():
    client = ExportedModel(lambda signature, arrays: arrays, {"serving_default": {"x": (None, 4)}}, {})
    with pytest.raises(ValueError, match=r"^The model must be of a table"):
        client.rows(np.zeros([2, 4]))
