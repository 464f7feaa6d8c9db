"""Exports of models of tables: rows by column in a SavedModel, numbers and codes in the others, one answer in all."""

import functools
import json
import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

import tfvae
from tests.export.test_device import operators, refused_by_gpus
from tests.helpers import readmes, table_rows
from tests.helpers.c_api import C_CLIENT
from tfvae import export
from tfvae.data import Table
from tfvae.export.endpoints import Endpoints
from tfvae.export.metadata import metadata, write_json

FORMATS = ["saved_model", "tflite", "batch1", "onnx"]
WRONG = {
    "height": np.inf,
    "items": -1.0,
    "gift": 0.5,
    "rating": -np.inf,
    "order_time": "yesterday",
    "shipped": "2024-02-30",
}


@pytest.fixture(scope="module")
def model():
    return table_rows.table_vae()


@pytest.fixture(scope="module")
def without_counts():
    """A model that can be drawn from in TFLite."""
    return table_rows.table_vae(kinds={"items": "number"})


def tensors(table, frame):
    raw = table.raw(table.codes(frame))
    return {spec.name: tf.constant(raw[spec.name], spec.dtype) for spec in table.specs()}


def scores(outputs):
    return {name: np.asarray(outputs[name]) for name in ("elbo", "reconstruction_log_likelihood", "kl")}


def assert_close(received, expected, rtol=2e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=rtol, atol=rtol * np.abs(value).max(), err_msg=name)


@pytest.fixture(scope="module")
def endpoint(model):
    """The function `serving_default` as a SavedModel has it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        only = {"serving_default": model.export_signatures()["serving_default"]}
        monkeypatch.setattr(model, "export_signatures", lambda x=None: only, raising=False)
        return Endpoints(model, takes_texts=True).signatures_by_name["serving_default"]


def test_a_graph_that_takes_rows_by_column_answers_as_the_model_does(model, endpoint):
    rows = table_rows.held_out()
    assert_close(scores(endpoint(**tensors(model.table, rows))), model.score(rows))


def test_a_wrong_value_makes_its_row_nan_and_no_other(model, endpoint):
    inputs = tensors(model.table, table_rows.held_out())
    expected = scores(endpoint(**inputs))
    for row, (name, value) in enumerate(WRONG.items()):
        array = inputs[name].numpy()
        array[row] = value
        inputs[name] = tf.constant(array, inputs[name].dtype)
    for output, values in scores(endpoint(**inputs)).items():
        assert np.isnan(values[: len(WRONG)]).all()
        np.testing.assert_array_equal(values[len(WRONG) :], expected[output][len(WRONG) :])


def test_an_offset_and_a_scale_are_refused(model, tmp_path):
    for write in (export.saved_model, export.tflite):
        with pytest.raises(ValueError, match=r"^`offset` and `scale` must be None, because this model takes raw data"):
            write(model, tmp_path / "model.tflite", offset=1.0, scale=2.0)


def test_data_of_an_export_are_rows_that_exist(model):
    drawn = model.export_data(None)
    assert drawn.shape == (64, len(model.table.names))
    assert 0.2 < np.isnan(drawn).mean() < 0.8
    for x in (drawn, model.export_data(table_rows.held_out()), model.export_data(drawn[:3])):
        table = model.table
        np.testing.assert_allclose(table.transform(table_named(table, table.to_codes(x))), x, rtol=1e-4, atol=1e-5)
    # A day with the code of another month is of no row.
    x = model.table.transform(table_rows.frame(4))
    month = model.table.names.index("order time_month")
    wrong = x.copy()
    wrong[:, month] = (wrong[:, month] + 1) % 12
    np.testing.assert_allclose(model.export_data(wrong), x, rtol=1e-4, atol=1e-5)


def table_named(table, codes):
    raw = table.raw(codes)
    return {name: raw[argument] for name, argument in table.arguments.items()}


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (1.7e9 + np.arange(50.0), "number", 'Column "n" must have numbers that keep their digits in float32'),
        (np.repeat([16777216, 16777217], 25), "category", 'Column "n" must have values that are different in float32'),
    ],
)
def test_numbers_that_float32_does_not_tell_apart_are_refused(values, kind, message):
    model = tfvae.VAE.of_table(Table.learn(pd.DataFrame({"n": values}), kinds={"n": kind}), 2, hidden=(4,))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.check_exportable()


def test_brackets_in_a_text_stay_as_they_are(tmp_path):
    write_json(tmp_path / "file.json", {"labels": ["[0,1]", "(1,2]"], "numbers": [[1, 2], [3, 4]]})
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == {"labels": ["[0,1]", "(1,2]"], "numbers": [[1, 2], [3, 4]]}
    assert '"numbers": [[1, 2], [3, 4]]' in text


def test_a_description_says_what_each_column_and_code_is(model):
    by_name, by_code = metadata(model, takes_texts=True), metadata(model)
    for description in (by_name, by_code):
        assert Table(json.loads(json.dumps(description["table"]))) == model.table
        assert description["columns"] == list(model.table.names)
        assert description["codes"]["channel"] == ["web", "shop", "phöne", "other"]
        assert "units" not in description
    assert by_name["inputs"] == model.table.arguments
    assert by_name["example"]["inputs"]["channel"] == ["web"]
    assert by_name["meanings"]["channel"].startswith("category: web")
    assert "inputs" not in by_code
    assert np.shape(by_code["example"]["inputs"]["x"]) == (1, len(model.table.names))
    assert by_code["example"]["outputs"] == by_name["example"]["outputs"]


# Files


@pytest.fixture(scope="module")
def files(model, without_counts, tmp_path_factory):
    """Writes each format of a model once."""
    folder = tmp_path_factory.mktemp("tables")

    @functools.cache
    def write(file_format, draws=False):
        each, place = (without_counts, folder / "draws") if draws else (model, folder / "counts")
        if file_format == "saved_model":
            return export.saved_model(each, place / "orders", x=table_rows.frame(70, seed=2))
        if file_format == "onnx":
            return export.onnx(each, place / "onnx")
        batch_size = 1 if file_format == "batch1" else None
        return export.tflite(each, place / f"{file_format}.tflite", batch_size=batch_size)

    return write


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Column")
@pytest.mark.parametrize("draws", [False, True])
def test_every_format_agrees_with_keras_on_held_out_rows(model, without_counts, files, draws):
    each = without_counts if draws else model
    rows = table_rows.held_out()
    verification = export.verify(
        each,
        saved_model=files("saved_model", draws),
        tflite=[files("tflite", draws), files("batch1", draws)],
        onnx=files("onnx", draws),
        x=rows,
        timed_calls=0,
    )
    signatures = {agreement.signature for agreement in verification.agreements}
    assert ("generate_sample" in signatures) is draws
    for agreement in verification.agreements:
        assert agreement.max_difference <= 5e-5 * agreement.max_value + 2e-6, agreement
        assert agreement.max_relative < 1e-3, agreement
    expected = each.score(rows)
    for file_format in FORMATS:
        client = export.load(files(file_format, draws))
        assert_close(client.predict(rows), expected)
        assert_close(client.predict(**rows.to_dict("list")), expected)
        assert_close(client.predict(each.table.codes(rows)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_rows_come_back_as_from_the_model(without_counts, files, file_format):
    client = export.load(files(file_format, draws=True))
    frame = table_rows.frame(4, seed=1)
    noise = client.noise("generate_sample", 4, seed=0)
    unused = ["order_id", "note"]
    for made in (client.generate(noise["epsilon"]), client.generate_sample(**noise), client.reconstruct(frame)):
        assert made.dtypes.drop(unused).equals(frame.dtypes.drop(unused))
        assert len(made) == 4
    received, expected = client.reconstruct(frame), without_counts.reconstruct(frame)
    # Float32 rounds a time by seconds.
    assert (received.pop("order time") - expected.pop("order time")).abs().max() < pd.Timedelta("20s")
    pd.testing.assert_frame_equal(received.drop(columns=unused), expected.drop(columns=unused), rtol=1e-3)
    drawn = client.reconstruct_sample(frame, **noise)
    assert list(drawn.columns) == list(frame.columns)
    codes = without_counts.table.codes(frame)
    assert isinstance(client.reconstruct(codes), np.ndarray)


@pytest.mark.slow
def test_a_keras_file_keeps_the_table(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.table == model.table
    assert loaded.export_signatures()["encode"].columns is not None
    assert not loaded.takes_units


RUN = """
    import json, sys
    import numpy as np
    from tfvae.export import load

    rows = json.load(open(sys.argv[2]))
    model = load(sys.argv[1])
    outputs = model.predict(rows)
    np.savez(sys.argv[3], **{name: outputs[name] for name in ("elbo", "reconstruction_log_likelihood", "kl")})
    made = model.reconstruct(rows)
    heavy = ("tensorflow", "keras", "tensorflow_probability", "tf_keras")
    print(json.dumps([list(made.columns), [name for name in heavy if sys.modules.get(name)]]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Column")
@pytest.mark.parametrize("file_format", ["saved_model", "tflite"])
def test_rows_are_taken_in_a_new_process_without_keras(
    model, files, tmp_path, run_new_python, run_with_tensorflow, file_format
):
    frame = table_rows.held_out().astype({"order time": str})
    values = frame.astype(object).where(frame.notna() & (frame != "NaT"), None).to_dict("records")
    (tmp_path / "rows.json").write_text(json.dumps(values))
    run = run_with_tensorflow if file_format == "saved_model" else run_new_python
    printed = run(RUN, files(file_format), tmp_path / "rows.json", tmp_path / "answer.npz").splitlines()[-1]
    heavy = ["tensorflow"] if file_format == "saved_model" else []
    assert json.loads(printed) == [list(frame.columns), heavy]
    assert_close(dict(np.load(tmp_path / "answer.npz")), model.score(table_rows.held_out()))


@pytest.mark.slow
def test_the_c_api_takes_texts(model, files, tmp_path, run_new_python):
    version = files("saved_model")
    rows = table_rows.held_out()
    content = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    definition = content.meta_graphs[0].signature_def["serving_default"]
    raw = model.table.raw(model.table.codes(rows))
    wrong = {**raw, "order_time": np.array(["yesterday", *raw["order_time"][1:]], object)}
    requests = {
        key: {
            "feeds": {
                definition.inputs[name].name: (str(array.dtype), array.shape, array.tolist())
                for name, array in arrays.items()
            },
            "fetches": {name: definition.outputs[name].name for name in ("elbo", "kl")},
        }
        for key, arrays in {"right": raw, "wrong": wrong, "float": {**raw, "channel": raw["height"]}}.items()
    }
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    library = tf.sysconfig.get_lib()
    run_new_python(C_CLIENT, version, tmp_path / "requests.json", tmp_path / "results.npz", library)
    results = dict(np.load(tmp_path / "results.npz"))
    codes = {key: code for key, (code, _) in json.loads(str(results["codes"])).items()}
    # INVALID_ARGUMENT
    assert codes == {"right": 0, "wrong": 0, "float": 3}
    expected = model.score(rows)
    for name in ("elbo", "kl"):
        np.testing.assert_allclose(results[f"right/{name}"], expected[name], rtol=2e-5)
        assert np.isnan(results[f"wrong/{name}"][0])
        np.testing.assert_array_equal(results[f"wrong/{name}"][1:], results[f"right/{name}"][1:])


@pytest.mark.slow
def test_the_readme_the_requests_and_the_warm_up_are_right(model, files, monkeypatch):
    version = files("saved_model")
    loaded = tf.saved_model.load(str(version))
    answers = readmes.check(version, loaded, monkeypatch)
    table = model.table
    row = table.rows_of_codes(table.typical)
    for name, answer in answers.items():
        expected = model.score(row, np.zeros([1, 3])) if "score" in name else model.score(row)
        assert_close(answer, expected)
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
    assert [log.model_spec.signature_name for log in logs] == list(loaded.signatures)
    for log in logs:
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in log.inputs.items()}
        if "channel" in inputs:
            assert log.inputs["channel"].dtype == tf.string.as_datatype_enum
            assert inputs["channel"].tolist() == [b""]
        outputs = loaded.signatures[log.model_spec.signature_name](**{k: tf.constant(v) for k, v in inputs.items()})
        assert all(np.isfinite(output).all() for output in outputs.values())


@pytest.mark.slow
@pytest.mark.parametrize("draws", [False, True])
def test_a_file_for_a_device_has_built_in_ops_that_gpus_take_and_an_answer_in_both_runtimes(
    model, without_counts, files, draws
):
    each = without_counts if draws else model
    file = files("batch1", draws)
    assert not operators(file)[1]
    assert refused_by_gpus(file) == []
    rows = table_rows.held_out()
    x = each.table.codes(rows).astype(np.float32)
    runner = Interpreter(model_path=str(file)).get_signature_runner("serving_default")
    outputs = [runner(x=row[None]) for row in x]
    expected = each.score(rows)
    assert_close({name: np.concatenate([output[name] for output in outputs]) for name in expected}, expected)
    compiled = export.load(file, runtime="compiled_model")
    with pytest.warns(UserWarning, match="^Column"):
        assert_close(compiled.predict(rows), expected)


@pytest.mark.slow
def test_a_float16_file_takes_rows(model, tmp_path):
    file = export.tflite(model, tmp_path / "model.tflite", quantize="float16")
    frame = table_rows.frame(5, seed=1)
    assert_close(export.load(file).predict(frame), model.score(frame), rtol=1e-2)


@pytest.mark.slow
def test_arrow_tables_are_rows(model, files):
    import pyarrow

    frame = table_rows.frame(5, seed=1)
    client = export.load(files("tflite"))
    assert_close(client.predict(pyarrow.Table.from_pandas(frame)), model.score(frame))
