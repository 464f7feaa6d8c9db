"""Models of tables: rows in, rows out, whatever the method."""

import copy
import pickle

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import tfvae
from tfvae import likelihoods
from tfvae.data import Table

N = 60


def orders(n=N, seed=0):
    """Rows with every kind of column, some of them with gaps."""
    rng = np.random.default_rng(seed)
    channel = rng.choice(["web", "shop", "phone"], n, p=[0.5, 0.3, 0.2])
    frame = pd.DataFrame(
        {
            "order_id": np.arange(500, 500 + n),
            "channel": pd.Categorical(channel, ["shop", "phone", "web", "fax"], ordered=True),
            "amount": np.round(np.exp(rng.normal(3 + (channel == "shop"), 1)), 2),
            "discount": np.where(rng.random(n) < 0.6, 0.0, rng.gamma(2, 5, n)),
            "items": rng.negative_binomial(1, 0.15, n),
            "age": pd.array(rng.integers(18, 90, n), "Int64"),
            "gift": rng.random(n) < 0.3,
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**8, n), unit="s"),
            "country": "DE",
            "rating": rng.integers(1, 6, n),
        }
    )
    frame.loc[rng.random(n) < 0.2, "age"] = pd.NA
    frame.loc[rng.random(n) < 0.1, "channel"] = np.nan
    return frame


@pytest.fixture(scope="module")
def frame():
    return orders()


@pytest.fixture(scope="module")
def table(frame):
    return Table.learn(frame, kinds={"items": "count"})


@pytest.fixture(scope="module")
def vae(table):
    """Shared, so no test may train it."""
    return new_vae(table)


def new_vae(table, **arguments):
    keras.utils.set_random_seed(0)
    vae = tfvae.VAE.of_table(table, latent_dim=2, hidden=(8,), **arguments)
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return vae


def assert_rows_of(made, frame, n):
    """Rows with the columns, dtypes, categories and range of the data."""
    assert list(made) == list(frame)
    assert made.index.equals(pd.RangeIndex(n))
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    assert not made.isna().any().any()
    assert set(made["channel"]) <= {"web", "shop", "phone"}
    for name in ("amount", "discount", "age", "rating", "when"):
        assert frame[name].min() <= made[name].min()
        assert made[name].max() <= frame[name].max()
    np.testing.assert_array_equal(made["amount"], made["amount"].round(2))
    assert (made["items"] >= 0).all()
    assert (made["country"] == "DE").all()
    np.testing.assert_array_equal(made["order_id"], np.arange(1, n + 1))


def test_each_kind_has_its_likelihood(table):
    wrapped = table.likelihood().likelihood
    kinds = [(type(part).__name__, width) for part, width in zip(wrapped.likelihoods, wrapped._widths, strict=True)]
    assert kinds == [
        *[("Normal", 4), ("Bernoulli", 1), ("NegativeBinomial", 1), ("Categorical", 1), ("Categorical", 1)],
        *[("Categorical", 1), ("Categorical", 1), ("Categorical", 1), ("Categorical", 1)],
    ]
    assert table.likelihood().column_names == table.names
    robust = table.likelihood(number=lambda: likelihoods.StudentT(3.0), count=likelihoods.Poisson).likelihood
    assert [type(part).__name__ for part in robust.likelihoods[:3]] == ["StudentT", "Bernoulli", "Poisson"]


def test_the_log_density_of_a_row_is_the_sum_of_those_of_its_observed_values():
    """Against SciPy, with the parameters where the documentation of `Columns` says they are."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": rng.normal(5, 2, N),
            "b": rng.random(N) < 0.5,
            "c": rng.negative_binomial(1, 0.1, N),
            "d": rng.choice(["x", "y", "z"], N),
        }
    )
    complete = Table.learn(frame, kinds={"c": "count"})
    likelihood = complete.likelihood(
        number=lambda: likelihoods.Normal(0.5), count=likelihoods.Poisson, binary=likelihoods.Bernoulli
    )
    assert complete.names == ("a", "b", "c", "d")
    likelihood.build((None, *likelihood.parameter_shape((4,))))
    parameters = rng.normal(size=(N, *likelihood.parameter_shape((4,)))).astype(np.float32)
    loc, logit, log_rate, logits = parameters[:, 0], parameters[:, 1], parameters[:, 2], parameters[:, 3:]
    code = frame["d"].map({name: i for i, name in enumerate(complete.columns[3].labels)}).to_numpy()
    scaled = (frame["a"] - frame["a"].mean()) / frame["a"].std(ddof=0)
    expected = np.stack(
        [
            stats.norm.logpdf(scaled, loc, 0.5),
            stats.bernoulli.logpmf(frame["b"], special.expit(logit)),
            stats.poisson.logpmf(frame["c"], np.exp(log_rate)),
            special.log_softmax(logits, axis=1)[np.arange(N), code],
        ],
        axis=1,
    )
    is_missing = rng.random(frame.shape) < 0.3
    x = complete.transform(frame.astype(object).mask(is_missing))
    np.testing.assert_array_equal(np.isnan(x), is_missing)
    actual = likelihood.log_prob(x, parameters[np.newaxis])[0]
    np.testing.assert_allclose(actual, np.where(is_missing, 0, expected).sum(axis=1), rtol=1e-4, atol=1e-4)
    assert likelihood.log_prob(np.full_like(x, np.nan), parameters[np.newaxis]).numpy().max() == 0


def test_a_frame_trains_and_is_read_by_every_method_as_its_x(frame, table, vae):
    x = table.transform(frame)
    mixed = frame[list(reversed(frame.columns))].assign(more=0)
    for rows in (frame, mixed, frame.to_dict("records")):
        np.testing.assert_array_equal(vae.encode(rows)["loc"], vae.encode(x)["loc"])
        np.testing.assert_array_equal(vae.score(rows, seed=0)["elbo"], vae.score(x, seed=0)["elbo"])
    np.testing.assert_array_equal(vae.predict(frame, verbose=0), vae.predict(x, verbose=0))
    assert np.isfinite(vae.score(frame)["elbo"]).all()
    with pytest.raises(ValueError, match="rows without amount"):
        vae.encode(frame.drop(columns="amount"))


def test_fit_evaluate_and_train_on_batch_take_frames(frame):
    rows = frame[["channel", "amount"]]
    vae = tfvae.VAE.of_table(Table.learn(rows), latent_dim=2, hidden=(4,))
    vae.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    history = vae.fit(rows, validation_data=rows[:20], batch_size=30, epochs=1, verbose=0).history
    assert np.isfinite([history["elbo"], history["val_elbo"]]).all()
    assert np.isfinite(vae.evaluate(rows, verbose=0, return_dict=True)["elbo"])
    before = vae.encoder.get_weights()[0]
    assert np.isfinite(vae.train_on_batch(rows[:20], return_dict=True)["elbo"])
    assert not np.array_equal(vae.encoder.get_weights()[0], before)


def test_generated_rows_look_like_the_data(frame, vae):
    made = vae.generate(200, seed=0, sample=True)
    assert_rows_of(made, frame, 200)
    pd.testing.assert_frame_equal(vae.generate(200, seed=0, sample=True), made)
    assert not vae.generate(200, seed=1, sample=True).equals(made)
    assert_rows_of(vae.generate(30, seed=0), frame, 30)


def test_a_reconstruction_of_rows_is_rows(frame, table, vae):
    made = vae.reconstruct(frame[:7])
    assert_rows_of(made, frame, 7)
    assert_rows_of(vae.reconstruct(frame[:7], sample=True, seed=0), frame, 7)
    assert isinstance(vae.reconstruct(table.transform(frame[:7])), np.ndarray)


def test_given_values_hold_in_each_row(frame, vae):
    given = {"channel": "shop", "amount": 12.5, "when": "2022-02-22T22:22:22", "gift": True, "rating": 4.0}
    made = vae.generate(50, seed=0, sample=True, given=given)
    assert_rows_of(made, frame, 50)
    for name, value in given.items():
        assert set(made[name]) == {pd.Timestamp(value) if name == "when" else value}
    pd.testing.assert_frame_equal(vae.generate(50, seed=0, sample=True, given=given), made)
    assert made["age"].nunique() > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"given": {"colour": 1}, "sample": True}, "`given` must be values by column, for some of discount"),
        ({"given": {}, "sample": True}, "`given` must be values by column"),
        ({"given": {"order_id": 1}, "sample": True}, "`given` must be values by column"),
        ({"given": {"channel": "moon"}, "sample": True}, "`given` must have categories that the table has"),
        ({"given": {"amount": None}, "sample": True}, "`given` must have a value for each of its columns"),
        ({"given": {"amount": "much"}, "sample": True}, 'Column "amount" must hold numbers'),
        ({"given": {"amount": 1.0}}, "`given` needs `sample=True`"),
    ],
)
def test_what_cannot_be_given_is_refused(vae, arguments, message):
    with pytest.raises(ValueError, match=message):
        vae.generate(3, **arguments)


def test_given_needs_a_table(tiny_vae):
    with pytest.raises(ValueError, match="`given` needs `sample=True` and a model of a table"):
        tiny_vae().generate(3, sample=True, given={"a": 1})


def test_rows_given_a_value_are_those_of_the_conditional_distribution():
    """A linear model with Gaussian noise: p(b|a) and p(c|a) have closed forms."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(2000, 2)), columns=["a", "b"])
    table = Table.learn(frame)
    weight = np.array([[1.0, -0.8]])
    decoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    decoder.set_weights([weight, np.array([0.2, -0.3])])
    encoder = tfvae.networks.row_encoder([0, 0], hidden=(4,))
    vae = tfvae.VAE(
        encoder, decoder, 1, likelihood=table.likelihood(number=lambda: likelihoods.Normal(0.6)), table=table
    )
    covariance = weight.T @ weight + 0.36 * np.eye(2)
    given = 1.7
    x = (given - frame["a"].mean()) / frame["a"].std(ddof=0)
    slope = covariance[0, 1] / covariance[0, 0]
    mean = -0.3 + slope * (x - 0.2)
    stddev = np.sqrt(covariance[1, 1] - slope * covariance[0, 1])
    made = vae.generate(1000, seed=0, sample=True, given={"a": given})["b"]
    z = ((made - frame["b"].mean()) / frame["b"].std(ddof=0) - mean) / stddev
    assert stats.kstest(z, "norm").pvalue > 1e-3
    gaps = pd.DataFrame({"a": [given] * 300, "b": [np.nan] * 300})
    filled = tfvae.impute(vae, gaps, num_samples=2000, seed=0)["b"]
    scaled = (filled - frame["b"].mean()) / frame["b"].std(ddof=0)
    np.testing.assert_allclose(scaled, mean, atol=0.25)
    drawn = tfvae.impute(vae, gaps, num_samples=300, seed=0, num_imputations=3)
    z = ((np.concatenate([each["b"] for each in drawn]) - frame["b"].mean()) / frame["b"].std(ddof=0) - mean) / stddev
    assert stats.kstest(z, "norm").pvalue > 1e-3


def test_imputation_leaves_what_is_known_bit_for_bit(frame, vae):
    shifted = frame.set_axis(np.arange(100, 100 + N))
    filled = tfvae.impute(vae, shifted, num_samples=20, seed=0)
    pd.testing.assert_series_equal(filled.dtypes, frame.dtypes)
    assert filled.index.equals(shifted.index)
    assert not filled.isna().any().any()
    for name in frame:
        known = shifted[name].notna()
        pd.testing.assert_series_equal(filled[name][known], shifted[name][known], check_exact=True)
    assert frame.isna().any().any()
    several = tfvae.impute(vae, shifted, num_samples=20, seed=0, num_imputations=3)
    assert len(several) == 3
    assert not several[0].equals(several[1])
    pd.testing.assert_frame_equal(tfvae.impute(vae, shifted, num_samples=20, seed=0, num_imputations=3)[2], several[2])


def test_a_model_keeps_its_table(tmp_path, frame, table, vae):
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_allclose(loaded.score(frame, seed=0)["elbo"], vae.score(frame, seed=0)["elbo"], rtol=1e-5)
    assert loaded.generate(5, seed=0, sample=True).equals(vae.generate(5, seed=0, sample=True))
    for same in (loaded, pickle.loads(pickle.dumps(vae)), copy.deepcopy(vae)):
        assert same.table == table
        for own, weight in zip(same.get_weights(), vae.get_weights(), strict=True):
            np.testing.assert_array_equal(own, weight)
    assert pickle.loads(pickle.dumps(table)) == table


def test_the_likelihood_must_be_of_the_table(table, frame):
    other = Table.learn(frame, drop=["amount"])
    with pytest.raises(ValueError, match=r"`likelihood` must be that of the table, as table.likelihood\(\) makes it"):
        new_vae(table, likelihood=other.likelihood())
    with pytest.raises(ValueError, match=r"`table` must be a tfvae\.data\.Table"):
        new_vae(table).__class__(
            tfvae.networks.dense_encoder((4,)), tfvae.networks.dense_decoder(2, (4,)), 2, table="orders.csv"
        )
