"""The AutoregressiveVAE: exact log-probabilities, padding, what it generates, and what it refuses."""

import itertools

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfvae
from tests.helpers import texts
from tests.helpers.texts import BIGRAMS, LATENT_DIM, TEXTS, VOCABULARY
from tfvae.elbo import Sampling
from tfvae.likelihoods import Bernoulli, Categorical, Columns, Missing, Normal
from tfvae.models import steps
from tfvae.objectives import IWAE


@pytest.fixture(scope="module")
def bigrams():
    return texts.bigrams(length=6)


@pytest.fixture(scope="module")
def eager():
    """A model of texts that traces no graphs."""
    keras.utils.set_random_seed(0)
    model = texts.text_vae(length=5)
    model.compile("adam", run_eagerly=True)
    return model


def log_probs(text):
    """The exact log-probability of each symbol of a text and of its end."""
    codes = [3, *VOCABULARY.encode([text])[0, :, 0].astype(int)]
    return [np.log(BIGRAMS[before, code]) for before, code in itertools.pairwise(codes)]


def test_each_step_has_its_exact_log_probability_and_padding_has_none(bigrams):
    exact = np.zeros((len(TEXTS), 9))
    for row, text in zip(exact, TEXTS, strict=True):
        row[: len(text) + 1] = log_probs(text)
    scores = bigrams.score(VOCABULARY.encode(TEXTS, 9))
    np.testing.assert_allclose(scores["step_log_likelihood"], exact, atol=1e-6)
    np.testing.assert_allclose(scores["reconstruction_log_likelihood"], exact.sum(axis=1), rtol=1e-6)
    assert (scores["step_log_likelihood"][exact == 0] == 0).all()
    np.testing.assert_allclose(scores["elbo"], exact.sum(axis=1) - scores["kl"], rtol=1e-6)
    # z says nothing, so the mean of the importance weights is p(x); its error comes from q(z|x) alone.
    estimate = bigrams.log_likelihood(TEXTS, 2000, seed=0)
    np.testing.assert_allclose(estimate, exact.sum(axis=1), atol=0.1)


def test_the_length_of_the_padding_changes_nothing(eager):
    short, long = VOCABULARY.encode(TEXTS), VOCABULARY.encode(TEXTS, 17)
    epsilon = np.ones((len(TEXTS), LATENT_DIM))
    of_short, of_long = eager.score(short, epsilon), eager.score(long, epsilon)
    for name in ("elbo", "reconstruction_log_likelihood", "kl"):
        np.testing.assert_allclose(of_short[name], of_long[name], atol=1e-5)
    estimates = [eager.log_likelihood(codes, 5, seed=1) for codes in (short, long)]
    np.testing.assert_allclose(*estimates, atol=1e-5)


def test_draws_have_the_probabilities_of_the_decoder_to_the_power_of_1_by_the_temperature(bigrams):
    for temperature in (1.0, 0.5):
        powers = BIGRAMS ** (1 / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
        drawn = bigrams.generate(4000, temperature=temperature, length=2, seed=1)
        first = np.bincount([(["", "a", "b"].index(text[:1])) for text in drawn], minlength=3) / 4000
        np.testing.assert_allclose(first, expected[3], atol=4 * 0.5 / np.sqrt(4000))
        second = [text[1:2] for text in drawn if text[:1] == "a"]
        shares = np.array([second.count(symbol) for symbol in ("", "a", "b")]) / len(second)
        np.testing.assert_allclose(shares, expected[1], atol=4 * 0.5 / np.sqrt(len(second)))


def test_the_best_guess_follows_the_most_probable_code_and_ends(bigrams):
    # After nothing a, after a b, after b a, and so on to the longest text.
    assert bigrams.generate(2, temperature=0) == ["ababab"] * 2
    assert bigrams.decode(np.zeros((1, 2)), length=3) == ["aba"]
    with_end = texts.bigrams(length=6)
    table = np.log(BIGRAMS)
    table[2] = [0.0, -1.0, -1.0]
    (embedding,) = [layer for layer in with_end.decoder.layers if isinstance(layer, keras.layers.Embedding)]
    embedding.set_weights([table])
    assert with_end.decode(np.zeros((1, 2))) == ["ab"]
    x = VOCABULARY.encode(["a"])
    np.testing.assert_array_equal(with_end.reconstruct(x)[0, :, 0], [1, 2, 0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(with_end.predict(x, verbose=0), with_end.reconstruct(x))


def test_texts_are_taken_and_given_in_every_form(eager):
    codes = VOCABULARY.encode(TEXTS)
    expected = eager.encode(TEXTS)["loc"]
    for given in (
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, "S"),
        tf.constant(TEXTS),
        pd.Series(TEXTS),
        codes,
        tf.data.Dataset.from_tensors(codes),
    ):
        np.testing.assert_allclose(eager.encode(given)["loc"], expected, rtol=1e-6)
    assert eager.reconstruct(tf.constant(TEXTS)) == eager.reconstruct(TEXTS)
    drawn = [eager.reconstruct(TEXTS, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    for made in (drawn[0], eager.generate(3, seed=0), eager.decode(np.zeros((2, LATENT_DIM)))):
        assert all(isinstance(text, str) and set(text) <= {"a", "b"} for text in made)


def test_a_training_on_texts_is_saved_with_the_vocabulary_and_the_length(tmp_path):
    model = texts.text_vae(word_dropout=0.3, objective=IWAE(2))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(TEXTS, epochs=1, batch_size=4, verbose=0)
    assert np.isfinite(model.evaluate(TEXTS, verbose=0)).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.generate(5, seed=0) == model.generate(5, seed=0)
    assert (loaded.length, loaded.word_dropout) == (5, 0.3)
    assert loaded.vocabulary.get_config() == VOCABULARY.get_config()
    for weight, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
def test_what_holds_texts_may_be_the_validation_data_of_a_training_of_several_lengths():
    model = texts.text_vae()
    model.compile("adam")
    batches = [VOCABULARY.encode(TEXTS[:2]), VOCABULARY.encode(TEXTS[2:], 9)]
    spec = tf.TensorSpec([None, None, 1])
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    # Keras warns at the end of data whose number of batches it does not know.
    data = data.apply(tf.data.experimental.assert_cardinality(len(batches)))
    history = model.fit(data, validation_data=TEXTS, verbose=0).history
    assert np.isfinite(history["val_elbo"]).all()
    assert model.length == 5


def test_a_step_is_dropped_in_training_alone_at_the_rate(bigrams):
    model = texts.bigrams(word_dropout=0.4)
    x = tf.constant(VOCABULARY.encode(["ab"] * 3000))
    sampling = Sampling(1, tf.constant([0, 1]), training=True)
    shown, hidden = np.sum(log_probs("ab")), np.log(BIGRAMS[3, [1, 2, 0]]).sum()
    first = np.log(BIGRAMS[3, 1])
    trained = np.mean(model.elbo_terms(x, sampling).reconstruction_log_likelihood)
    assert trained == pytest.approx(first + 0.6 * (shown - first) + 0.4 * (hidden - first), abs=0.1)
    evaluated = model.elbo_terms(x, sampling._replace(training=False)).reconstruction_log_likelihood
    np.testing.assert_allclose(evaluated, shown, rtol=1e-5)
    # Another seed drops other steps, and the same seed the same ones.
    before = steps.previous(x[:9])
    draws = [np.isnan(steps.dropped(before, 0.4, tf.constant([0, seed]))) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def ar1(coefficient, **arguments):
    """A decoder with the mean coefficient * x_{t-1}, which is 0 where x_{t-1} is not shown."""
    z, before = keras.Input((LATENT_DIM,)), keras.Input((None, 2))
    shown = keras.ops.where(keras.ops.absolute(before) > -1, before, keras.ops.zeros_like(before))
    decoder = keras.Model([z, before], coefficient * shown + 0.0 * keras.ops.sum(z, axis=-1)[:, None, None])
    return tfvae.AutoregressiveVAE(texts.series_encoder(2), decoder, LATENT_DIM, length=4, **arguments)


def test_numbers_have_the_density_of_an_autoregression_and_are_drawn_from_it():
    model = ar1(0.5, likelihood=Normal(scale=2.0))
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    means = 0.5 * np.concatenate([np.zeros((3, 1, 2)), x[:, :-1]], axis=1)
    exact = (-0.5 * ((x - means) / 2) ** 2 - np.log(2 * np.sqrt(2 * np.pi))).sum(axis=-1)
    np.testing.assert_allclose(model.score(x)["step_log_likelihood"], exact, rtol=1e-5)
    drawn = model.generate(3000, seed=0)
    # The variances of an AR(1) process that starts at 0, of 3000 draws of two channels.
    variances = 4 * np.cumsum(0.25 ** np.arange(4))
    np.testing.assert_allclose(drawn.var(axis=(0, 2)), variances, rtol=4 * np.sqrt(2 / 6000))
    np.testing.assert_array_equal(model.decode(np.zeros((1, 2)), length=2), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"`temperature` must be 0 or 1 .*Received: temperature=0\.5 for a Normal"):
        model.generate(1, temperature=0.5)


def test_columns_of_numbers_and_codes_have_a_best_guess_of_each():
    likelihood = Missing(Columns([(Normal(), 1), (Categorical(3), 1), (Bernoulli(), 1)]))
    likelihood.build((None, 5))
    parameters = tf.constant([[0.7, 0.0, 2.0, 1.0, -50.0]])
    np.testing.assert_allclose(likelihood.best_guess(parameters), [[0.7, 1.0, 0.0]], atol=1e-6)
    assert not likelihood.takes_temperature
    assert Missing(Bernoulli()).takes_temperature


class Gate(keras.layers.Layer):
    """Multiplies by a weight that starts at 0, as in ReZero."""

    def build(self, input_shape):
        self.gate = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        return self.gate * x


def test_a_decoder_that_sees_what_it_is_to_predict_is_refused_before_the_training():
    z, before = keras.Input((LATENT_DIM,)), keras.Input((None, 1))
    embedded = keras.layers.Embedding(4, 8)(texts.indices(before, 3)) + keras.layers.Dense(8)(z)[:, None]
    for layer in (
        keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True)),
        keras.layers.Conv1D(4, 3, padding="same"),
        lambda steps: steps + Gate()(keras.layers.Conv1D(8, 3, padding="same")(steps)),
    ):
        decoder = keras.Model([z, before], keras.layers.Dense(3)(layer(embedded)))
        model = tfvae.AutoregressiveVAE(texts.encoder(3), decoder, LATENT_DIM, vocabulary=VOCABULARY)
        model.compile("adam")
        with pytest.raises(ValueError, match=r"(?s)^`decoder` must .*Received: a decoder whose output at step \d+ "):
            model.fit(TEXTS, verbose=0)


def made(**arguments):
    arguments = {"encoder": texts.encoder(3), "decoder": texts.decoder(3), "latent_dim": 2, **arguments}
    return tfvae.AutoregressiveVAE(**{"vocabulary": VOCABULARY, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(word_dropout=1.0), "`word_dropout` must be below 1"),
        (lambda: made(length=0), "`length`"),
        (lambda: made(vocabulary="ab"), "`vocabulary` must be a tfvae.data.Vocabulary"),
        (lambda: made(likelihood=Missing(Categorical(3))), r"`likelihood` must be Missing\(\.\.\., fill=False\)"),
        (lambda: made(decoder=texts.decoder(5), likelihood=Categorical(5)), "`likelihood` must be of the codes"),
        (lambda: made(decoder=texts.decoder(5)), "`decoder` must give one tensor"),
        (lambda: made(decoder=texts.encoder(3)), "`decoder` must take the list of z"),
        (lambda: made(encoder=texts.decoder(3)).build((None, None, 1)), "`encoder` must take x"),
        (lambda: made(latent_dim=3), r"`decoder` must take .*\[None, 3\]"),
        (lambda: made(prior=tfvae.priors.VampPrior(num_components=3)), "`prior` must not be built from"),
        (lambda: made().generate(1), "`length` must be given"),
        (lambda: made().generate(0, length=2), "`n`"),
        (lambda: made().decode(np.zeros((1, 3)), length=2), "`z`"),
        (lambda: made().decode(np.zeros((1, 2)), length=2, temperature=-1), "`temperature`"),
        (lambda: made().generate(2, length=2, temperature=1e-50), "`temperature` must be 0, .*1e-50"),
        (lambda: made().score("ab"), "a list of str.*Received: 'ab'"),
        (lambda: made().score(tf.data.Dataset.from_tensors(["ab"])), "a list of str"),
        (lambda: made().encode(tf.data.Dataset.from_tensors(["ab"])), "a list of str"),
        (lambda: made().score(["abc"]), "'c' at index 0"),
        (lambda: made().score(np.full((1, 2, 1), 3.0)), "codes 0 to 2"),
        (lambda: made().score(np.zeros((1, 2))), r"`x` must have the shape \[N, T, 1\]"),
        (lambda: made().calibrate(TEXTS, threshold=1.0), "does not detect"),
        (lambda: tfvae.impute(made(), VOCABULARY.encode(TEXTS)), "`model` must be .*AutoregressiveVAE"),
        (lambda: tfvae.forecast(made(), VOCABULARY.encode(TEXTS), 2), "`model` must be .*AutoregressiveVAE"),
        (lambda: made().detect(TEXTS), "^AutoregressiveVAE does not detect"),
        (lambda: tfvae.AutoregressiveVAE.of_table(None), "sequences"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises((ValueError, NotImplementedError, TypeError), match=f"(?s){message}"):
        call()


def test_one_step_at_a_time_gives_what_all_steps_at_once_give(eager):
    assert eager._one_step is not None
    z = np.random.default_rng(0).normal(size=(4, LATENT_DIM)).astype("float32")
    made = [
        steps.generated(eager.decoder, one_step, tf.constant(z), 6, 1, eager._greedy, None)
        for one_step in (eager._one_step, None)
    ]
    np.testing.assert_array_equal(*made)
    assert len(np.unique(made[0])) > 1


def test_a_decoder_without_states_generates():
    z, before = keras.Input((LATENT_DIM,)), keras.Input((None, 1))
    of_z = keras.layers.Reshape((1, 4))(keras.layers.Dense(4)(z))
    both = keras.layers.Add()([keras.layers.Dense(4)(tfvae.networks.MissingMask()(before)), of_z])
    decoder = keras.Model([z, before], keras.layers.Dense(1)(both))
    found = steps.one_step_of(decoder)
    point = tf.ones([2, LATENT_DIM])
    made = [
        steps.generated(decoder, each, point, 3, 1, lambda parameters, t: parameters, None) for each in (found, None)
    ]
    assert found is not None
    np.testing.assert_allclose(*made, atol=1e-5)
