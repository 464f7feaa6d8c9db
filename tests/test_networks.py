"""The networks: shapes, parameters, gradients, files and TFLite."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfvae.networks import (
    convolutional_decoder,
    convolutional_encoder,
    dense_decoder,
    dense_encoder,
    residual_decoder,
    residual_encoder,
    set_encoder,
    set_transformer,
    temporal_encoder,
)

LATENT_DIM = 3
IMAGE_SHAPES = [(28, 28, 1), (8, 8, 1), (32, 32, 3), (7, 5, 2), (1, 1, 1)]


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def mixed_bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def batch_for(network, size):
    return np.random.default_rng(0).normal(size=(size, *network.input_shape[1:])).astype("float32")


BUILDERS = {
    "dense_encoder": lambda: dense_encoder((7, 5, 2), hidden=(16, 8)),
    "dense_decoder": lambda: dense_decoder(LATENT_DIM, (7, 5, 2), hidden=(8, 16)),
    "convolutional_encoder": lambda: convolutional_encoder((7, 5, 2), filters=(4, 8), hidden=(16,)),
    "convolutional_decoder": lambda: convolutional_decoder(LATENT_DIM, (7, 5, 2), filters=(8, 4), hidden=(16,)),
    "residual_encoder": lambda: residual_encoder((7, 5, 2), filters=(4, 8), hidden=(16,), num_blocks=1),
    "residual_decoder": lambda: residual_decoder(LATENT_DIM, (7, 5, 2), filters=(8, 4), hidden=(16,), num_blocks=1),
    "recomputed": lambda: residual_encoder((7, 5, 2), filters=(4,), hidden=(6,), num_blocks=1, recompute=True),
    "set_encoder": lambda: set_encoder((2,), 6, item_hidden=(8,), hidden=(8,)),
    "set_transformer": lambda: set_transformer((2,), 6, width=8, num_heads=2, num_blocks=1, hidden=(8,)),
    "temporal_encoder": lambda: temporal_encoder((), 6, filters=4, dilations=(1, 2), hidden=(8,)),
}


# Those of the decoder have the same blocks.
SLOW = ("residual_encoder", "recomputed")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BUILDERS])
def network(request):
    return BUILDERS[request.param]()


@pytest.mark.parametrize("shape", [*IMAGE_SHAPES, (30,)])
@pytest.mark.parametrize("size", [1, 7])
def test_dense_shapes(shape, size):
    encoder = dense_encoder(shape, hidden=(16, 8))
    decoder = dense_decoder(LATENT_DIM, shape, hidden=(8, 16))
    assert encoder(batch_for(encoder, size)).shape == (size, 8)
    assert decoder(batch_for(decoder, size)).shape == (size, *shape)


CONVOLUTIONAL = {
    "plain": (convolutional_encoder, convolutional_decoder),
    "residual": (residual_encoder, residual_decoder),
}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *(("plain", shape) for shape in IMAGE_SHAPES),
        ("residual", (7, 5, 2)),
        *(pytest.param("residual", shape, marks=pytest.mark.slow) for shape in IMAGE_SHAPES if shape != (7, 5, 2)),
    ],
)
@pytest.mark.parametrize("size", [1, 7])
def test_convolutional_shapes(kind, shape, size):
    make_encoder, make_decoder = CONVOLUTIONAL[kind]
    encoder = make_encoder(shape, filters=(4, 8), hidden=(16,))
    decoder = make_decoder(LATENT_DIM, shape, filters=(8, 4), hidden=(16,))
    assert encoder(batch_for(encoder, size)).shape == (size, 16)
    assert decoder(batch_for(decoder, size)).shape == (size, *shape)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_convolutional_networks_read_a_condition_and_what_is_missing(kind):
    make_encoder, make_decoder = CONVOLUTIONAL[kind]
    encoder = make_encoder((8, 8, 1), filters=(4,), hidden=(6,), missing_mask=True, condition_dim=2)
    decoder = make_decoder(LATENT_DIM, (8, 8, 1), filters=(4,), hidden=(6,), condition_dim=2)
    x = np.where(np.arange(64).reshape(8, 8, 1) % 3, 1.0, np.nan)[None]
    z = np.ones((1, LATENT_DIM))
    seen = [(encoder([x, np.full((1, 2), c)]), decoder([z, np.full((1, 2), c)])) for c in (0.0, 1.0)]
    for one, other in zip(*seen, strict=True):
        assert np.all(np.isfinite(one))
        assert np.abs(one - other).max() > 1e-3


def test_more_convolutions_than_the_image_can_be_halved():
    encoder = convolutional_encoder((8, 8, 1), filters=(2, 2, 2, 2, 5), hidden=())
    decoder = convolutional_decoder(LATENT_DIM, (8, 8, 1), filters=(5, 2, 2, 2, 2), hidden=())
    assert encoder(batch_for(encoder, 2)).shape == (2, 5)
    assert decoder(batch_for(decoder, 2)).shape == (2, 8, 8, 1)


def test_without_hidden_layers_the_dense_encoder_flattens():
    encoder = dense_encoder((2, 3), hidden=())
    x = batch_for(encoder, 4)
    np.testing.assert_array_equal(encoder(x), x.reshape(4, 6))
    assert encoder.count_params() == 0


def test_without_hidden_layers_the_dense_decoder_is_affine():
    decoder = dense_decoder(LATENT_DIM, (2, 3), hidden=())
    kernel, bias = decoder.get_weights()
    z = batch_for(decoder, 4)
    np.testing.assert_allclose(decoder(z), (z @ kernel + bias).reshape(4, 2, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", [dense_decoder, convolutional_decoder, residual_decoder])
def test_decoder_outputs_are_unbounded_on_both_sides(network):
    decoder = network(LATENT_DIM, (8, 8, 1))
    outputs = decoder(100.0 * batch_for(decoder, 7)).numpy()
    assert outputs.min() < -1.0
    assert outputs.max() > 1.0


def test_parameter_counts():
    assert dense_encoder((30,), hidden=(16, 8)).count_params() == (30 * 16 + 16) + (16 * 8 + 8)
    assert dense_decoder(3, (30,), hidden=(8, 16)).count_params() == (3 * 8 + 8) + (8 * 16 + 16) + (16 * 30 + 30)
    # 28 -> 14 -> 7, with 4x4 kernels.
    convolutions = (4 * 4 * 1 * 32 + 32) + (4 * 4 * 32 * 64 + 64)
    assert convolutional_encoder((28, 28, 1)).count_params() == convolutions + (7 * 7 * 64 * 128 + 128)
    transposed = (4 * 4 * 64 * 32 + 32) + (4 * 4 * 32 * 1 + 1)
    dense = (3 * 128 + 128) + (128 * 7 * 7 * 64 + 7 * 7 * 64)
    assert convolutional_decoder(3, (28, 28, 1)).count_params() == dense + transposed
    # 28 -> 14, with one block and two.
    blocks = 2 * (9 * 4 * 4 + 4) + 4 * (9 * 8 * 8 + 8)
    narrowing = (9 * 1 * 4 + 4) + (9 * 4 * 8 + 8)
    encoder = residual_encoder((28, 28, 1), filters=(4, 8), hidden=(16,), num_blocks=(1, 2))
    assert encoder.count_params() == narrowing + blocks + (14 * 14 * 8 * 16 + 16)
    dense = (3 * 16 + 16) + (16 * 14 * 14 * 8 + 14 * 14 * 8)
    decoder = residual_decoder(3, (28, 28, 1), filters=(8, 4), hidden=(16,), num_blocks=(2, 1))
    assert decoder.count_params() == dense + blocks + (8 * 4 + 4) + (9 * 4 * 1 + 1)


def test_hidden_activation_is_the_one_asked_for():
    for network in [
        dense_encoder((8, 8, 1), activation="tanh"),
        dense_decoder(LATENT_DIM, (8, 8, 1), activation="tanh"),
        convolutional_encoder((8, 8, 1), activation="tanh"),
        convolutional_decoder(LATENT_DIM, (8, 8, 1), activation="tanh"),
    ]:
        used = [layer.activation.__name__ for layer in network.layers if hasattr(layer, "activation")]
        last = "tanh" if network.name == "encoder" else "linear"
        assert used == ["tanh"] * (len(used) - 1) + [last]
        assert len(used) >= 2


def test_the_activation_of_residual_networks_is_the_one_asked_for():
    for network in (residual_encoder((8, 8, 1), activation="tanh"), residual_decoder(3, (8, 8, 1), activation="tanh")):
        used = [layer.activation.__name__ for layer in network.layers if hasattr(layer, "activation")]
        # One before each of two convolutions in each of six blocks, one before what follows, and a dense layer.
        assert used.count("tanh") == 2 * 6 + 2
        assert set(used) == {"tanh", "linear"}


def test_each_residual_block_starts_smaller_the_more_there_are():
    """The variance of the last convolution's weights in a block is 1 / (number of blocks) of Glorot's."""
    for num_blocks in (1, 8):
        network = residual_decoder(LATENT_DIM, (4, 4, 1), filters=(16, 16), num_blocks=num_blocks)
        kernels = [layer.kernel for layer in network.layers if getattr(layer, "kernel_size", None) == (3, 3)][:-1]
        glorot = 1 / (9 * 16)
        for place, kernel in enumerate(kernels):
            expected = glorot / (2 * num_blocks) if place % 2 else glorot
            # The relative error of a variance from 2304 uniform weights has a standard deviation of 1.9%.
            np.testing.assert_allclose(np.var(kernel), expected, rtol=0.1)


def test_gradient_reaches_every_weight(network):
    x = batch_for(network, 16)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(network(x)))
    for weight, gradient in zip(network.trainable_weights, tape.gradient(loss, network.trainable_weights), strict=True):
        assert np.all(np.isfinite(gradient)), weight.path
        assert np.any(gradient != 0.0), weight.path


def test_keras_file_round_trip_in_safe_mode(network, tmp_path):
    x = batch_for(network, 5)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(x), network(x))
    assert loaded.name == network.name


def test_tflite_of_built_in_ops_agrees(network):
    inputs = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="inputs")
    function = tf.function(network, input_signature=[inputs], autograph=False).get_concrete_function()
    # Tracking the network itself would track Keras variables, which the converter fails to freeze: outputs are random.
    weights = tf.Module()
    weights.values = [variable.value for variable in network.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], weights)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    run = Interpreter(model_content=converter.convert()).get_signature_runner()
    for size in (1, 7):
        x = batch_for(network, size)
        (actual,) = run(inputs=x).values()
        expected = network(x).numpy()
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.usefixtures("mixed_bfloat16")
def test_mixed_bfloat16(builder):
    network = builder()
    x = batch_for(network, 7)
    outputs = network(x)
    assert outputs.dtype == tf.bfloat16
    assert all(weight.dtype == "float32" for weight in network.weights)
    in_float32 = keras.models.clone_model(
        network, clone_function=lambda layer: type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    )
    in_float32.set_weights(network.get_weights())
    expected = in_float32(x).numpy()
    difference = np.abs(keras.ops.convert_to_numpy(outputs).astype("float32") - expected)
    assert difference.max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(), 30, (30, 0), (30, -1), (2.0,), ("30",), "30", None, (None, 30)])
def test_dense_networks_refuse_a_bad_shape(shape):
    with pytest.raises(
        ValueError, match=r"`event_shape` must be a tuple of positive integers.* Received: event_shape="
    ):
        dense_encoder(shape)
    with pytest.raises(
        ValueError, match=r"`output_shape` must be a tuple of positive integers.* Received: output_shape="
    ):
        dense_decoder(LATENT_DIM, shape)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(30,), (28, 28), (2, 28, 28, 1)])
def test_convolutional_networks_refuse_a_shape_that_is_no_image(kind, shape):
    make_encoder, make_decoder = CONVOLUTIONAL[kind]
    with pytest.raises(ValueError, match=r"`event_shape`.*\(height, width, channels\).*`dense_encoder`.*Received: "):
        make_encoder(shape)
    with pytest.raises(ValueError, match=r"`output_shape`.*\(height, width, channels\).*`dense_decoder`.*Received: "):
        make_decoder(LATENT_DIM, shape)


@pytest.mark.parametrize(
    ("num_blocks", "message"),
    [
        (0, r"^`num_blocks` must be an integer of at least 1\. Received: num_blocks=0$"),
        ((2, 0), r"^`num_blocks` must be a tuple of positive integers\. Received: num_blocks=\(2, 0\)$"),
        (
            (2,),
            r"^`num_blocks` must be one number, or one for each of `filters`, here 2\. Received: num_blocks=\(2,\)$",
        ),
    ],
)
def test_residual_networks_refuse_bad_numbers_of_blocks(num_blocks, message):
    with pytest.raises(ValueError, match=message):
        residual_encoder((8, 8, 1), filters=(4, 8), num_blocks=num_blocks)
    with pytest.raises(ValueError, match=message):
        residual_decoder(LATENT_DIM, (8, 8, 1), filters=(8, 4), num_blocks=num_blocks)


@pytest.mark.parametrize("widths", [(0,), (16, -1), (1.5,), 16, None])
def test_bad_hidden_widths_and_filters(widths):
    builders = {
        "hidden": [
            lambda: dense_encoder((8, 8, 1), hidden=widths),
            lambda: dense_decoder(LATENT_DIM, (8, 8, 1), hidden=widths),
            lambda: convolutional_encoder((8, 8, 1), hidden=widths),
            lambda: convolutional_decoder(LATENT_DIM, (8, 8, 1), hidden=widths),
            lambda: residual_encoder((8, 8, 1), hidden=widths),
            lambda: residual_decoder(LATENT_DIM, (8, 8, 1), hidden=widths),
        ],
        "filters": [
            lambda: convolutional_encoder((8, 8, 1), filters=widths),
            lambda: convolutional_decoder(LATENT_DIM, (8, 8, 1), filters=widths),
            lambda: residual_encoder((8, 8, 1), filters=widths),
            lambda: residual_decoder(LATENT_DIM, (8, 8, 1), filters=widths),
        ],
    }
    for argument, calls in builders.items():
        for call in calls:
            with pytest.raises(ValueError, match=rf"`{argument}` must be a tuple.* Received: {argument}="):
                call()


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_convolutional_networks_need_a_filter(kind):
    make_encoder, make_decoder = CONVOLUTIONAL[kind]
    with pytest.raises(ValueError, match=r"`filters`.*at least 1.*Received"):
        make_encoder((8, 8, 1), filters=())
    with pytest.raises(ValueError, match=r"`filters`.*at least 1.*Received"):
        make_decoder(LATENT_DIM, (8, 8, 1), filters=())


@pytest.mark.parametrize("latent_dim", [0, -1, 2.0, "2", None, (2,)])
@pytest.mark.parametrize("decoder", [dense_decoder, convolutional_decoder, residual_decoder])
def test_decoders_refuse_a_bad_latent_dim(decoder, latent_dim):
    with pytest.raises(ValueError, match=r"`latent_dim` must be an integer of at least 1\. Received: latent_dim="):
        decoder(latent_dim, (8, 8, 1))


def test_sizes_given_as_lists_and_numpy_integers():
    encoder = convolutional_encoder([8, np.int64(8), 1], filters=[np.int32(4)], hidden=[8])
    assert encoder.output_shape == (None, 8)
    assert keras.models.model_from_json(encoder.to_json()).output_shape == (None, 8)


def test_a_set_transformer_sees_which_elements_are_alike():
    """The features of a set of pairs differ from those of the same numbers in other pairs, beyond the mean's."""
    encoder = set_transformer((), width=8, num_heads=2, hidden=(8,))
    x = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]], np.float32)
    features = np.asarray(encoder(x))
    assert np.abs(features[0] - features[1]).max() > 1e-3


@pytest.mark.parametrize("num_steps", [None, 9])
def test_a_temporal_encoder_sees_the_order_of_steps(num_steps):
    encoder = temporal_encoder((2,), num_steps, hidden=(8,))
    x = batch_for(temporal_encoder((2,), 9), 3)
    features = np.asarray(encoder(x))
    assert features.shape == (3, 8)
    assert np.abs(features - np.asarray(encoder(x[:, ::-1]))).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: set_encoder((2, 3)), r"^`item_shape` must be \(\) for numbers or \(D,\) for vectors\. .*\(2, 3\)$"),
        (lambda: set_transformer((2, 3)), r"^`item_shape` must be .*Received: item_shape=\(2, 3\)$"),
        (lambda: temporal_encoder((2, 3)), r"^`step_shape` must be .*Received: step_shape=\(2, 3\)$"),
        (lambda: set_transformer((), width=10, num_heads=4), r"^`width` must be a multiple .*width=10, num_heads=4$"),
        (lambda: set_transformer((), num_blocks=0), r"^`num_blocks` must be .*Received: num_blocks=0$"),
        (lambda: temporal_encoder((), num_steps=0), r"^`num_steps` must be .*Received: num_steps=0$"),
        (lambda: temporal_encoder((), dilations=()), r"^`dilations` must be .*Received: dilations=\(\)$"),
    ],
)
def test_networks_of_sets_and_series_refuse_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
