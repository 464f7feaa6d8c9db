"""The models that the benchmarks compare: all compute the same loss from the same weights."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import tfvae

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import likelihood  # noqa: E402
import roofline  # noqa: E402
import step_profile  # noqa: E402
from peers import architectures, tfvae_vae  # noqa: E402
from peers.architectures import ARCHITECTURES  # noqa: E402

DENSE = [name for name, architecture in ARCHITECTURES.items() if not architecture.filters]
# Runs in its own process: prints the losses of a peer for given noise, before and after some training.
LOSSES = """
    import json, sys

    sys.path.append(sys.argv[1])
    from peers import architectures, worker

    peer, rows = sys.argv[2], int(sys.argv[3])
    for shape, architecture in architectures.ARCHITECTURES.items():
        for k in (1,) if peer == "pythae" else (1, 4):
            model = worker.build(peer, shape, rows, k)
            model.load(architectures.weights(architecture))
            given = architectures.data(architecture, rows), architectures.noise(architecture, k, rows)
            before = model.loss(*given)
            assert model.epoch(4) > 0
            print(json.dumps([shape, k, before, model.loss(*given)]))
"""
ACTIVATIONS = {"tanh": np.tanh, "silu": lambda x: x * special.expit(x)}
ROWS = 6


def numpy_loss(architecture, weights, x, epsilon):
    """The loss of a dense architecture, computed in float64."""

    def network(layers, pairs, outputs):
        for layer, (kernel, bias) in zip(layers, pairs, strict=True):
            outputs = outputs @ kernel.astype(float) + bias
            outputs = ACTIVATIONS[architecture.activation](outputs) if layer.is_activated else outputs
        return outputs

    features = network(architecture.encoder, weights.encoder, x.astype(float))
    loc = network([architecture.head], [weights.loc], features)
    scale = np.logaddexp(0, network([architecture.head], [weights.scale], features) + np.log(np.e - 1)) + 1e-6
    z = loc + scale * epsilon
    outputs = network(architecture.decoder, weights.decoder, z)
    if architecture.likelihood == "normal":
        log_likelihood = stats.norm.logpdf(x, outputs).sum(-1)
    else:
        log_likelihood = stats.bernoulli.logpmf(x.astype(int), special.expit(outputs)).sum(-1)
    if len(epsilon) == 1:
        kl = ((loc**2 + scale**2 - 1) / 2 - np.log(scale)).sum(-1)
        return (kl - log_likelihood[0]).mean()
    log_weights = log_likelihood + (stats.norm.logpdf(z) - stats.norm.logpdf(z, loc, scale)).sum(-1)
    return np.log(len(epsilon)) - special.logsumexp(log_weights, axis=0).mean()


@pytest.mark.parametrize("shape", ARCHITECTURES)
def test_the_weights_have_the_shapes_that_the_model_has(shape):
    architecture = ARCHITECTURES[shape]
    weights, model = architectures.weights(architecture), tfvae_vae.build(architecture, 1)
    for pairs, owner in ((weights.encoder, model.encoder), (weights.decoder, model.decoder)):
        arrays = [array for pair in pairs for array in pair]
        assert [array.shape for array in arrays] == [tuple(variable.shape) for variable in owner.weights]
    tfvae_vae.load(model, weights)
    for pair, head in ((weights.loc, model.posterior.loc_head), (weights.scale, model.posterior.scale_head)):
        for array, variable in zip(pair, head.weights, strict=True):
            np.testing.assert_array_equal(array, variable)


def test_the_convolutions_are_the_ready_ones_of_tfvae():
    architecture = ARCHITECTURES["convolutional 28x28x1"]
    built = tfvae_vae.build(architecture, 1)
    for ours, ready in (
        (built.encoder, tfvae.networks.convolutional_encoder((28, 28, 1))),
        (built.decoder, tfvae.networks.convolutional_decoder(architecture.latent_dim, (28, 28, 1))),
    ):
        assert [v.shape for v in ours.weights] == [v.shape for v in ready.weights]


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("shape", DENSE)
def test_the_loss_of_tfvae_is_that_of_numpy(shape, k):
    architecture = ARCHITECTURES[shape]
    weights, model = architectures.weights(architecture), tfvae_vae.build(architecture, k)
    tfvae_vae.load(model, weights)
    x, epsilon = architectures.data(architecture, ROWS), architectures.noise(architecture, k, ROWS)
    expected = numpy_loss(architecture, weights, x, epsilon)
    np.testing.assert_allclose(tfvae_vae.loss(model, x, epsilon), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
def test_the_operations_of_the_roofline_are_those_that_tensorflow_counts(k):
    shape, rows = roofline.SHAPE, 8
    model = tfvae_vae.build(ARCHITECTURES[shape], k)
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    graph = tf.function(model.train_step).get_concrete_function(tf.TensorSpec([rows, 784])).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    options = options.with_empty_output().with_node_names(show_name_regexes=[".*MatMul.*"]).build()
    counted = tf.compat.v1.profiler.profile(graph, options=options).total_float_ops
    assert roofline.operations(ARCHITECTURES[shape], k) == counted / rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "peer", ["tfvae", "keras", *(pytest.param(peer, marks=pytest.mark.extra) for peer in ("torch", "jax", "pythae"))]
)
def test_the_loss_of_every_peer_is_that_of_tfvae_and_training_lowers_it(peer, run_new_python):
    # Not imported here, because several frameworks crash when they share a process.
    assert importlib.util.find_spec(peer), f"{peer} must be installed: pip install 'tfvae[benchmarks]'"
    for line in run_new_python(LOSSES, BENCHMARKS, peer, ROWS).splitlines():
        shape, k, before, after = json.loads(line)
        architecture = ARCHITECTURES[shape]
        model = tfvae_vae.build(architecture, k)
        tfvae_vae.load(model, architectures.weights(architecture))
        x, epsilon = architectures.data(architecture, ROWS), architectures.noise(architecture, k, ROWS)
        np.testing.assert_allclose(before, tfvae_vae.loss(model, x, epsilon), rtol=1e-5)
        assert after < before


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_estimates_that_are_not_those_of_tfvae_are_refused(wrong):
    numbers = np.random.default_rng(0)
    estimates = {peer: numbers.normal(-90, 0.1, 200) for peer in ("tfvae", "jax")}
    rows = [{"seconds": {"tfvae": 1.0, "jax": 2.0}, "estimates": estimates}]
    likelihood.show(rows, ["tfvae", "jax"])
    estimates["jax"] += wrong
    with pytest.raises(ValueError, match="jax must estimate what tfvae does"):
        likelihood.show(rows, ["tfvae", "jax"])


def test_the_likelihood_leaves_out_a_peer_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setitem(likelihood.PEERS, "other", ("no_such_package", "module", "Class", {}))
    assert likelihood.installed(["tfvae", "other"]) == ["tfvae"]
    assert capsys.readouterr().out == "other           none: no_such_package is not installed\n"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("while/body/_1/gradient_tape/dense_1/MatMul/MatMul_1:_MklMatMul", "_MklMatMul"),
        ("adam/ResourceApplyAdam_10:ResourceApplyAdam", "ResourceApplyAdam"),
        ("MatMul_1.83", "XLA: MatMul"),
        ("copy.65", "XLA: copy"),
        ("divide_subtract_fusion.13", "XLA: fusions"),
        ("maximum_subtract_fusion", "XLA: fusions"),
        ("while.4", None),
        ("ThunkExecutor::Execute", None),
        ("Iterator::Root", None),
        ("EagerLocalExecute: MakeIterator", None),
    ],
)
def test_the_kind_of_operation_of_an_event(event, kind):
    assert step_profile.kind_of(event) == kind


@pytest.mark.slow
def test_the_cost_of_bfloat16_is_told_for_each_policy(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, x_test=images[:20])
    command = [sys.executable, "bfloat16.py", "--data", tmp_path / "images.npz", "--json", tmp_path / "rows.jsonl"]
    command += ["--shapes", "dense 784-512-512-32", "--seeds", "2", "--epochs", "2", "--num-samples", "3"]
    outputs = [subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True).stdout for _ in "ab"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == 2 * ["float32", "float32, no XLA", "mixed_bfloat16"]
    assert all(np.isfinite([row["rate"], row["elbo"], row["log_likelihood"]]).all() for row in rows)
    assert rows[0]["log_likelihood"] != rows[2]["log_likelihood"] == pytest.approx(rows[0]["log_likelihood"], rel=0.02)
    # The second run prints the same, because it finds all rows in the file.
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 2 + 1 + 3
