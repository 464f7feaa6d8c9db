"""Estimators of tables with text, dates and gaps: what becomes of the columns, of missing values and of new ones."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest

from tests.helpers import table_rows
from tfvae import export
from tfvae.data import Table
from tfvae.sklearn import VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer
from tfvae.sklearn.features import Features

SHORT = {"max_epochs": 10, "hidden": (8,), "latent_dim": 2, "random_state": 0}


@pytest.fixture(scope="module")
def orders():
    return table_rows.frame()


@pytest.fixture(scope="module")
def detector(orders):
    return VAEOutlierDetector(n_estimators=1, contamination=0.05, **SHORT).fit(orders)


@pytest.fixture(scope="module")
def features(detector):
    return detector._features


def test_a_detector_takes_a_table_as_it_is(detector, orders):
    assert detector.table_ == Table.learn(orders)
    assert detector.n_features_in_ == orders.shape[1]
    assert list(detector.feature_names_in_) == list(orders.columns)
    assert np.sum(detector.predict(orders) == -1) == 20
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copy.score_samples(orders), detector.score_samples(orders))


def test_contributions_are_of_the_columns_of_the_frame_and_sum_to_the_score(detector, orders):
    rows = table_rows.held_out()
    contributions = pd.DataFrame(detector.contributions(rows), columns=[*orders.columns, "kl"])
    expected = -detector.score_samples(rows) - detector.typical_.sum()
    np.testing.assert_allclose(contributions.sum(axis=1), expected)
    assert contributions[["order_id", "country", "note"]].eq(0).all(axis=None)
    # Row 4 has no values.
    assert contributions.drop(columns="kl").loc[4].eq(0).all()
    assert contributions.drop(columns="kl").loc[2].idxmax() == "order time"
    # What is typical is so of the observed values.
    of_training = pd.DataFrame(detector.contributions(orders), columns=[*orders.columns, "kl"])
    np.testing.assert_allclose(of_training["height"][orders["height"].notna()].mean(), 0, atol=1e-9)
    assert of_training["height"][orders["height"].isna()].eq(0).all()


@pytest.mark.parametrize("criterion", ["log_likelihood", "reconstruction_log_likelihood"])
def test_a_missing_value_adds_nothing_by_any_criterion(detector, orders, criterion):
    other = pickle.loads(pickle.dumps(detector)).set_params(criterion=criterion)
    rows = orders[:5].assign(height=np.nan)
    missing = ~np.isfinite(other._rows(rows))
    terms = zip(other._evaluated(other._complete(other._rows(rows))), other._terms(other._rows(rows)), strict=True)
    for member, (evaluated, used) in enumerate(terms):
        height = np.flatnonzero(missing.all(axis=0))[0]
        np.testing.assert_array_equal(used.log_likelihood[:, height], other._expected[member][height])
        more = used.log_likelihood.sum(axis=1) - evaluated.log_likelihood.sum(axis=1)
        np.testing.assert_allclose(used.log_density - evaluated.log_density, more)
    assert (other.contributions(rows)[:, list(orders).index("height")] == 0).all()


def test_features_are_standardised_and_become_x_again(detector, features, orders):
    made = features(orders)
    x = detector.table_.transform(orders)
    np.testing.assert_allclose(features.x(made)[~np.isnan(x)], x[~np.isnan(x)], rtol=1e-5, atol=1e-5)
    rows = detector._rows(orders)
    np.testing.assert_allclose(np.nanmean(rows, axis=0), 0, atol=1e-4)
    bits = features.are_bits
    np.testing.assert_allclose(np.nanstd(rows[:, ~bits], axis=0), 1, rtol=1e-4)
    assert set(np.unique(made[:, bits][~np.isnan(made[:, bits])])) == {0, 1}
    np.testing.assert_array_equal(np.isnan(made), np.isnan(x) @ features.owners.T > 0)


@pytest.mark.slow
def test_a_frame_of_numbers_needs_no_table_unless_it_has_gaps(orders):
    numbers = orders[["height", "amount", "discount"]][:60]
    gaps = VAEOutlierDetector(n_estimators=1, **{**SHORT, "max_epochs": 1}).fit(numbers)
    assert gaps.table_ is not None
    assert gaps.fit(numbers.fillna(0)).table_ is None
    with pytest.raises(ValueError, match="NaN"):
        gaps.predict(numbers)


@pytest.mark.parametrize(
    ("estimator", "instead"), [(VAEDensity, r"tfvae\.VAE\.of_table"), (VAEImputer, r"tfvae\.impute\(vae, X\)")]
)
def test_a_density_and_an_imputer_refuse_text_and_say_what_to_take(orders, estimator, instead):
    with pytest.raises(ValueError, match=f"`X` must hold numbers alone.*{instead}.*Received: a data frame .*bool"):
        estimator().fit(orders)


def test_bad_rows_are_refused_by_name(detector, orders):
    for rows, message in [
        (np.zeros((3, 13)), "`X` must be a data frame"),
        (orders.drop(columns="channel"), "feature names"),
        (orders.assign(height="tall"), 'Column "height" must hold numbers'),
        (orders.assign(amount=np.inf), 'Column "amount" must hold'),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            detector.predict(rows)
    with pytest.raises(ValueError, match="at least 2 rows"):
        VAEOutlierDetector().fit(orders[:1].assign(gift=np.nan))


@pytest.mark.slow
def test_a_transformer_gives_rows_back(orders):
    transformer = VAETransformer(**SHORT).fit(orders)
    z = transformer.transform(orders)
    assert z.shape == (400, 2)
    assert np.isfinite(z).all()
    rows = transformer.inverse_transform(z)
    assert list(rows.columns) == list(orders.columns)
    assert set(rows["channel"]) <= {"web", "shop", "phöne", "fax"}
    assert rows["items"].between(1, orders["items"].max()).all()


@pytest.mark.slow
def test_exports_of_a_table_take_raw_rows(detector, tmp_path):
    model, rows = detector.to_model(), table_rows.held_out()
    expected = model.detect(rows)
    for path in (export.tflite(model, tmp_path / "orders.tflite"), export.saved_model(model, tmp_path / "orders")):
        client = export.load(path)
        with pytest.warns(UserWarning, match="height"):
            received = client.detect(rows)
        for name, value in expected.items():
            np.testing.assert_allclose(received[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(received["is_anomaly"], detector.predict(rows) == -1)
        by_column = client.metadata["columns"]
        assert received["contributions"].shape == (12, len(by_column))
    assert "| channel | channel | string |" in (tmp_path / "orders" / "README.md").read_text()


def test_features_of_any_order_of_parts(orders):
    table = Table.learn(orders[["channel", "items", "gift", "amount"]])
    features = Features(table)
    x = table.transform(orders)
    np.testing.assert_allclose(features.x(features(orders)), np.where(np.isnan(x), 0, x), rtol=1e-5, atol=1e-5)
