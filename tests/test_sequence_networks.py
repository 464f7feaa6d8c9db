"""The networks of sequences: gaps, padding, order of time, codes, files, precision and XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfvae import networks

NUM_STEPS, CHANNELS, LATENT_DIM, NUM_CODES = 9, 3, 2, 5
SMALL = {
    "recurrent": {"units": (8, 4)},
    "temporal": {"filters": 8, "dilations": (1, 2)},
    "transformer": {"width": 8, "num_heads": 2, "num_blocks": 1},
}


def encoder(kind, step_shape=(CHANNELS,), num_steps=None, **arguments):
    keras.utils.set_random_seed(0)
    make = getattr(networks, f"{kind}_encoder")
    return make(step_shape, num_steps, hidden=(8,), **{**SMALL[kind], **arguments})


def decoder(kind, num_steps=None, parameter_shape=(2 * CHANNELS,), **arguments):
    keras.utils.set_random_seed(0)
    make = getattr(networks, f"{kind}_decoder")
    return make(LATENT_DIM, num_steps, parameter_shape, hidden=(8,), **{**SMALL[kind], **arguments})


def series(step_shape=(CHANNELS,), num_classes=None):
    """Five sequences: whole, with gaps in one channel, with a gap in all, of 6 steps, and with nothing observed."""
    rng = np.random.default_rng(0)
    shape = (5, NUM_STEPS, *step_shape)
    x = rng.normal(size=shape) if num_classes is None else rng.integers(num_classes, size=shape)
    x = x.astype("float32")
    x[1, 3] = np.nan if step_shape in ((), (1,)) else [np.nan, *x[1, 3, 1:]]
    x[2, 2:4] = x[3, 6:] = x[4] = np.nan
    return x


def padded(x, steps=4):
    return np.concatenate([x, np.full((len(x), steps, *x.shape[2:]), np.nan, x.dtype)], axis=1)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def half_precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param.removeprefix("mixed_")
    keras.config.set_dtype_policy(before)


# The shape of a step and the number of codes.
INPUTS = [((CHANNELS,), None), ((), None), ((1,), NUM_CODES), ((2,), NUM_CODES)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", SMALL)
def test_features_of_a_sequence_do_not_depend_on_its_padding(kind, causal):
    for step_shape, num_classes in INPUTS:
        network = encoder(kind, step_shape, causal=causal, num_classes=num_classes)
        x = series(step_shape, num_classes)
        features = network(x).numpy()
        assert features.shape == (5, 8)
        assert np.isfinite(features).all()
        np.testing.assert_allclose(network(padded(x)), features, atol=1e-5)
        # Time goes on in a gap, which is therefore not the same as steps that are not there.
        without_gap = np.delete(x[2:3], [2, 3], axis=1)
        assert np.abs(network(without_gap).numpy() - features[2]).max() > 1e-4


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", SMALL)
def test_features_of_steps_do_not_depend_on_the_padding(kind, causal):
    network = encoder(kind, causal=causal, per_step=True)
    x = series()
    features = network(x).numpy()
    assert features.shape == (5, NUM_STEPS, 8)
    assert np.isfinite(features).all()
    longer = network(padded(x)).numpy()
    for row, length in enumerate([9, 9, 9, 6, 0]):
        np.testing.assert_allclose(longer[row, :length], features[row, :length], atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_a_causal_network_sees_no_later_step_and_another_does(kind):
    x = series()[:1]
    later = x.copy()
    later[:, 5:] += 1
    for causal in (True, False):
        network = encoder(kind, causal=causal, per_step=True)
        difference = np.abs(network(later).numpy() - network(x).numpy()).max(axis=(0, 2))
        assert (difference[:5].max() < 1e-6) == causal
        assert difference[5] > 1e-4


@pytest.mark.parametrize("kind", SMALL)
def test_a_missing_value_is_not_a_zero(kind):
    network = encoder(kind)
    x = series()
    assert np.abs(network(x).numpy() - network(np.nan_to_num(x)).numpy())[1:].max(axis=1).min() > 1e-4


@pytest.mark.parametrize("kind", SMALL)
def test_an_autoregressive_decoder_sees_z_and_the_steps_before(kind):
    network = decoder(kind, step_shape=(CHANNELS,))
    rng = np.random.default_rng(0)
    z, previous = rng.normal(size=(4, LATENT_DIM)).astype("float32"), series()[:4]
    parameters = network([z, previous]).numpy()
    assert parameters.shape == (4, NUM_STEPS, 2 * CHANNELS)
    assert np.isfinite(parameters).all()
    changed = previous.copy()
    changed[:, 5] = np.nan
    difference = np.abs(network([z, changed]).numpy() - parameters).max(axis=2)
    assert difference[:, :5].max() < 1e-6
    assert difference[:3, 5].min() > 1e-4
    assert np.abs(network([z + 1, previous]).numpy() - parameters).max(axis=(0, 2)).min() > 1e-3
    np.testing.assert_allclose(network([z, padded(previous)])[:, :NUM_STEPS], parameters, atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_a_decoder_makes_different_steps_of_z(kind):
    for num_steps in (1, NUM_STEPS):
        network = decoder(kind, num_steps, (2, CHANNELS))
        parameters = network(np.ones((3, LATENT_DIM), "float32")).numpy()
        assert parameters.shape == (3, num_steps, 2, CHANNELS)
    assert parameters.std(axis=1).min() > 1e-3


@pytest.mark.parametrize("kind", SMALL)
def test_networks_that_take_a_condition(kind):
    rng = np.random.default_rng(0)
    condition, x = rng.normal(size=(5, 4)).astype("float32"), series()
    for network, first in (
        (encoder(kind, condition_dim=4), x),
        (decoder(kind, NUM_STEPS, condition_dim=4), np.ones((5, LATENT_DIM), "float32")),
    ):
        outputs = network([first, condition]).numpy()
        assert outputs.shape == (5, *network.output_shape[1:])
        assert np.abs(network([first, condition + 1]).numpy() - outputs).max() > 1e-3


CASES = {
    **{f"{kind} encoder": lambda kind=kind: encoder(kind, num_steps=NUM_STEPS) for kind in SMALL},
    **{f"{kind} encoder not causal": lambda kind=kind: encoder(kind, causal=False) for kind in SMALL},
    **{f"{kind} encoder of steps": lambda kind=kind: encoder(kind, per_step=True, causal=True) for kind in SMALL},
    **{f"{kind} encoder of codes": lambda kind=kind: encoder(kind, (1,), num_classes=NUM_CODES) for kind in SMALL},
    **{f"{kind} decoder": lambda kind=kind: decoder(kind, NUM_STEPS) for kind in SMALL},
    **{f"{kind} autoregressive": lambda kind=kind: decoder(kind, step_shape=(CHANNELS,)) for kind in SMALL},
    **{
        f"{kind} autoregressive of codes": lambda kind=kind: decoder(
            kind, None, (NUM_CODES,), step_shape=(1,), num_classes=NUM_CODES
        )
        for kind in SMALL
    },
    "LSTM encoder": lambda: encoder("recurrent", layer=keras.layers.LSTM),
    "LSTM decoder": lambda: decoder("recurrent", step_shape=(CHANNELS,), layer=keras.layers.LSTM),
}


# One of each kind, with codes in one of them; the others are among the slow tests.
FIRST = ("recurrent autoregressive of codes", "temporal encoder", "transformer decoder")
SLOW_CASES = [pytest.param(case, marks=() if case in FIRST else pytest.mark.slow) for case in CASES]


def inputs_of(network):
    num_classes = NUM_CODES if any(isinstance(layer, networks.Codes) for layer in network.layers) else None
    z = np.ones((5, LATENT_DIM), "float32")
    made = [z if tensor.name == "z" else series(tuple(tensor.shape[2:]), num_classes) for tensor in network.inputs]
    return made if len(made) > 1 else made[0]


@pytest.mark.parametrize("case", SLOW_CASES)
def test_keras_file_in_safe_mode(case, tmp_path):
    network = CASES[case]()
    x = inputs_of(network)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(x), network(x))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gradients_by_xla(case):
    network = CASES[case]()
    x = inputs_of(network)
    expected = network(x).numpy()

    @tf.function(jit_compile=True)
    def loss_and_gradients():
        with tf.GradientTape() as tape:
            outputs = network(x)
            loss = tf.reduce_sum(tf.square(outputs))
        return outputs, tape.gradient(loss, network.trainable_weights)

    outputs, gradients = loss_and_gradients()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for weight, gradient in zip(network.trainable_weights, gradients, strict=True):
        gradient = np.asarray(tf.convert_to_tensor(gradient))
        assert np.isfinite(gradient).all(), weight.path
        assert "embedding" in weight.path or "key/bias" in weight.path or np.abs(gradient).max() > 0, weight.path


@pytest.mark.parametrize("case", SLOW_CASES)
def test_half_precision_is_close_to_float32(case, half_precision):
    network = CASES[case]()
    keras.config.set_dtype_policy("float32")
    exact = CASES[case]()
    x = inputs_of(network)
    outputs, expected = network(x), exact(x).numpy()
    assert outputs.dtype == half_precision
    error = np.abs(tf.cast(outputs, "float32").numpy() - expected).max()
    assert error < (0.05 if half_precision == "bfloat16" else 0.01) * np.abs(expected).max()


def test_half_precision_tells_codes_and_steps_above_256_apart(half_precision):
    codes = np.arange(300, dtype="float32")[None]
    np.testing.assert_array_equal(networks.Codes(300)(codes), codes)
    x = np.where(codes < 299, codes, np.nan)[..., None]
    assert tf.reduce_sum(tf.cast(networks.StepMask()(x), "float32")) == 299


def test_sums_of_long_sequences_do_not_overflow_in_half_precision(half_precision):
    steps, mask = np.full((1, 3000, 1), 50.0, "float32"), np.ones((1, 3000, 1), "float32")
    summary = networks.SeriesSummary()([steps, mask])
    np.testing.assert_allclose(tf.cast(summary, "float32")[0], [50, 50, np.log(3000)], rtol=5e-3)


def test_rotary_attention_depends_on_distances_only():
    layer = networks.RotaryAttention(2, 4)
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype("float32")
    layer.build(x.shape, x.shape)
    far = np.arange(10)[None, None, :] >= 4
    outputs = layer(x, x).numpy()
    later = layer(np.pad(x, ((0, 0), (4, 0), (0, 0))), np.pad(x, ((0, 0), (4, 0), (0, 0))), attention_mask=far).numpy()
    np.testing.assert_allclose(later[:, 4:], outputs, atol=1e-5)
    assert np.abs(layer(x[:, ::-1], x[:, ::-1]).numpy()[:, ::-1] - outputs).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder("recurrent", (2, 3)), r"^`step_shape` must be .*Received: step_shape=\(2, 3\)$"),
        (lambda: encoder("temporal", num_steps=0), r"^`num_steps` must be .*Received: num_steps=0$"),
        (lambda: encoder("recurrent", units=()), r"^`units` must be .*Received: units=\(\)$"),
        (lambda: encoder("recurrent", units=64), r"^`units` must be .*Received: units=64$"),
        (lambda: encoder("temporal", dilations=()), r"^`dilations` must be .*Received: dilations=\(\)$"),
        (lambda: encoder("temporal", kernel_size=0), r"^`kernel_size` must be .*Received: kernel_size=0$"),
        (lambda: encoder("transformer", width=6, num_heads=2), r"^`width` must be an even multiple .*num_heads=2$"),
        (lambda: encoder("transformer", num_blocks=0), r"^`num_blocks` must be .*Received: num_blocks=0$"),
        (lambda: encoder("recurrent", per_step=1), r"^`per_step` must be .*Received: per_step=1$"),
        (lambda: encoder("recurrent", causal=None), r"^`causal` must be .*Received: causal=None$"),
        (lambda: encoder("temporal", num_classes=0), r"^`num_classes` must be .*Received: num_classes=0$"),
        (lambda: decoder("recurrent"), r"^`num_steps` must be .* `step_shape`, .*Received: num_steps=None$"),
        (lambda: encoder("temporal", per_step=True, condition_dim=2), r"^`condition_dim` is for .*per_step=True$"),
        (lambda: decoder("temporal", step_shape=(), condition_dim=2), r"^`condition_dim` is for .*step_shape=\(\)$"),
        (lambda: decoder("temporal", 4, num_classes=3), r"^`num_classes` is for .*num_classes=3, step_shape=None$"),
        (lambda: decoder("temporal", 4, 6), r"^`parameter_shape` must be .*Received: parameter_shape=6$"),
        (lambda: decoder("transformer", "4"), r"^`num_steps` must be .*Received: num_steps='4'$"),
        (lambda: networks.recurrent_decoder(0, 4, (2,)), r"^`latent_dim` must be .*Received: latent_dim=0$"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
