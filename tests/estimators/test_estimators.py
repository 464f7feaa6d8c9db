"""The estimators: scikit-learn's own checks, planted anomalies, densities, gaps, pipelines and fresh processes."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from tfvae.sklearn import VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer

ESTIMATORS = [VAEOutlierDetector, VAEDensity, VAETransformer, VAEImputer]
# Their checks are of conventions, which a few steps of training show as well as many.
SHORT = {"max_epochs": 1, "hidden": (4,), "latent_dim": 1}


def short(estimator, **arguments):
    return estimator(**SHORT, random_state=0, **arguments)


# Those that do not train.
QUICK = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_parameters_default_constructible",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_mixin_order",
)


def name_of(check):
    return getattr(check, "func", check).__name__


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.__name__)
def test_the_checks_of_scikit_learn_that_are_quick(estimator):
    done = set()
    for instance, check in estimator_checks_generator(short(estimator)):
        if name_of(check) in QUICK:
            check(instance)
            done.add(name_of(check))
    assert len(done) >= len(QUICK) - 1


@pytest.mark.slow
@parametrize_with_checks([short(estimator) for estimator in ESTIMATORS])
def test_all_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_a_planted_anomaly_is_detected_and_its_column_named(detector, table):
    planted = table[:3].copy()
    planted[:, 1] += 200
    assert (detector.predict(planted) == -1).all()
    contributions = detector.contributions(planted)
    assert (contributions[:, :3].argmax(axis=1) == 1).all()
    expected = -detector.score_samples(planted) - detector.typical_.sum()
    np.testing.assert_allclose(contributions.sum(axis=1), expected, rtol=1e-9)


def test_the_threshold_leaves_out_the_share_that_contamination_says(detector, table):
    scores = detector.score_samples(table)
    assert np.sum(detector.predict(table) == -1) == 15
    np.testing.assert_array_equal(detector.decision_function(table), scores - detector.offset_)
    assert detector.threshold_ == -detector.offset_
    np.testing.assert_array_equal(-scores > detector.threshold_, detector.predict(table) == -1)


def test_each_vae_has_the_same_say_in_the_score(detector, table):
    rows = detector._rows(table)
    says = [w * t.elbo.std() for w, t in zip(detector.weights_, detector._terms(rows), strict=True)]
    np.testing.assert_allclose(says, says[0], rtol=1e-6)
    assert detector.weights_.sum() == pytest.approx(1)


def test_the_score_of_a_row_depends_on_no_other_row(detector, table):
    scores = detector.score_samples(table)
    assert detector.score_samples(table[[217]])[0] == scores[217]
    np.testing.assert_array_equal(detector.score_samples(table[::-1]), scores[::-1])


@pytest.mark.slow
def test_the_vaes_of_an_estimator_give_its_bound(detector, table):
    rows = detector.scaler_.transform(table).astype("float32")
    vae, noise = detector.vaes_[1], detector._noise[1]
    bounds = [vae.score(rows, np.tile(epsilon, (300, 1)))["elbo"] for epsilon in noise]
    np.testing.assert_allclose(detector._terms(rows)[1].elbo, np.mean(bounds, axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contamination": 0.7}, "contamination.*Received: contamination=0.7"),
        ({"criterion": "loss"}, "criterion.*Received: criterion='loss'"),
        ({"latent_dim": 0}, "latent_dim.*Received"),
        ({"hidden": 8}, "hidden.*Received: hidden=8"),
        ({"n_estimators": 0}, "n_estimators.*Received"),
        ({"max_epochs": 0}, "max_epochs.*Received"),
        ({"num_samples": 1.5}, "num_samples.*Received"),
    ],
)
def test_arguments_are_checked_by_fit(table, arguments, message):
    with pytest.raises(ValueError, match=message):
        VAEOutlierDetector(**arguments).fit(table)


def test_a_pickled_detector_gives_the_same_scores(detector, table):
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copy.score_samples(table), detector.score_samples(table))


def test_a_column_without_values_is_refused(table):
    with pytest.raises(ValueError, match=r"no value in the columns \[2\]"):
        VAEImputer().fit(np.where([False, False, True], np.nan, table))


@pytest.mark.slow
def test_data_frames_give_names(table):
    frame = pd.DataFrame(table, columns=["a", "b", "c"])
    transformer = short(VAETransformer).set_output(transform="pandas").fit(frame)
    out = transformer.transform(frame)
    assert list(out.columns) == ["vaetransformer0"]
    assert transformer.inverse_transform(out).shape == (300, 3)
    with pytest.raises(ValueError, match="feature names"):
        transformer.transform(frame[["b", "a", "c"]])


@pytest.mark.slow
def test_the_density_is_that_of_the_units_of_x():
    rng = np.random.default_rng(0)
    covariance = np.array([[4.0, 3.0], [3.0, 9.0]])
    true = stats.multivariate_normal([10, -5], covariance)
    train, test = true.rvs(4000, random_state=1), true.rvs(1000, random_state=2)
    density = VAEDensity(random_state=0).fit(train)
    # Student's t likelihood is not that of the data, which costs some nats.
    assert density.score(test) == pytest.approx(true.logpdf(test).mean(), abs=0.15)
    grid = rng.uniform([-10, -25], [30, 15], size=(100_000, 2))
    assert np.exp(density.score_samples(grid)).mean() * 40 * 40 == pytest.approx(1, abs=0.05)
    draws = density.sample(20_000, random_state=3)
    np.testing.assert_allclose(np.median(draws, axis=0), [10, -5], atol=0.2)
    assert stats.spearmanr(draws).statistic == pytest.approx(0.5 / 1.0, abs=0.1)


@pytest.mark.slow
def test_gaps_are_filled_better_than_by_means(table):
    gaps = np.random.default_rng(1).uniform(size=table.shape) < 0.2
    gaps[:, 0] &= ~gaps[:, 1:].all(axis=1)
    imputer = VAEImputer(random_state=0)
    filled = imputer.fit_transform(np.where(gaps, np.nan, table))
    np.testing.assert_array_equal(filled[~gaps], table[~gaps])
    means = np.broadcast_to(np.nanmean(np.where(gaps, np.nan, table), axis=0), table.shape)
    scale = table.std(axis=0)
    error, of_means = (np.mean((((each - table) / scale)[gaps]) ** 2) for each in (filled, means))
    assert error < 0.4 * of_means


@pytest.mark.slow
def test_a_grid_search_of_a_pipeline(table):
    pipeline = make_pipeline(StandardScaler(), VAETransformer(max_epochs=20, random_state=0), LinearRegression())
    search = GridSearchCV(pipeline, {"vaetransformer__latent_dim": [1, 2]}, n_jobs=2)
    search.fit(table, table[:, 0])
    assert search.best_score_ > 0.5
    densities = GridSearchCV(VAEDensity(random_state=0), {"max_epochs": [1, 100]}).fit(table)
    assert densities.best_params_ == {"max_epochs": 100}


@pytest.mark.slow
def test_joblib_files_load_in_a_fresh_process(detector, table, run_new_python, tmp_path):
    joblib.dump(detector, tmp_path / "detector.joblib")
    np.save(tmp_path / "x.npy", table)
    np.save(tmp_path / "scores.npy", detector.score_samples(table))
    run_new_python(
        """
        import sys, joblib, numpy as np

        folder = sys.argv[1]
        detector = joblib.load(f"{folder}/detector.joblib")
        np.testing.assert_array_equal(
            detector.score_samples(np.load(f"{folder}/x.npy")), np.load(f"{folder}/scores.npy")
        )
        """,
        tmp_path,
    )
