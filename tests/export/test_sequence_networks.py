"""Networks of sequences in TFLite: fixed length, one sequence, built-in ops, right by both interfaces of LiteRT."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfvae import networks
from tfvae.export.formats import compiled_model

CHANNELS, LATENT_DIM, NUM_CODES = 3, 2, 5
SMALL = {
    "recurrent": {"units": (8, 4), "hidden": (8,)},
    "temporal": {"filters": 8, "dilations": (1, 2), "hidden": (8,)},
    "transformer": {"width": 8, "num_heads": 2, "num_blocks": 1, "hidden": (8,)},
}
UNROLLED = functools.partial(keras.layers.GRU, unroll=True)


def made(kind, part, *arguments, **named):
    return getattr(networks, f"{kind}_{part}")(*arguments, **{**SMALL[kind], **named})


def cases(kind):
    codes = {"step_shape": (1,), "num_classes": NUM_CODES}
    return {
        "encoder": lambda t: made(kind, "encoder", (CHANNELS,), t),
        "encoder that is not causal": lambda t: made(kind, "encoder", (CHANNELS,), t, causal=False),
        "encoder of steps": lambda t: made(kind, "encoder", (CHANNELS,), t, per_step=True, causal=True),
        "encoder of codes": lambda t: made(kind, "encoder", (1,), t, num_classes=NUM_CODES),
        "decoder": lambda t: made(kind, "decoder", LATENT_DIM, t, (2 * CHANNELS,)),
        "autoregressive decoder": lambda t: made(kind, "decoder", LATENT_DIM, t, (CHANNELS,), step_shape=(CHANNELS,)),
        "autoregressive decoder of codes": lambda t: made(kind, "decoder", LATENT_DIM, t, (NUM_CODES,), **codes),
    }


NETWORKS = {f"{kind} {name}": make for kind in SMALL for name, make in cases(kind).items()}
NETWORKS["LSTM encoder"] = lambda t: made("recurrent", "encoder", (CHANNELS,), t, layer=keras.layers.LSTM)
NETWORKS["unrolled GRU encoder"] = lambda t: made("recurrent", "encoder", (CHANNELS,), t, layer=UNROLLED)
STEPS = {
    "recurrent": lambda: made("recurrent", "encoder", (CHANNELS,), per_step=True),
    "LSTM": lambda: made("recurrent", "encoder", (CHANNELS,), per_step=True, layer=keras.layers.LSTM),
    "temporal": lambda: made("temporal", "encoder", (CHANNELS,), per_step=True),
}


def tflite(network):
    """The network as a .tflite file for one sequence, whose inputs and outputs are named by their number."""
    shapes = [(1, *tensor.shape[1:]) for tensor in network.inputs]
    signature = [tf.TensorSpec(shape, tf.float32, name=f"in{i}") for i, shape in enumerate(shapes)]

    @tf.function(input_signature=signature, autograph=False)
    def run(*inputs):
        outputs = network(list(inputs) if len(inputs) > 1 else inputs[0])
        return {f"out{i}": output for i, output in enumerate(keras.tree.flatten(outputs))}

    module = tf.Module()
    module.weights, module.run = [variable.value for variable in network.variables], run
    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def check(network):
    rng, inputs = np.random.default_rng(0), []
    for tensor in network.inputs:
        x = rng.integers(1, NUM_CODES, size=(1, *tensor.shape[1:])).astype("float32")
        if tensor.name in ("x", "previous", "x_t"):
            x[:, 1:2] = x[:, -2:] = np.nan
        inputs.append(x)
    outputs = network([tf.constant(x) for x in inputs] if len(inputs) > 1 else tf.constant(inputs[0]))
    expected = [output.numpy() for output in keras.tree.flatten(outputs)]
    content = tflite(network)
    ((_, compiled),) = compiled_model.functions(content)[0].items()
    for run in (Interpreter(model_content=content).get_signature_runner(), compiled):
        received = run(**{f"in{i}": x for i, x in enumerate(inputs)})
        for i, array in enumerate(expected):
            np.testing.assert_allclose(received[f"out{i}"], array, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case):
    check(NETWORKS[case](7))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["recurrent encoder", "recurrent decoder", "recurrent encoder that is not causal"])
def test_loops_of_128_steps(case):
    check(NETWORKS[case](128))


@pytest.mark.parametrize(
    "case", ["recurrent", *(pytest.param(name, marks=pytest.mark.slow) for name in ("LSTM", "temporal"))]
)
def test_networks_of_one_step(case):
    check(networks.stepwise(STEPS[case]()).model)


def test_an_unrolled_network_takes_the_weights_of_a_loop():
    """TFLite refuses loops for batches of any size, and runs unrolled ones faster."""
    network = made("recurrent", "encoder", (CHANNELS,), 5, units=(4,), layer=UNROLLED)
    looped = made("recurrent", "encoder", (CHANNELS,), 5, units=(4,))
    network.set_weights(looped.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 5, CHANNELS)).astype("float32")
    np.testing.assert_allclose(network(x), looped(x), atol=1e-6)
