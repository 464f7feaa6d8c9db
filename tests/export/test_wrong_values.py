"""Rows with wrong values are answered with NaN, and the other rows as without them; and each kind's README."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import kinds, readmes
from tfvae import export
from tfvae.export import formats

ROWS, WRONG = 5, 2
SOME = ["SemiSupervisedVAE", "Columns"]
EVERY_KIND = [kind if kind in SOME else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds.KINDS]


@pytest.fixture(scope="module")
def written(exported, tmp_path_factory):
    """Writes, once for each kind and format, an export."""
    folder = tmp_path_factory.mktemp("kinds")
    model = functools.cache(kinds.build)

    @functools.cache
    def write(kind, file_format):
        if kind == "linear":
            return exported(kind).tflite
        path = folder / kind if file_format == "saved_model" else folder / f"{kind}.tflite"
        return getattr(export, file_format)(model(kind), path)

    return write


def wrong_values(name, inputs, may_miss):
    if name == "label":
        return [kinds.K, -2.0 if "x" in inputs else -1.0, 0.5, np.nan, np.inf]
    return [np.inf, -np.inf] if name == "x" and may_miss else [np.nan, np.inf, -np.inf]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "file_format"),
    [
        ("linear", "tflite"),
        ("SemiSupervisedVAE", "saved_model"),
        *(
            pytest.param(kind, file_format, marks=pytest.mark.slow)
            for kind in kinds.KINDS
            for file_format in ("saved_model", "tflite")
            if (kind, file_format) != ("SemiSupervisedVAE", "saved_model")
        ),
    ],
)
def test_a_wrong_row_gets_nan_and_the_others_what_they_get_without_it(written, kind, file_format):
    # Not by the client, which refuses such values.
    call, shapes, *_ = formats.FORMATS[file_format].open(written(kind, file_format), 1)
    tried = 0
    for signature, of_inputs in shapes.items():
        inputs = kinds.inputs_of(of_inputs, ROWS)
        right = call(signature, inputs)
        assert all(np.isfinite(output).all() for output in right.values())
        for name, array in inputs.items():
            for value in wrong_values(name, inputs, kind == "Columns"):
                wrong = array.copy()
                wrong[WRONG].reshape(-1)[-1:] = value
                if wrong.ndim == 1:
                    wrong[WRONG] = value
                for output, received in call(signature, {**inputs, name: wrong}).items():
                    case = (signature, name, value, output)
                    assert np.isnan(received[WRONG]).all(), case
                    others = np.arange(ROWS) != WRONG
                    np.testing.assert_array_equal(received[others], right[output][others], err_msg=str(case))
                tried += 1
    assert tried >= 2 * len(shapes)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["saved_model", pytest.param("tflite", marks=pytest.mark.slow)])
def test_missing_values_are_right_where_the_likelihood_allows_them(written, file_format):
    call, shapes, *_ = formats.FORMATS[file_format].open(written("Columns", file_format), 1)
    inputs = kinds.inputs_of(shapes["score"], ROWS)
    inputs["x"][WRONG] = np.nan
    assert all(np.isfinite(output).all() for output in call("score", inputs).values())


@pytest.mark.slow
def test_the_only_assertion_in_the_graph_is_that_the_inputs_have_equally_many_rows(written):
    loaded = tf.saved_model.load(str(written("SemiSupervisedVAE", "saved_model")))
    inputs = kinds.inputs_of({"x": (None, kinds.D), "label": (None,)}, ROWS)
    with pytest.raises(tf.errors.InvalidArgumentError, match="differ in their number of rows"):
        loaded.signatures["encode"](x=tf.constant(inputs["x"]), label=tf.constant(inputs["label"][:1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
        loaded.signatures["classify"](x=tf.constant(inputs["x"][:, :2]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_readme_does_what_it_says(written, kind, monkeypatch):
    version = written(kind, "saved_model")
    loaded = tf.saved_model.load(str(version))
    readmes.check(version, loaded, monkeypatch)
    readme = (version.parent / "README.md").read_text()
    names_labels = "or a value that is not a valid label" in readme
    assert ("-1 stands for" in readme) == names_labels == (kind == "SemiSupervisedVAE")
    assert ("is a bare `NaN`" in readme) == (kind == "Columns")


@pytest.mark.slow
def test_a_missing_value_in_a_rest_request_is_a_bare_nan(written):
    loaded = tf.saved_model.load(str(written("Columns", "saved_model")))
    signature, inputs = readmes.read('{"instances": [[NaN, 0.5, 0.5, 1.0]]}', loaded)
    outputs = loaded.signatures[signature](**{name: tf.constant(array) for name, array in inputs.items()})
    assert all(np.isfinite(output).all() for output in outputs.values())
