"""Latent variables at each step of a sequence: padding and gaps, objectives, memories, decisions and errors."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfvae
from tfvae import likelihoods, objectives, posteriors
from tfvae.elbo import Sampling
from tfvae.likelihoods import Missing, Normal
from tfvae.models import forecasting, particles
from tfvae.models.state_space import noise

C, L, T = 3, 2, 6
X = np.random.default_rng(0).normal(size=(5, T, C)).astype(np.float32)
SEED = tf.constant([0, 1])


def network(inputs, units):
    joined = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    hidden = keras.layers.Dense(4, activation="tanh")(joined)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], keras.layers.Dense(units)(hidden))


def causal_encoder(outputs=4):
    x = keras.Input((None, C))
    return keras.Model(x, keras.layers.Conv1D(outputs, 2, padding="causal")(tfvae.networks.MissingMask()(x)))


def build(combiner=True, memory=False, likelihood=None, **arguments):
    keras.utils.set_random_seed(0)
    likelihood = Missing(Normal("learned"), fill=False) if likelihood is None else likelihood
    z, features, remembered = keras.Input((L,)), keras.Input((4,)), [keras.Input((3,))] if memory else []
    arguments.setdefault("encoder", causal_encoder())
    arguments.setdefault("decoder", network([z, *remembered], likelihood.parameter_shape((C,))[0]))
    return tfvae.SequentialVAE(
        latent_dim=L,
        transition=network([z, *remembered], 4),
        combiner=network([z, features, *remembered], 4) if combiner else None,
        memory=keras.layers.GRUCell(3) if memory else None,
        likelihood=likelihood,
        **arguments,
    )


OTHERS = [pytest.param(each, marks=pytest.mark.slow) for each in ((True, False), (False, False))]


@pytest.fixture(scope="module", params=[(True, True), *OTHERS], ids=str)
def model(request):
    return build(*request.param)


def padded(x, number):
    return np.concatenate([x, np.full((len(x), number, *x.shape[2:]), np.nan, np.float32)], axis=1)


def test_padding_adds_nothing(model):
    x = X.copy()
    x[1, 3:] = np.nan
    scores = model.score(x)
    longer = model.score(padded(x, 4))
    for name in ("elbo", "reconstruction_log_likelihood", "kl"):
        np.testing.assert_allclose(longer[name], scores[name], atol=1e-5)
        steps = longer[f"step_{name.removeprefix('reconstruction_')}"]
        np.testing.assert_allclose(steps.sum(axis=1), scores[name], atol=1e-5)
        assert (steps[:, T:] == 0).all()
        assert (steps[1, 3:] == 0).all()
    terms = model.elbo_terms(tf.constant(padded(x[1:2], 4)), Sampling(2, SEED))
    alone = model.elbo_terms(tf.constant(x[1:2, :3]), Sampling(2, SEED))
    # The same noise, of which a longer sequence takes more.
    assert terms.log_weights.shape == alone.log_weights.shape == (2, 1)
    np.testing.assert_allclose(
        model.log_likelihood(padded(x, 4)[1:2, :T], 8, seed=0), model.log_likelihood(x[1:2], 8, seed=0)
    )


def test_a_gap_adds_only_its_transition(model):
    x = X.copy()
    x[:, 2:4] = np.nan
    score = model.score(x)
    assert (score["step_log_likelihood"][:, 2:4] == 0).all()
    assert (score["step_kl"][:, 2:4] > 0).all()
    assert np.isfinite(score["elbo"]).all()


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        pytest.param(likelihoods.Poisson(), np.arange(5 * T * C).reshape(5, T, C) % 4, marks=pytest.mark.slow),
        pytest.param(likelihoods.Bernoulli(), np.arange(5 * T * C).reshape(5, T, C) % 2, marks=pytest.mark.slow),
        pytest.param(likelihoods.Categorical(4), np.arange(5 * T * C).reshape(5, T, C) % 4, marks=pytest.mark.slow),
        (
            likelihoods.Columns([(Normal(), 2), (likelihoods.Categorical(3), 1)]),
            np.dstack([X[..., :2], np.arange(5 * T).reshape(5, T) % 3]),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_likelihood_is_of_one_step(likelihood, x):
    model = build(likelihood=Missing(likelihood, fill=False))
    x = x.astype(np.float32)
    scores = model.score(padded(x, 2))
    np.testing.assert_allclose(scores["elbo"], model.score(x)["elbo"], rtol=1e-5)
    assert model.reconstruct(x).shape[:2] == (5, T)
    assert model.generate(2, 3, sample=True, seed=0).shape == (2, 3, C)
    wrong = x.copy()
    wrong[0, 1, 2] = 0.5
    with pytest.raises(ValueError, match="Received: "):
        model.score(wrong)


def test_without_a_combiner_all_steps_at_once_are_those_in_turn():
    at_once, in_turn = build(combiner=False), build(combiner=False)
    z, features = keras.Input((L,)), keras.Input((4,))
    deaf = keras.Model([z, features], keras.layers.Identity()(features))
    in_turn = tfvae.SequentialVAE(
        in_turn.encoder, in_turn.decoder, L, in_turn.transition, deaf, likelihood=Missing(Normal("learned"), fill=False)
    )
    for name in ("posterior", "conditional", "likelihood"):
        getattr(in_turn, name).set_weights(getattr(at_once, name).get_weights())
    found, expected = (each.elbo_terms(tf.constant(X), Sampling(3, SEED)) for each in (in_turn, at_once))
    np.testing.assert_allclose(found.log_weights, expected.log_weights, atol=1e-4)
    np.testing.assert_allclose(found.kl, expected.kl, atol=1e-4)


@pytest.mark.parametrize(
    "objective",
    [
        objectives.IWAE(4),
        objectives.MIWAE(4, 2),
        objectives.FreeBits(1.0, per_dimension=False),
        objectives.Capacity(2.0),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_of_the_sums_work(objective, model):
    terms = model.elbo_terms(tf.constant(X), Sampling(objective.num_samples, SEED))
    assert np.isfinite(objective(terms)).all()


@pytest.mark.parametrize(
    "objective",
    [objectives.FreeBits(1.0), objectives.MMD(), objectives.BetaTCVAE(10)],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_of_single_dimensions_are_refused(objective):
    with pytest.raises(ValueError, match=r"^`objective` must be one .*for a SequentialVAE\. Received: objective="):
        build(objective=objective)


def test_a_memory_reads_the_past_only():
    model = build(memory=True)
    x = X.copy()
    x[:, 3] += 1
    z = tf.zeros([5, T, L])
    found, expected = (model.parameters_along(z, model.remembered(z, tf.constant(each))) for each in (x, X))
    np.testing.assert_array_equal(found[:, :4], expected[:, :4])
    assert (np.abs(found[:, 4] - expected[:, 4]) > 1e-6).any()
    assert model.decode(np.zeros((2, 4, L))).shape == (2, 4, C)
    # What is generated is remembered: the same draws give the same mean.
    np.testing.assert_allclose(model.generate(3, 1, seed=1), model.generate(3, 5, seed=1)[:, :1], atol=1e-6)


@pytest.mark.slow
def test_training_goes_on_from_a_file_exactly(tmp_path):
    model = build(objective=objectives.IWAE(2))
    model.compile(keras.optimizers.Adam(0.01))
    x = X.copy()
    x[0, 4:] = np.nan
    model.train_on_batch(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    for each in (model, loaded):
        each.train_on_batch(x)
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy(), err_msg=weight.path)


def test_a_step_is_judged_by_what_is_typical_of_steps(model):
    x = np.tile(X, (8, 1, 1))
    x[1, 3:] = np.nan
    threshold = model.calibrate(x, false_alarm_rate=0.05)
    assert threshold.rows == np.count_nonzero(~np.isnan(x[..., 0]))
    found = model.detect(x)
    contributions, real = found["contributions"], ~np.isnan(x).any(axis=-1)
    assert contributions.shape == x.shape
    np.testing.assert_allclose(contributions.sum(axis=-1) + found["kl"], found["score"], atol=1e-4)
    # The mean of each channel and of the divergence is subtracted.
    np.testing.assert_allclose(contributions[real].mean(axis=0), 0, atol=1e-4)
    assert found["kl"][real].mean() == pytest.approx(0, abs=1e-4)
    assert not found["score"][~real].any()
    assert not found["is_anomaly"][~real].any()
    assert 0.02 < found["is_anomaly"][real].mean() < 0.06
    odd = X[:1].copy()
    odd[0, 4, 1] = 30.0
    found = model.detect(odd)
    assert found["score"][0].argmax() == 4
    assert found["is_anomaly"][0, 4]
    assert found["contributions"][0, 4].argmax() == 1
    longer = model.detect(padded(odd, 3))
    np.testing.assert_allclose(longer["score"][:, :T], found["score"], atol=1e-4)


# Networks that fit, for models that are refused.
ENCODER, DECODER = causal_encoder(), network([keras.Input((L,))], C)


@functools.cache
def plain():
    return build()


def test_steps_one_after_the_other_are_judged_as_in_sequences(model):
    x = X.copy()
    x[0, 2] = np.nan
    nats, kl, is_observed = model._terms_by_element(tf.constant(x))
    features, state = model.features_of(tf.constant(x)), model.initial(5)
    for t in range(T):
        terms, state = model.terms_of_step(features[:, t], tf.constant(x[:, t]), state, tf.fill([5], t == 0))
        np.testing.assert_allclose(terms[0], nats[:, t], atol=1e-5)
        np.testing.assert_allclose(terms[1], kl[:, t], atol=1e-5)
        np.testing.assert_array_equal(terms[2], is_observed[:, t])


def test_an_encoder_that_reads_padding_is_refused():
    x = keras.Input((None, C))
    both = keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True))(tfvae.networks.MissingMask()(x))
    model = build(encoder=keras.Model(x, both))
    model.compile("adam")
    # Without padding it makes no difference.
    model.check_training(X)
    with pytest.raises(ValueError, match=r"^`encoder` must not read padding.*the first 4 steps.* 2 steps of.*follow$"):
        model.fit(np.concatenate([padded(X[:, :4], 2), X]), verbose=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": tfvae.networks.dense_encoder((T, C), (4,))}, r"`encoder` must give .*\[B, T, F\]"),
        ({"decoder": keras.Sequential([keras.Input((L + 1,)), keras.layers.Dense(C)])}, "`decoder` must take z_t"),
        (
            {"decoder": keras.Sequential([keras.Input((L,)), keras.layers.Dense(C + 1)])},
            "`decoder` must give .*None, 3",
        ),
        ({"combiner": network([keras.Input((L,)), keras.Input((5,))], 4)}, r"`combiner` must take z_\{t-1\}, the feat"),
        ({"transition": network([keras.Input((C,))], 4)}, r"`transition` must take z_\{t-1\}"),
        ({"memory": keras.layers.Dense(3)}, "`memory` must be a Keras cell"),
        ({"memory": keras.layers.GRU(3)}, "`memory` must be a Keras cell"),
        ({"memory": keras.layers.GRUCell(3)}, r"`decoder` must take z_t, and h_\{t-1\}"),
        ({"conditional": posteriors.SylvesterFlow()}, "`conditional` must have a log p"),
        ({"objective": objectives.ELBO(sticking_the_landing=True)}, "`objective` must not need path gradients"),
        ({"prior": tfvae.priors.VampPrior(num_components=3)}, "`prior` must not be built from q"),
        ({"posterior": posteriors.DiagonalNormal(5)}, "`posterior` must have the model's latent_dim"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_fit_are_named(change, message):
    given = {"encoder": ENCODER, "decoder": DECODER, "latent_dim": L, "likelihood": Missing(Normal(), fill=False)}
    with pytest.raises((ValueError, NotImplementedError), match=f"^{message}.*Received: "):
        tfvae.SequentialVAE(**{**given, **change})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.score(X[:, :, 0]), r"`x` must have the shape \[N, T, 3\]"),
        (lambda model: model.score(X, np.zeros((5, T - 1, L))), r"`epsilon` must have the shape \[N, 6, 2\]"),
        (lambda model: model.decode(np.zeros((5, L))), r"`z` must have the shape \[N, T, 2\]"),
        (lambda model: model.generate(2, 0), "`length` must"),
        (lambda model: model.log_likelihood(X, 1), "`num_samples` must"),
        (lambda model: tfvae.forecast(model, X, 0), "`steps` must"),
        (lambda model: tfvae.forecast(model, X, 2, [0.0]), "`quantiles` must"),
        (lambda model: tfvae.forecast(model, X, 2, 0.5), "`quantiles` must be a list"),
        (lambda model: tfvae.forecast(model, X, 2, None), "`quantiles` must be a list"),
        (lambda model: tfvae.forecast(model, X, 2, "0.5"), "`quantiles` must be a list"),
        (lambda model: tfvae.forecast(tfvae.VAE, X, 2), "`model` must be a SequentialVAE"),
        (
            lambda model: model.encode(tf.data.Dataset.from_generator(lambda: (X, X[:, 1:]), output_types=tf.float32)),
            "`x` must hold sequences of one length",
        ),
    ],
)
def test_wrong_calls_say_what_is_expected(call, message):
    with pytest.raises(ValueError, match=f"^{message}.*Received: "):
        call(plain())


def test_windows_are_forecast_by_a_vae_of_windows():
    encoder = tfvae.networks.dense_encoder((T, C), (4,))
    decoder = tfvae.networks.dense_decoder(L, (T, C), (4,))
    model = tfvae.VAE(encoder, decoder, L, likelihood=Missing(Normal(3.0)))
    with pytest.raises(ValueError, match=r"^`steps` must be less than .*Received: "):
        tfvae.forecast(model, X, T)
    found = tfvae.forecast(model, X, 2, num_samples=50, seed=0)
    assert found.mean.shape == found.quantiles[0.5].shape == (5, 2, C)
    assert found.samples is None
    # Only the last steps before the end count, whatever follows it.
    for x in (X[:, 1:], padded(X, 3)):
        again = tfvae.forecast(model, x, 2, num_samples=50, seed=0)
        np.testing.assert_array_equal(again.mean, found.mean)


def windows_of(model, lengths, steps):
    """The windows of a forecast of sequences 1, 2, ... of these lengths, and where the steps to come start."""
    x = np.full((len(lengths), max(lengths), 1), np.nan, np.float32)
    for row, length in zip(x, lengths, strict=True):
        row[:length, 0] = np.arange(1, length + 1)
    windows, starts = forecasting._windows(model, x, steps)
    return np.nan_to_num(windows[..., 0]).astype(int).tolist(), starts.tolist()


def test_steps_of_windows_are_where_the_training_had_them():
    networks = tfvae.networks.dense_encoder((T, 1), (4,)), tfvae.networks.dense_decoder(L, (T, 1), (4,))
    whole = tfvae.data.Series(["c"], [0.0], [1.0], T, is_whole=True)
    model = tfvae.VAE(*networks, L, likelihood=Missing(Normal(3.0)), series=whole)
    assert windows_of(model, (4, 2, 0), 2) == ([[1, 2, 3, 4, 0, 0], [1, 2, 0, 0, 0, 0], [0] * 6], [4, 2, 0])
    with pytest.raises(ValueError, match=r"^`steps` must end within the .* 6 steps.*Received: steps=2 after .* 5$"):
        tfvae.forecast(model, np.zeros((1, 5, 1)), 2)
    found = tfvae.forecast(model, np.zeros((1, 2, 1)), 1, num_samples=2, seed=0)
    assert found.mean.shape == (1, 1, 1)
    model.series = tfvae.data.Series(["c"], [0.0], [1.0], T)
    expected = [[3, 4, 5, 6, 0, 0], [0, 0, 1, 2, 0, 0], [0] * 6]
    assert windows_of(model, (6, 2, 0), 2) == (expected, [4, 4, 4])


def test_a_model_without_a_transition_starts_with_a_small_kl():
    keras.utils.set_random_seed(0)
    model = tfvae.SequentialVAE(causal_encoder(), network([keras.Input((L,))], C), L)
    steps = np.random.default_rng(0).normal(size=(20, 10, C)).astype(np.float32)
    far = 10 * tf.random.stateless_normal([100, L], SEED)
    # It does not depend on z, and is 1.
    np.testing.assert_allclose(model.p_of(far)["scale"], 1.0, atol=1e-6)
    assert model.score(steps, seed=0)["step_kl"].max() < 100


def test_where_nothing_is_known_a_forecast_begins_with_the_prior(monkeypatch):
    model, x, of_steps, real = plain(), X.copy(), {}, particles.drawn
    x[1] = np.nan

    def drawn(model, state, length, seed, first):
        of_steps["first"] = first.numpy().reshape([50, 5, L])
        z = model.continued(state, noise([250, length, L], seed), lambda: None, first=first)[0]
        of_steps["z"] = z.numpy().reshape([50, 5, length, L])
        return real(model, state, length, seed, first)

    monkeypatch.setattr(particles, "drawn", drawn)
    tfvae.forecast(model, x, 2, num_samples=50, seed=0)
    first, z = of_steps["first"], of_steps["z"]
    np.testing.assert_array_equal(np.isnan(first).all(axis=(0, 2)), [True, False, True, True, True])
    # The first of the new steps, and no other.
    np.testing.assert_array_equal(z[:, 1, 0], first[:, 1])
    assert np.isfinite(z).all()
    assert (z[:, 1, 1] != first[:, 1]).all()


@pytest.mark.slow
def test_a_forecast_of_windows_fills_in_their_last_steps():
    encoder = tfvae.networks.dense_encoder((T, C), (4,))
    decoder = tfvae.networks.dense_decoder(L, (T, C), (4,))
    model = tfvae.VAE(encoder, decoder, L, likelihood=Missing(Normal(3.0)))
    found = tfvae.forecast(model, X, 2, num_samples=50, seed=0)
    window = padded(X[:, -4:], 2)
    mean = tfvae.impute(model, window, num_samples=2000, seed=0)[:, -2:]
    # Five times the error of a mean of 50 draws.
    np.testing.assert_allclose(found.mean, mean, atol=5 * 3.0 / np.sqrt(50))
    # What is missing before the first step is missing.
    short = np.concatenate([np.full((5, 2, C), np.nan, np.float32), X[:, :2]], axis=1)
    again, found = (tfvae.forecast(model, each, 2, num_samples=50, seed=0) for each in (short, X[:, :2]))
    np.testing.assert_array_equal(again.mean, found.mean)


@pytest.mark.slow
def test_forecasts_and_imputations_decode_a_bounded_number_of_steps_at_a_time(monkeypatch):
    model, counts, x = build(memory=True), [], X[:1].copy()
    x[:, 2] = np.nan
    x_of = model.x_of

    def counted(z, *others):
        counts.append(int(tf.shape(z)[0]))
        return x_of(z, *others)

    monkeypatch.setattr(model, "run_eagerly", True)
    filled = tfvae.impute(model, x, num_samples=20, seed=0)
    monkeypatch.setattr(model, "x_of", counted)
    monkeypatch.setattr(particles, "STEPS", 15)
    np.testing.assert_allclose(tfvae.impute(model, x, num_samples=20, seed=0), filled, rtol=1e-5)
    drawn = tfvae.forecast(model, x, 3, num_samples=20, seed=0, return_samples=True).samples
    assert len(np.unique(drawn[:, 0, 0, 0])) == 20
    # In the steps of x all 20 particles are decoded at once.
    assert max(count for count in counts if count != 20) == 15
