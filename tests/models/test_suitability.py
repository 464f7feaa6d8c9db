"""Decoders and data that have the right shape, but are not what the likelihood takes them for."""

import re
import warnings

import keras
import numpy as np
import pytest

import tfvae
from tfvae import likelihoods as lk
from tfvae import networks

RNG = np.random.default_rng(0)
BITS = (RNG.uniform(size=(40, 4)) < 0.5).astype("float32")
UNIT = RNG.uniform(size=(40, 4)).astype("float32")
REAL = RNG.normal(size=(40, 4)).astype("float32")
CODES = RNG.integers(3, size=(40, 4))
COUNTS = RNG.poisson(3.0, size=(40, 4))
PIXELS = np.round(255 * UNIT) / np.float32(255)
WITH_GAPS = np.where(UNIT < 0.2, np.nan, BITS)
HALVES = np.hstack([UNIT[:, :2], BITS[:, 2:]])


def halves():
    return lk.Columns({"share": (lk.Normal(), 2), "is_new": (lk.Bernoulli(), 2)})


class Own(keras.Model):
    """A subclassed decoder, whose layers do not say what its outputs are."""

    def __init__(self, size, activation, **arguments):
        super().__init__()
        self.hidden, self.outer = keras.layers.Dense(8, "relu"), keras.layers.Dense(size, activation, **arguments)

    def call(self, z):
        return self.outer(self.hidden(z))


def sequential(size, *last):
    """A Sequential decoder that ends in the given layers, or in a dense layer of a given activation."""
    layers = [keras.layers.Dense(size, each) if isinstance(each, str | None) else each for each in last]
    return keras.Sequential([keras.Input((2,)), *layers])


def heads(*activations):
    """A functional decoder with one head of two columns for each activation."""
    z = keras.Input((2,))
    return keras.Model(z, keras.layers.Concatenate()([keras.layers.Dense(2, each)(z) for each in activations]))


def nested(size, activation):
    z = keras.Input((2,))
    return keras.Model(z, keras.layers.Reshape((size,))(sequential(size, activation)(z)))


def check(decoder, likelihood, x):
    """What `fit` does before its first step."""
    vae = tfvae.VAE(networks.dense_encoder((4,), (8,)), decoder, 2, likelihood=likelihood)
    vae.check_data(x)
    vae.check_training(x)


ACTIVATIONS_OF_LOGITS = ("sigmoid", "softmax", "relu", "tanh", "softplus", "hard_sigmoid", "silu", "exponential")
BOUNDED_ABOVE = ("log_sigmoid", "log_softmax")


@pytest.mark.parametrize(
    ("decoder", "likelihood", "x", "ends_in"),
    [
        *((sequential(4, name), lk.Bernoulli(), BITS, name) for name in (*ACTIVATIONS_OF_LOGITS, *BOUNDED_ABOVE)),
        (sequential(4, "log_sigmoid"), lk.Poisson(), COUNTS, "log_sigmoid"),
        (sequential(4, "sigmoid", keras.layers.Reshape((4,))), lk.Bernoulli(), BITS, "sigmoid"),
        (sequential(4, None, keras.layers.Activation("sigmoid")), lk.Bernoulli(), BITS, "sigmoid"),
        (sequential(4, None, keras.layers.ReLU()), lk.Bernoulli(), BITS, "relu"),
        (sequential(4, keras.layers.Dense(4, keras.layers.Activation("tanh"))), lk.Bernoulli(), BITS, "tanh"),
        (sequential(4, keras.layers.Dense(4, keras.layers.ReLU(1.0))), lk.Bernoulli(), BITS, "relu"),
        (nested(4, "sigmoid"), lk.Bernoulli(), BITS, "sigmoid"),
        (sequential(4, "sigmoid"), lk.Missing(lk.Bernoulli()), WITH_GAPS, "sigmoid"),
        (sequential(4, "sigmoid"), lk.ContinuousBernoulli(), UNIT, "sigmoid"),
        (sequential(12, None, keras.layers.Reshape((4, 3)), keras.layers.Softmax(), keras.layers.Flatten()),
         lk.Categorical(3), CODES, "softmax"),
        (sequential(4, "softplus"), lk.Poisson(), COUNTS, "softplus"),
        (sequential(4, "relu"), lk.NegativeBinomial(), COUNTS, "relu"),
        (sequential(8, "sigmoid"), lk.ZeroInflatedNegativeBinomial(), COUNTS, "sigmoid"),
        (sequential(8, "sigmoid"), lk.DiscretizedLogistic(), PIXELS, "sigmoid"),
        (sequential(8, "sigmoid"), lk.Normal("predicted"), UNIT, "sigmoid"),
        (sequential(4, "sigmoid"), halves(), HALVES, "sigmoid"),
    ],
)  # fmt: skip
def test_a_decoder_that_ends_in_an_activation_is_refused_where_any_real_number_is_read(decoder, likelihood, x, ends_in):
    message = rf"`decoder` must give .*: let its last layer have no activation, .* a decoder that ends in {ends_in}$"
    with pytest.raises(ValueError, match=message):
        check(decoder, likelihood, x)


@pytest.mark.parametrize(
    ("decoder", "likelihood", "x", "message"),
    [
        (Own(4, "sigmoid"), lk.Bernoulli(), BITS, "`decoder` must give logits .* whose first outputs are all from "),
        (Own(4, "hard_sigmoid"), lk.Bernoulli(), BITS, "whose first outputs are all from 0 to 1$"),
        (Own(4, "relu"), lk.Missing(lk.Bernoulli()), WITH_GAPS, "none of whose first outputs is negative"),
        (Own(4, "tanh"), lk.Bernoulli(), BITS, "whose first outputs are all from -1 to 1"),
        (Own(4, "log_sigmoid"), lk.Bernoulli(), BITS, "none of whose first outputs is positive"),
        (Own(4, "exponential"), lk.Poisson(), COUNTS, "none of whose first outputs is negative"),
        (Own(4, "softplus"), lk.Bernoulli(), BITS, "none of whose first outputs is negative"),
        (heads("sigmoid", "sigmoid"), halves(), HALVES, r'^Columns 2 to 3 of x \("is_new"\): `decoder` must'),
        (sequential(4, "sigmoid"), lk.Normal(), REAL, "should give locations wherever x lies .* x from -2"),
        (sequential(4, "tanh"), lk.Laplace(), 3 * REAL, "should give locations wherever x lies"),
        (sequential(4, None), lk.Normal(), 300 * UNIT, r"far larger than the noise.* Normal\(scale=\"learned\"\)"),
        (sequential(4, None), lk.Normal(), 300 + REAL, "Standardise x"),
        (sequential(4, None), lk.Normal("learned"), REAL * [1, 1, 1, 5e4], "Standardise x.* as tfvae.data.load does"),
        (sequential(4, None), lk.Normal("optimal"), 5e4 * REAL, "training is slow. Standardise x"),
        (sequential(4, None), lk.StudentT(3.0, 1.0), UNIT / 100, "the noise hides how x varies"),
        (sequential(4, None), lk.Missing(lk.Laplace()), np.where(BITS, 300 * UNIT, np.nan), "far larger"),
        (sequential(4, None), lk.Columns([(lk.Laplace(), 3), (lk.Normal(), 1)]), REAL * [1, 1, 1, 99], "^Column 3 of"),
    ],
)  # fmt: skip
def test_what_is_probably_wrong_causes_a_warning_that_says_what_to_do(decoder, likelihood, x, message):
    with pytest.warns(UserWarning, match=message) as found:
        check(decoder, likelihood, x)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("decoder", "likelihood", "x"),
    [
        (sequential(4, "sigmoid"), lk.Normal(), UNIT),
        (sequential(4, "sigmoid"), lk.Normal(0.01), UNIT),
        (sequential(4, "tanh"), lk.Normal("learned"), 2 * UNIT - 1),
        (sequential(4, "relu"), lk.Laplace(), REAL**2),
        (sequential(4, "leaky_relu"), lk.Bernoulli(), BITS),
        (sequential(4, None, keras.layers.Rescaling(12.0, -6.0)), lk.Bernoulli(), BITS),
        (sequential(4, "sigmoid", keras.layers.Dense(4)), lk.Bernoulli(), BITS),
        (sequential(4, keras.layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones")), lk.Poisson(), BITS),
        (Own(4, None), lk.Bernoulli(), BITS),
        (Own(4, "sigmoid"), lk.Normal(), UNIT),
        (heads("sigmoid", None), halves(), HALVES),
        (Own(4, None, bias_initializer=keras.initializers.Constant(4.0)), lk.Poisson(), COUNTS),
        (Own(4, None, bias_initializer=keras.initializers.Constant(-4.0)), lk.Bernoulli(), BITS),
        (Own(4, None, kernel_initializer="zeros", bias_initializer="ones"), lk.Bernoulli(), BITS),
        (Own(12, "log_softmax"), lk.Categorical(3), CODES),
        (sequential(12, "log_softmax"), lk.Categorical(3), CODES),
        (sequential(8, None), lk.DiscretizedLogistic(), PIXELS),
        (sequential(4, None), lk.Normal(0.05), REAL),
        (sequential(4, None), lk.Normal("learned"), 300 * UNIT),
        (sequential(4, None), lk.Normal(100.0), 300 * UNIT),
    ],
)  # fmt: skip
def test_models_that_are_right_are_taken_in_silence(decoder, likelihood, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(decoder, likelihood, x)


def test_fit_and_train_on_batch_check_the_decoder_and_a_file_with_such_a_decoder_still_loads(tmp_path):
    vae = tfvae.VAE(networks.dense_encoder((4,), ()), sequential(4, "sigmoid"), 2, likelihood=lk.Bernoulli())
    vae.save(tmp_path / "model.keras")
    vae.compile()
    for train in (vae.fit, vae.train_on_batch):
        with pytest.raises(ValueError, match="ends in sigmoid"):
            train(BITS)
    assert keras.saving.load_model(tmp_path / "model.keras").reconstruct(BITS).shape == BITS.shape


@pytest.mark.parametrize("kind", ["hierarchical", "vq"])
def test_the_decoders_of_other_models_are_checked_by_the_name_of_their_argument(kind):
    if kind == "vq":
        encoder = networks.dense_decoder(4, (2, 3), ())
        decoder = keras.Sequential([keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "sigmoid")])
        name, model = "decoder", tfvae.VQVAE(encoder, decoder, 5, likelihood=lk.Bernoulli())
    else:
        encoders = [networks.dense_encoder((4,), (3,)), networks.dense_encoder((2,), (3,))]
        decoders = [sequential(4, "sigmoid"), networks.dense_encoder((2,), (3,))]
        name, model = r"decoders\[0\]", tfvae.HierarchicalVAE(encoders, decoders, (2, 2), likelihood=lk.Bernoulli())
    with pytest.raises(ValueError, match=rf"`{name}` must give logits"):
        model.check_training(BITS)


@pytest.mark.parametrize("rows", [40, 6])
def test_one_hot_vectors_in_the_place_of_codes_are_refused(rows):
    one_hot = np.eye(3)[RNG.permutation(np.arange(rows) % 3)]
    with pytest.raises(ValueError, match=r"must hold codes .* take x.argmax\(axis=-1\)"):
        lk.Categorical(3).check_training(one_hot)


@pytest.mark.parametrize(("shape", "advice"), [((6, 3), "argmax(axis=-1)."), ((3,), "argmax(axis=-1)[:, None].")])
def test_a_decoder_made_for_one_hot_vectors_is_told_of_codes(shape, advice):
    with pytest.raises(ValueError, match=r"if x holds one-hot vectors, take x." + re.escape(advice)):
        tfvae.VAE(networks.dense_encoder(shape), networks.dense_decoder(2, shape), 2, likelihood=lk.Categorical(3))


def test_one_hot_vectors_of_two_classes_cause_a_warning_and_codes_do_not():
    pairs = np.eye(2)[np.arange(40) % 2]
    assert "not one-hot vectors" in lk.Categorical(2).check_training(pairs)
    likelihood = lk.Categorical(3)
    # One-hot by chance: too few rows, a class that is missing, or one row that is not.
    for codes in (np.eye(3), np.eye(3)[np.zeros(40, int)], np.vstack([np.eye(3)[np.arange(40) % 3], [[2, 0, 1]]])):
        assert likelihood.check_training(codes) is None


def test_an_encoder_of_two_inputs_is_told_that_x_is_one_array():
    inputs = [keras.Input((2,)), keras.Input((3,))]
    encoder = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    with pytest.raises(ValueError, match=r"x as one array.*Columns. Received: .*\[\[None, 2\], \[None, 3\]\]$"):
        tfvae.VAE(encoder, networks.dense_decoder(2, (5,)), 2)


@pytest.mark.parametrize("outputs", [list, lambda given: {str(place): each for place, each in enumerate(given)}])
def test_an_encoder_with_heads_is_told_that_the_posterior_makes_them(outputs):
    x = keras.Input((4,))
    encoder = keras.Model(x, outputs([keras.layers.Dense(2)(x) for _ in range(3)]))
    with pytest.raises(ValueError, match=r"the posterior makes layers for its parameters.* of 3 outputs$"):
        tfvae.VAE(encoder, networks.dense_decoder(2, (4,)), 2)


def test_data_without_any_number_are_refused_before_a_training_and_a_column_without_one_is_no_warning():
    with pytest.raises(
        ValueError, match=r"`x` must hold at least one number to learn from\. Received: nothing but NaN"
    ):
        check(sequential(4, None), lk.Missing(lk.Normal("learned")), np.full([8, 4], np.nan))
    likelihood = lk.Missing(lk.Columns([(lk.Normal(), 3), (lk.Normal("learned"), 1)]))
    with warnings.catch_warnings(action="error"):
        check(sequential(4, None), likelihood, REAL * [1, 1, 1, np.nan])
