"""The client for exported models: the model's numbers by the same names, few imports, and clear errors."""

import json
import re
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import tfvae
from tests.helpers.exports import EVENT_SHAPE, LATENT_DIM
from tfvae import export


def binary_images(n):
    return np.random.default_rng(0).integers(0, 2, size=(n, *EVENT_SHAPE)).astype(np.float32)


def noise(n):
    return np.random.default_rng(1).standard_normal((n, LATENT_DIM), np.float32)


@pytest.fixture(scope="module")
def model(exported):
    return exported("convolutional-Bernoulli").model


@pytest.fixture(scope="module")
def paths(exported):
    """The model's exports: a folder of versions, one version, and a .tflite file."""
    shared = exported("convolutional-Bernoulli")
    return {"folder": shared.version.parent, "version": shared.version, "tflite": shared.tflite}


@pytest.fixture(scope="module")
def clients(exported, paths):
    return {"folder": export.load(paths["folder"]), **exported("convolutional-Bernoulli").clients}


@pytest.fixture(params=["folder", "version", "tflite"])
def client(request, clients):
    return clients[request.param]


@pytest.fixture(params=["version", "tflite"])
def by_format(request, clients):
    return clients[request.param]


def expected_answers(model, x, epsilon):
    return {
        **model.encode(x),
        "decode": model.decode(epsilon),
        "reconstruct": model.reconstruct(x),
        "generate": model.decode(epsilon),
        **model.score(x, epsilon),
    }


def answers(client, x, epsilon):
    return {
        **client.encode(x),
        "decode": client.decode(epsilon),
        "reconstruct": client.reconstruct(x),
        "generate": client.generate(epsilon),
        **client.score(x, epsilon),
    }


def assert_same(received, expected, tolerance=1e-5):
    assert set(received) == set(expected)
    for name, value in expected.items():
        assert received[name].dtype == np.float32
        assert received[name].shape == value.shape
        np.testing.assert_allclose(received[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rows", [1, 7])
def test_the_client_answers_as_the_model_does_by_the_same_names(model, client, rows):
    x, epsilon = binary_images(rows), noise(rows)
    assert_same(answers(client, x, epsilon), expected_answers(model, x, epsilon))
    assert_same(client.run("serving_default", x=x), {"mean": model.reconstruct(x), **model.score(x)})


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64, list])
def test_numbers_of_any_type_are_cast(by_format, dtype):
    x, epsilon = binary_images(3), np.round(noise(3))
    cast_x, cast_epsilon = (x.tolist(), epsilon.tolist()) if dtype is list else (x.astype(dtype), epsilon.astype(dtype))
    assert_same(
        answers(by_format, cast_x, cast_epsilon), answers(by_format, x, np.asarray(cast_epsilon, np.float32)), 0
    )


def test_metadata_and_signatures_are_those_of_the_export(client):
    names = ("encode", "decode", "reconstruct", "generate", "generate_sample", "reconstruct_sample", "score")
    assert set(client.signatures) == {*names, "serving_default"}
    assert client.metadata["event_shape"] == list(EVENT_SHAPE)
    assert client.metadata["latent_dim"] == LATENT_DIM
    assert client.metadata["likelihood"] == "Bernoulli"
    assert client.metadata["tfvae_version"] == tfvae.__version__
    assert (client.metadata["units"], client.metadata["scaling"]) == ("model", None)


def test_a_file_without_its_description_still_answers(model, paths, tmp_path):
    shutil.copy(paths["tflite"], tmp_path / "alone.tflite")
    alone = export.load(tmp_path / "alone.tflite", num_threads=2)
    assert alone.metadata == {}
    np.testing.assert_allclose(alone.decode(noise(2)), model.decode(noise(2)), rtol=1e-5)


def test_of_a_folder_the_highest_number_with_a_model_is_opened(paths, tmp_path):
    def number(version):
        return export.load(tmp_path).metadata["number"] == version

    for version in (9, 10):
        copy = shutil.copytree(paths["version"], tmp_path / str(version))
        (copy / "assets.extra" / "metadata.json").write_text(json.dumps({"number": version}))
        assert number(version)
    shutil.copytree(paths["version"], tmp_path / ".tmp-12")
    shutil.copytree(paths["version"], tmp_path / "latest")
    (tmp_path / "11").mkdir()
    (tmp_path / "12").write_text("a file")
    assert number(10)


# What cannot be opened


@pytest.mark.parametrize("path", ["missing", "missing.tflite", "empty", "no model"])
def test_where_there_is_no_model_the_path_is_named(tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no model" / "1" / "variables").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=re.escape(f"Received: path='{tmp_path / path}'")):
        export.load(tmp_path / path)


def test_a_file_that_is_no_model_or_half_of_one_is_an_error_and_no_crash(paths, tmp_path, run_new_python):
    whole = paths["tflite"].read_bytes()
    contents = {"text": b"This is not a model. " * 50, "empty": b"", "off by one": whole[:-1]}
    contents |= {f"{eighths} eighths": whole[: len(whole) * eighths // 8] for eighths in range(1, 8)}
    for name, content in contents.items():
        (tmp_path / f"{name}.tflite").write_bytes(content)
    printed = run_new_python(
        """
        import pathlib, sys
        from tfvae.export import load

        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                load(path)
            except ValueError as error:
                print(path.stem, "`path` must be a .tflite file" in str(error) and str(path) in str(error), sep=":")
        """,
        tmp_path,
    )
    assert set(printed.splitlines()) == {f"{name}:True" for name in contents}


@pytest.mark.parametrize(("name", "file_format"), [("other.tflite", "litert"), ("other", "tf_saved_model")])
def test_a_model_that_tfvae_did_not_export_is_an_error(tmp_path, name, file_format):
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    network.export(tmp_path / name, format=file_format, verbose=False)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
        export.load(tmp_path / name)


# Wrong inputs


def with_value(array, value):
    array = array.astype(np.float64)
    array.flat[-1] = value
    return array


X, EPSILON = binary_images(5), noise(5)
WRONG_X = {
    "NaN": (with_value(X, np.nan), "`x` must be finite. Received: 1 values that are NaN or infinite"),
    "inf": (with_value(X, np.inf), "`x` must be finite"),
    "beyond float32": (with_value(X, 1e300), "`x` must be finite"),
    "shape": (X[:, :5], "`x` must have the shape [N, 8, 8, 1]. Received: x of shape [5, 5, 8, 1]"),
    "rank": (X[..., 0], "`x` must have the shape [N, 8, 8, 1]. Received: x of shape [5, 8, 8]"),
    "no batch axis": (X[0], "`x` must have the shape [N, 8, 8, 1]; add the batch axis. Received: x of shape [8, 8, 1]"),
    "scalar": (1.0, "`x` must have the shape [N, 8, 8, 1]. Received: x of shape []"),
    "batch 0": (X[:0], "`x` must hold at least one example. Received: x of shape (0, 8, 8, 1)"),
    "strings": (X.astype(str), "`x` must hold real numbers. Received: x of dtype"),
    "complex": (X.astype(complex), "`x` must hold real numbers. Received: x of dtype complex128"),
    "None": (None, "`x` must hold real numbers. Received: x of dtype object"),
    "ragged": ([[1, 2], [3]], "`x` must be one numeric array or tensor. Received: list"),
}


@pytest.mark.parametrize("wrong", WRONG_X)
def test_a_wrong_x_is_named_for_every_method_that_takes_it(by_format, wrong):
    x, message = WRONG_X[wrong]
    for call in (by_format.encode, by_format.reconstruct, lambda x: by_format.score(x, EPSILON)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(x)


@pytest.mark.parametrize("argument", ["z", "epsilon"])
@pytest.mark.parametrize(
    "wrong", [EPSILON[:, :2], EPSILON[0], EPSILON[:0], with_value(EPSILON, np.nan), "text"], ids=str
)
def test_a_wrong_z_or_epsilon_is_named(by_format, argument, wrong):
    calls = {"z": [by_format.decode], "epsilon": [by_format.generate, lambda epsilon: by_format.score(X, epsilon)]}
    for call in calls[argument]:
        with pytest.raises(ValueError, match=rf"^`{argument}` must .*Received: "):
            call(wrong)


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_as_many_rows_of_epsilon_as_of_x_are_needed(by_format, rows):
    with pytest.raises(ValueError, match=r"must have the same number of examples\. Received: ") as error:
        by_format.score(X, noise(rows))
    for part in ("`x`", "`epsilon`", "5 of x", f"{rows} of epsilon"):
        assert part in str(error.value)


def test_a_client_answers_after_an_error(model, by_format):
    with pytest.raises(ValueError, match="finite"):
        by_format.encode(with_value(X, np.nan))
    assert_same(answers(by_format, X, EPSILON), expected_answers(model, X, EPSILON))


@pytest.mark.parametrize(
    ("signature", "arguments", "named"),
    [
        ("serve", {"x": X}, "serve"),
        ("score", {"x": X}, "epsilon"),
        ("encode", {"x": X, "epsilon": EPSILON}, "epsilon"),
    ],
    ids=["no such signature", "a missing input", "an input too many"],
)
def test_run_names_a_signature_or_an_input_that_does_not_exist_or_is_missing(by_format, signature, arguments, named):
    with pytest.raises(ValueError, match=f"(?s)`{named}`|Received: .*{named}"):
        by_format.run(signature, **arguments)


# What is imported

HEAVY = ("tensorflow", "keras", "tensorflow_probability", "tf_keras")
RUN = """
    import json, sys
    import numpy as np

    path, question, blocked = sys.argv[1], np.load(sys.argv[2]), json.loads(sys.argv[3])
    for name in blocked:
        sys.modules[name] = None
    from tfvae.export import load

    heavy = ("tensorflow", "keras", "tensorflow_probability", "tf_keras")
    after_import = [name for name in heavy if sys.modules.get(name)]
    model = load(path)
    x, epsilon = question["x"], question["epsilon"]
    answers = {
        **model.encode(x),
        "decode": model.decode(epsilon),
        "reconstruct": model.reconstruct(x),
        "generate": model.generate(epsilon),
        **model.score(x, epsilon),
    }
    np.savez(sys.argv[4], **answers)
    print(json.dumps([after_import, [name for name in heavy if sys.modules.get(name)]]))
"""


@pytest.mark.parametrize("blocked", [(), HEAVY], ids=["tflite", "tflite, all blocked"])
def test_a_file_runs_in_a_process_without_tensorflow_and_keras(model, paths, tmp_path, run_new_python, blocked):
    np.savez(tmp_path / "question.npz", x=X, epsilon=EPSILON)
    arguments = paths["tflite"], tmp_path / "question.npz", json.dumps(blocked), tmp_path / "answer.npz"
    assert json.loads(run_new_python(RUN, *arguments).splitlines()[-1]) == [[], []]
    assert_same(dict(np.load(tmp_path / "answer.npz")), expected_answers(model, X, EPSILON))


@pytest.mark.slow
def test_a_saved_model_runs_in_a_process_with_tensorflow_alone(model, paths, tmp_path, run_with_tensorflow):
    np.savez(tmp_path / "question.npz", x=X, epsilon=EPSILON)
    arguments = paths["version"], tmp_path / "question.npz", json.dumps(HEAVY[1:]), tmp_path / "answer.npz"
    assert json.loads(run_with_tensorflow(RUN, *arguments).splitlines()[-1]) == [["tensorflow"], ["tensorflow"]]
    assert_same(dict(np.load(tmp_path / "answer.npz")), expected_answers(model, X, EPSILON))


@pytest.mark.slow
def test_keras_loads_a_saved_model_where_keras_is_imported_first(model, tmp_path, run_python):
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "question.npz", x=X, expected=model.predict(X, verbose=0))
    run_python(
        """
        import pathlib, sys
        import keras
        import numpy as np

        for name in [name for name in sys.modules if name.partition(".")[0] == "tfvae"]:
            del sys.modules[name]
        keras.saving.get_custom_objects().clear()
        assert keras.saving.get_registered_object("tfvae>VAE") is None
        import tfvae

        folder = pathlib.Path(sys.argv[1])
        model, question = keras.saving.load_model(folder / "model.keras"), np.load(folder / "question.npz")
        np.testing.assert_allclose(model.predict(question["x"], verbose=0), question["expected"], rtol=1e-5)
        """,
        tmp_path,
    )


# All possible orders; TensorFlow comes third only after Keras, which imports it.
@pytest.mark.slow
def test_keras_loads_a_saved_model_in_every_order_of_imports(model, tmp_path):
    orders = ["keras tfvae", "tfvae keras", "tfvae tensorflow keras", "tensorflow tfvae keras"]
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "expected.npy", model.predict(X, verbose=0))
    script = """
        import importlib, sys
        import numpy as np

        for name in sys.argv[1].split():
            importlib.import_module(name)
        import keras

        model = keras.saving.load_model("model.keras")
        np.testing.assert_allclose(model.predict(np.load("x.npy"), verbose=0), np.load("expected.npy"), rtol=1e-5)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    processes = {
        order: subprocess.Popen([*command, order], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for order in orders
    }
    errors = {order: process.communicate()[1] for order, process in processes.items()}
    assert {order: errors[order][-2000:] for order in orders if processes[order].returncode} == {}


@pytest.mark.parametrize("package", [tfvae, export], ids=lambda package: package.__name__)
def test_every_public_name_is_found_and_listed_and_no_other(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_public_names_are_listed_before_they_are_used(run_new_python):
    printed = run_new_python(
        """
        import json, sys
        import tfvae
        print(json.dumps([name for name in tfvae.__all__ if name not in dir(tfvae)]))
        import tfvae.export
        print(json.dumps([name for name in tfvae.export.__all__ if name not in dir(tfvae.export)]))
        print(json.dumps([name for name in ("tensorflow", "keras", "tensorflow_probability") if name in sys.modules]))
        """
    )
    assert [json.loads(line) for line in printed.splitlines()] == [[], [], []]
