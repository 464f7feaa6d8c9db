"""The SavedModel of a fitted posterior: its numbers against the model's and closed forms, and how it is served."""

import functools
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.helpers import readmes
from tests.helpers.grouped_regression import (
    DATA,
    LATENTS_OF,
    SIGMA,
    as_tensors,
    columns,
    design,
    exact_posterior,
    log_joint,
    new_data,
    predictive,
)
from tfvae import Latent, VariationalInference, export, posteriors
from tfvae.inference import newton

tfb = tfp.bijectors


@pytest.fixture(scope="module")
def regressions(tmp_path_factory):
    """Makes, once for each form of the data, the fitted model, its version and the loaded signatures."""

    @functools.cache
    def make(form):
        keras.utils.set_random_seed(0)
        model = VariationalInference(log_joint, LATENTS_OF[form], predictive=predictive)
        # What a fit would find, without the time it takes.
        mean, covariance = exact_posterior(DATA[form])
        model.approximation.set_coordinates(newton.Gaussian(mean, np.linalg.cholesky(covariance), np.nan))
        version = export.saved_model(model, tmp_path_factory.mktemp("served") / form, x=new_data(form))
        return model, version, tf.saved_model.load(str(version))

    return make


# An array is exported by default in test_posterior_publishing.py.
@pytest.fixture(scope="module", params=[pytest.param("array", marks=pytest.mark.slow), "dictionary"])
def regression(request, regressions):
    """A fitted model, its version, the loaded signatures and the form of its data."""
    return *regressions(request.param), request.param


LATENTS = {
    "free": (2,),
    "positive": Latent((), tfb.Exp()),
    "part": Latent((2,), tfb.Sigmoid()),
    "simplex": Latent((3,), tfb.IteratedSigmoidCentered()),
    "ordered": Latent((3,), tfb.Ascending()),
}
DIM = 2 + 1 + 2 + 2 + 3
FAMILIES = {
    "DiagonalNormal": posteriors.DiagonalNormal,
    "FullCovarianceNormal": posteriors.FullCovarianceNormal,
    "LowRankNormal": lambda: posteriors.LowRankNormal(rank=2),
    "CouplingFlow": lambda: posteriors.CouplingFlow(num_couplings=2, hidden=4),
}


def of_family(name):
    """A model whose q has random weights, not the initial ones, in given coordinates."""
    keras.utils.set_random_seed(0)
    model = VariationalInference(lambda latents, data: latents["positive"], LATENTS, posterior=FAMILIES[name]())
    generator = np.random.default_rng(0)
    for weight in model.posterior.weights:
        weight.assign(generator.normal(scale=0.4, size=weight.shape))
    scale = np.tril(generator.normal(scale=0.2, size=[DIM, DIM]), -1) + np.diag(np.linspace(0.2, 0.8, DIM))
    model.approximation.set_coordinates(newton.Gaussian(generator.normal(size=DIM), scale, np.nan))
    return model


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Makes, once for each family, the model, its version and the loaded signatures."""

    @functools.cache
    def make(name):
        model = of_family(name)
        version = export.saved_model(model, tmp_path_factory.mktemp("served") / name)
        return model, version, tf.saved_model.load(str(version))

    return make


# The regressions of the default tests have a full covariance; draws of a low rank are tested in tests/posteriors.
SLOW = ["FullCovarianceNormal", "LowRankNormal"]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES]
)
def family(request, families):
    return families(request.param)


def graph_of(version):
    (meta_graph,) = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes()).meta_graphs
    return meta_graph


def assert_close(received, expected):
    assert sorted(received) == sorted(expected)
    for name, value in expected.items():
        value = np.asarray(value)
        assert received[name].shape == value.shape, name
        np.testing.assert_allclose(received[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name)


def drawn_by(model, epsilon):
    z = model.approximation.sample_from(tf.constant(epsilon, tf.float32))
    return model.space.constrain(z)[0]


# Draws


@pytest.mark.slow
def test_the_signatures_of_a_posterior_alone_are_of_its_draws(family):
    _, version, loaded = family
    assert set(loaded.signatures) == {"sample", "serving_default"}
    for name in loaded.signatures:
        signature = graph_of(version).signature_def[name]
        assert list(signature.inputs) == ["epsilon"]
        assert [size.size for size in signature.inputs["epsilon"].tensor_shape.dim] == [-1, DIM]
        assert sorted(signature.outputs) == sorted(LATENTS)
        assert {info.dtype for info in signature.outputs.values()} == {tf.float32.as_datatype_enum}
        assert {info.tensor_shape.dim[0].size for info in signature.outputs.values()} == {-1}


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 300])
def test_a_draw_is_that_of_the_model_at_the_same_noise(family, rows):
    model, version, loaded = family
    noise = np.random.default_rng(rows).standard_normal([rows, DIM]).astype("float32")
    for epsilon in (noise, np.zeros_like(noise)):
        expected = drawn_by(model, epsilon)
        for signature in ("sample", "serving_default"):
            assert_close(loaded.signatures[signature](epsilon=tf.constant(epsilon)), expected)
    assert_close(export.load(version).sample(noise), drawn_by(model, noise))


def test_every_latent_variable_is_inside_its_space(family):
    _, _, loaded = family
    noise = np.random.default_rng(0).standard_normal([1000, DIM]).astype("float32")
    draws = {key: value.numpy() for key, value in loaded.signatures["sample"](epsilon=tf.constant(noise)).items()}
    assert {key: value.shape[1:] for key, value in draws.items()} == {
        key: tuple(latent.shape if isinstance(latent, Latent) else latent) for key, latent in LATENTS.items()
    }
    assert draws["positive"].min() > 0
    assert 0 < draws["part"].min() < draws["part"].max() < 1
    assert (draws["simplex"] > 0).all()
    np.testing.assert_allclose(draws["simplex"].sum(axis=1), 1.0, atol=1e-5)
    assert (np.diff(draws["ordered"], axis=1) > 0).all()
    assert all((value.std(axis=0) > 1e-3).all() for value in draws.values())


def test_the_draws_have_the_moments_of_q(family):
    """In the unconstrained space, against the moments of a normal q, or against other draws of a flow."""
    model, _, loaded = family
    count = 20_000
    noise = np.random.default_rng(0).standard_normal([count, DIM]).astype("float32")
    outputs = loaded.signatures["sample"](epsilon=tf.constant(noise))
    z = model.space.unconstrain(outputs).numpy().astype(float)
    if isinstance(model.posterior, posteriors.CouplingFlow):
        others = model.approximation.sample(count, tf.constant([1, 2]))[0].numpy()
        sd = others.std(axis=0)
        assert (np.abs(z.mean(axis=0) - others.mean(axis=0)) < 5 * sd * np.sqrt(2 / count)).all()
        np.testing.assert_allclose(z.std(axis=0), sd, rtol=0.05)
        return
    distribution = model.approximation._distribution()
    loc, root = (weight.numpy().astype(float) for weight in (model.approximation.loc, model.approximation.scale))
    if isinstance(model.posterior, posteriors.DiagonalNormal):
        covariance, root = np.diag(distribution.variance()[0].numpy()), np.diag(root)
    else:
        covariance = distribution.covariance()[0].numpy()
    mean, cholesky = loc + root @ distribution.mean()[0].numpy(), root @ np.linalg.cholesky(covariance.astype(float))
    white = np.linalg.solve(cholesky, (z - mean).T)
    np.testing.assert_allclose(white.mean(axis=1), 0.0, atol=5 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(white), np.eye(DIM), atol=5 * np.sqrt(2 / count))


def test_the_signatures_of_a_model_that_predicts(regression):
    model, version, loaded, form = regression
    assert set(loaded.signatures) == {"sample", "predict", "serving_default"}
    inputs = {"x": [-1, 2]} if form == "array" else {"x": [-1, 2], "group": [-1]}
    for name in ("predict", "serving_default"):
        signature = graph_of(version).signature_def[name]
        found = {key: [size.size for size in info.tensor_shape.dim] for key, info in signature.inputs.items()}
        assert found == inputs
        assert {info.dtype for info in signature.inputs.values()} == {tf.float32.as_datatype_enum}
        assert sorted(signature.outputs) == ["mean", "stddev"]
    assert export.load(version).signatures == tuple(loaded.signatures)
    noise = np.random.default_rng(0).standard_normal([4, model.space.dim]).astype("float32")
    assert_close(loaded.signatures["sample"](epsilon=tf.constant(noise)), drawn_by(model, noise))


@pytest.mark.parametrize("rows", [1, 300])
def test_a_prediction_is_that_of_the_model(regression, rows):
    model, version, loaded, form = regression
    x = new_data(form, rows)
    expected = model.predict_moments(x)
    for name in ("predict", "serving_default"):
        assert_close(loaded.signatures[name](**as_tensors(columns(x))), expected)
    # The client splits the rows into batches, and accepts integers and doubles.
    assert_close(export.load(version).predict(**(x if isinstance(x, dict) else {"x": x})), expected)


def test_a_prediction_has_the_mean_and_sd_of_the_closed_form(regression):
    _, version, _, form = regression
    mean, covariance = exact_posterior(DATA[form])
    x = new_data(form, 40)
    of_mean = np.einsum("bi,ij,bj->b", design(x), covariance, design(x))
    received = export.load(version).predict(**(x if isinstance(x, dict) else {"x": x}))
    # Each part of the variance dominates for some rows. The tolerances are the errors of 200 draws.
    assert of_mean.min() < 0.3 * SIGMA**2
    assert of_mean.max() > 3 * SIGMA**2
    assert (np.abs(received["mean"] - design(x) @ mean) < 4 * np.sqrt(of_mean / 200)).all()
    error = np.abs(received["stddev"] ** 2 - SIGMA**2 - of_mean)
    assert (error < 4 * np.sqrt(2 / 200) * of_mean).all()


# Where it is served

OTHERS = ["tfvae", "keras", "tf_keras", "tensorflow_probability"]
ONLY_TENSORFLOW = """
    import json, pathlib, sys
    import numpy as np

    others = sys.argv[2].split()
    sys.modules["tfvae"] = None
    import tensorflow as tf

    folder = pathlib.Path(sys.argv[1])
    codes = {}
    for index, (version, signature) in enumerate(json.loads((folder / "questions.json").read_text())):
        loaded = tf.saved_model.load(version)
        call = loaded.signatures[signature]
        inputs = {key: tf.constant(value) for key, value in np.load(folder / f"{index}.npz").items()}
        outputs, again = call(**inputs), call(**inputs)
        for key in outputs:
            np.testing.assert_array_equal(outputs[key], again[key])
        np.savez(folder / f"{index}.outputs.npz", **{key: value.numpy() for key, value in outputs.items()})
        wrong = {}
        for key, value in inputs.items():
            if value.shape.rank > 1:
                wrong[f"{key} wide"] = tf.concat([value, value], -1)
            wrong[f"{key} of a higher rank"] = value[..., None]
            wrong[f"{key} of a lower rank"] = value[0]
            if len(inputs) > 1:
                wrong[f"{key} short"] = value[:1]
        for what, value in wrong.items():
            try:
                call(**{**inputs, what.split()[0]: value})
                codes[f"{index} {what}"] = None
            except tf.errors.InvalidArgumentError as error:
                # The name of the node comes with an error of the graph alone.
                codes[f"{index} {what}"] = [error.error_code, "node" in error.message]
    there = [name for name, module in sys.modules.items() if module and name.partition(".")[0] in others]
    print(json.dumps({"codes": codes, "there": there}))
"""


@pytest.mark.slow
def test_plain_tensorflow_gives_the_same_and_the_graph_refuses_wrong_shapes(
    regressions, families, tmp_path, run_with_tensorflow
):
    noise = np.random.default_rng(0).standard_normal([6, DIM]).astype("float32")
    questions, expected = [], []
    for form in DATA:
        model, version, _ = regressions(form)
        questions.append((version, "predict", columns(new_data(form, 6))))
        expected.append(model.predict_moments(new_data(form, 6)))
    for model, version, _ in (regressions("array"), families("CouplingFlow")):
        epsilon = noise[:, : model.space.dim]
        questions.append((version, "sample", {"epsilon": epsilon}))
        expected.append(drawn_by(model, epsilon))
    for index, (_, _, inputs) in enumerate(questions):
        np.savez(tmp_path / f"{index}.npz", **inputs)
    (tmp_path / "questions.json").write_text(json.dumps([(str(version), name) for version, name, _ in questions]))
    printed = json.loads(run_with_tensorflow(ONLY_TENSORFLOW, tmp_path, " ".join(OTHERS)).splitlines()[-1])
    assert printed["there"] == []
    for index, value in enumerate(expected):
        assert_close(dict(np.load(tmp_path / f"{index}.outputs.npz")), value)
    # 3 is the server's code INVALID_ARGUMENT.
    assert len(printed["codes"]) == 3 + 7 + 3 + 3
    assert {key: code for key, code in printed["codes"].items() if code != [3, True]} == {}


def assert_plain(version):
    graph = graph_of(version).graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert {"EnsureShape", "ReadVariableOp"} <= {node.op for node in nodes}
    for node in nodes:
        assert not re.search("PyFunc|Print|Lookup|Iterator|^Random|Multinomial", node.op), node.op
        types = [kind for value in node.attr.values() for kind in (value.type, *value.list.type)]
        assert tf.float64.as_datatype_enum not in types, (node.op, node.name)


def test_the_graph_of_draws_has_no_double_precision_and_calls_no_python(family):
    assert_plain(family[1])


def test_the_graph_of_predictions_has_no_double_precision_and_calls_no_python(regression):
    """Even if the data were in double precision."""
    assert_plain(regression[1])


def test_all_that_a_server_needs_is_there(regression):
    model, version, loaded, form = regression
    assert version.name == "1"
    assert {path.name for path in version.parent.iterdir() if path.name != ".lock"} == {
        "1",
        "README.md",
        "requests",
        "models.config",
    }
    records = tf.data.TFRecordDataset(str(version / "assets.extra/tf_serving_warmup_requests"))
    requests = [prediction_log_pb2.PredictionLog.FromString(r.numpy()).predict_log.request for r in records]
    assert {request.model_spec.signature_name for request in requests} == set(loaded.signatures)
    for request in requests:
        assert request.model_spec.name == form
        inputs = {key: tf.constant(tf.make_ndarray(tensor)) for key, tensor in request.inputs.items()}
        outputs = loaded.signatures[request.model_spec.signature_name](**inputs)
        assert all(len(output) == 1 and np.isfinite(output).all() for output in outputs.values())
    metadata = json.loads((version / "assets.extra/metadata.json").read_text())
    latents = {name: list(shape) for name, shape in LATENTS_OF[form].items()}
    assert metadata.pop("tfvae_version")
    expected = {"latents": latents, "dim": model.space.dim, "posterior": "FullCovarianceNormal"}
    assert metadata.items() >= expected.items()
    assert export.load(version).metadata["latents"] == latents
    text = (version.parent / "models.config").read_text()
    (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert (config.name, config.base_path) == (form, f"/models/{form}")


def test_every_request_of_the_readme_is_answered(regression, monkeypatch):
    model, version, loaded, form = regression
    answers = readmes.check(version, loaded, monkeypatch)
    assert list(answers) == ["sample", "sample.columns", "serving_default", "serving_default.columns"]
    x = new_data(form)
    first = x[:1] if form == "array" else {key: value[:1] for key, value in x.items()}
    for name, answer in answers.items():
        if name.startswith("sample"):
            assert_close(answer, drawn_by(model, np.zeros([1, model.space.dim])))
        else:
            assert_close(answer, model.predict_moments(first))
    readme = (version.parent / "README.md").read_text()
    assert all(f"{name} {list(shape)}" in readme for name, shape in model.space.shapes.items())


def test_every_request_to_a_posterior_alone_is_answered(family, monkeypatch):
    model, version, loaded = family
    for answer in readmes.check(version, loaded, monkeypatch).values():
        assert_close(answer, drawn_by(model, np.zeros([1, DIM])))


def test_a_wrong_row_gets_nan_and_the_others_what_they_get_without_it(regressions):
    model, _, loaded = regressions("dictionary")
    rows, wrong = 5, 2
    others = np.arange(rows) != wrong
    noise = np.random.default_rng(0).normal(size=[rows, model.space.dim]).astype(np.float32)
    asked = {"sample": {"epsilon": noise}, "predict": columns(new_data("dictionary", rows))}
    for signature, inputs in asked.items():
        right = loaded.signatures[signature](**as_tensors(inputs))
        for name, array in inputs.items():
            # 0.5 is no number of a group.
            for value in (np.nan, np.inf, 0.5) if name == "group" else (np.nan, -np.inf):
                changed = array.copy()
                changed[wrong] = value
                received = loaded.signatures[signature](**as_tensors({**inputs, name: changed}))
                for output, expected in right.items():
                    assert np.isnan(received[output].numpy()[wrong]).all(), (name, value, output)
                    np.testing.assert_array_equal(received[output].numpy()[others], expected.numpy()[others])


def test_a_client_names_what_is_wrong(regression):
    model, version, _, _ = regression
    exported = export.load(version)
    with pytest.raises(ValueError, match=rf"`epsilon` must have the shape \[N, {model.space.dim}\]"):
        exported.sample(np.zeros([3, model.space.dim + 1]))
    with pytest.raises(ValueError, match="The inputs of serving_default must be"):
        exported.predict(other=np.zeros([3, 2]))
