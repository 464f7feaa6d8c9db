"""Disentanglement scores: for codes whose score is known, by hand, and against SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression

from tfvae.evaluation import dci, disentanglement, factor_vae_score, mutual_information_gap, sap

SIZES = (3, 4, 5)
# Every combination equally often, so that the factors are exactly independent.
FACTORS = np.tile(np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 3), (20, 1))
CHANCE = np.mean(1 / np.array(SIZES))


def noise(columns=4):
    return np.random.default_rng(0).normal(size=(len(FACTORS), columns))


def rotated():
    """The standardised factors, rotated so that each one is in all dimensions: with the weights 1/3, -2/3 and -2/3."""
    return stats.zscore(FACTORS) @ (np.eye(3) - 2 / 3)


SCORES = {
    "MIG": mutual_information_gap,
    "SAP": sap,
    "disentanglement": lambda codes, factors: dci(codes, factors, num_trees=20).disentanglement,
    "completeness": lambda codes, factors: dci(codes, factors, num_trees=20).completeness,
    "FactorVAE": lambda codes, factors: factor_vae_score(codes, factors, num_votes=300),
}


@pytest.fixture(params=SCORES)
def score(request):
    return SCORES[request.param]


def test_the_factors_themselves_are_disentangled(score):
    assert score(FACTORS, FACTORS) == pytest.approx(1, abs=1e-6)


def test_a_dimension_that_tells_of_nothing_changes_little(score):
    # A forest and a histogram find some information even in noise.
    assert score(np.hstack([FACTORS, noise(1)]), FACTORS) > 0.9


def test_rotated_factors_are_entangled(score):
    assert score(rotated(), FACTORS) < 0.6


def test_noise_scores_nothing():
    codes = noise()
    # Estimated with 20 bins, the mutual information of noise and a factor of 5 values has a mean of
    # 19 * 4 / (2 * 1200) = 0.03 nats.
    assert mutual_information_gap(codes, FACTORS) < 0.03
    # The squared correlation of independent variables has a mean of 1 / 1200.
    assert sap(codes, FACTORS) < 10 / len(FACTORS)
    result = dci(codes, FACTORS, num_trees=20)
    assert result.disentanglement < 0.05
    assert result.completeness < 0.05
    # 240 examples are held out, for three factors: four standard deviations.
    assert result.informativeness == pytest.approx(CHANCE, abs=4 * 0.45 / np.sqrt(3 * 240))
    # Chance for three factors, within four standard deviations of 300 votes; the classifier itself is fitted to them.
    assert factor_vae_score(codes, FACTORS, num_votes=300) == pytest.approx(1 / 3, abs=4 * 0.47 / np.sqrt(300))


def test_the_order_and_the_sign_of_the_dimensions_are_nothing(score):
    codes = np.hstack([FACTORS + 0.3 * noise(3), noise(1)])
    # Forests are random, and a value at the edge of a bin changes bins when its sign changes.
    assert score(-codes[:, [3, 1, 0, 2]], FACTORS) == pytest.approx(score(codes, FACTORS), abs=0.02)


def test_the_informativeness_is_the_accuracy():
    assert dci(FACTORS, FACTORS, num_trees=20).informativeness == 1


# By hand


def test_the_gap_is_that_of_a_table():
    factor = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    # The first column gives the factor in three cases out of four, the second never, the third in half of them.
    codes = np.stack([[0, 0, 0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2, 1, 1]], axis=1)
    entropy = np.log(2)
    informations = [
        entropy - stats.entropy([0.75, 0.25]),
        0.0,
        # The factor is known where the column is 0 or 2, which is half the time.
        0.5 * entropy,
    ]
    expected = (informations[2] - informations[0]) / entropy
    assert mutual_information_gap(codes, factor[:, None]) == pytest.approx(expected)
    # With one dimension there is no second to subtract.
    assert mutual_information_gap(codes[:, :1], factor[:, None]) == pytest.approx(informations[0] / entropy)


def test_the_predictability_is_the_score_of_a_linear_regression():
    codes = np.hstack([FACTORS[:, [1]] + noise(1), FACTORS[:, [1]] + 2 * noise(1), np.ones((len(FACTORS), 1))])
    scores = [
        LinearRegression().fit(codes[:, [column]], FACTORS[:, 1]).score(codes[:, [column]], FACTORS[:, 1])
        for column in range(2)
    ]
    assert sap(codes, FACTORS[:, [1]]) == pytest.approx(scores[0] - scores[1], rel=1e-9)


def test_of_names_the_predictability_is_the_balanced_accuracy():
    # Labels in an order that no linear function follows; the runner-up is independent, and so classifies at chance.
    names = np.array([0, 2, 1])[FACTORS[:, 0]]
    codes = np.stack([FACTORS[:, 0], FACTORS[:, 1]], axis=1)
    for columns in ([0], np.array([0])):
        assert sap(codes, names[:, None], categorical=columns) == pytest.approx(1 - 1 / 3)
    assert sap(codes, names[:, None]) < 0.3


def test_disentanglement_and_completeness_are_those_of_the_importances(monkeypatch):
    importances = np.array([[0.8, 0.1], [0.2, 0.3], [0.0, 0.6]])

    class Forest:
        columns = iter(importances.T)

        def __init__(self, *_, **__):
            self.feature_importances_ = next(self.columns)

        def fit(self, *_):
            return self

        def score(self, *_):
            return 0.5

    monkeypatch.setattr(disentanglement, "RandomForestClassifier", Forest)
    result = dci(noise(3), FACTORS[:, :2])
    of_dimensions = [1 - stats.entropy(row, base=2) for row in importances]
    assert result.disentanglement == pytest.approx(np.average(of_dimensions, weights=importances.sum(axis=1)))
    assert result.completeness == pytest.approx(np.mean([1 - stats.entropy(row, base=3) for row in importances.T]))
    assert result.informativeness == 0.5


def test_a_vote_goes_to_the_dimension_with_the_least_relative_variance():
    # The first dimension varies least, but no less when a factor is held fixed; the third is constant.
    codes = np.stack([1e-2 * noise(1)[:, 0], 100 * FACTORS[:, 0] + noise(2)[:, 1], np.ones(len(FACTORS))], axis=1)
    assert factor_vae_score(codes, FACTORS[:, :1], num_votes=50) == 1
    # The dimension shows one of two factors; when the other is held fixed it still gets half of the votes.
    both = FACTORS[:, :2]
    assert factor_vae_score(codes, both, num_votes=300) == pytest.approx(0.75, abs=4 * 0.43 / np.sqrt(300))
    codes[:, 2] = 1e-2 * FACTORS[:, 1]
    assert factor_vae_score(codes, both, num_votes=300) == 1


# Errors


@pytest.mark.parametrize("function", [mutual_information_gap, sap, dci, factor_vae_score])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros(4), np.zeros((4, 1)), r"`codes` must have the shape \[N, L\]\. Received: codes of shape \[4\]"),
        (np.zeros((4, 1)), np.zeros(4), r"`factors` must have the shape \[N, K\]\. Received: factors of shape \[4\]"),
        (np.zeros((4, 1)), np.eye(3), "`codes` and `factors` must have the same number of examples"),
        (np.full((3, 1), np.nan), np.eye(3), "`codes` must be finite"),
        (np.zeros((3, 1)), np.ones((3, 2)), r"`factors` must vary\. Received: columns \[0, 1\] that are constant"),
    ],
)
def test_wrong_codes_and_factors_are_named(function, codes, factors, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        function(codes, factors)


@pytest.mark.parametrize("function", [mutual_information_gap, dci, factor_vae_score])
def test_factors_that_are_no_classes_are_refused(function):
    with pytest.raises(ValueError, match=r"^`factors` must take each value at least.*Received: 1200 values among 1200"):
        function(FACTORS, noise(2))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"^`num_bins` must be .*Received: num_bins=0"):
        mutual_information_gap(FACTORS, FACTORS, num_bins=0)
    with pytest.raises(
        ValueError,
        match=r"^`categorical` must hold column numbers of `factors`, from 0 to 2\. Received: categorical=\[3\]",
    ):
        sap(FACTORS, FACTORS, categorical=[3])
    with pytest.raises(ValueError, match=r"^`categorical` must hold column numbers .* Received: categorical=0$"):
        sap(FACTORS, FACTORS, categorical=0)
    with pytest.raises(ValueError, match=r"^`test_fraction` must be .*Received: test_fraction=1"):
        dci(FACTORS, FACTORS, test_fraction=1)
    with pytest.raises(ValueError, match=r"^`codes` and `factors` must have at least 2 columns"):
        dci(FACTORS, FACTORS[:, :1])
    with pytest.raises(ValueError, match=r"^`num_examples` must be at least 2.*Received: num_examples=1"):
        factor_vae_score(FACTORS, FACTORS, num_examples=1)
    with pytest.raises(ValueError, match=r"^`codes` must vary\. Received"):
        factor_vae_score(np.ones_like(FACTORS), FACTORS)
