"""Measures of generated examples: against closed forms, sums written out, other libraries, and repeated sampling."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import linalg
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from tfvae import evaluation
from tfvae.evaluation import digit_features, features, frechet_distance, kernel_distance, precision_recall, samples

MEASURES = [frechet_distance, kernel_distance, precision_recall]


def normal(rows, columns, seed=0, loc=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(loc, scale, size=(rows, columns))


def with_moments(mean, covariance, rows=50, seed=0):
    """Rows that have exactly these sample moments."""
    x = normal(rows, len(mean), seed)
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return mean + white @ np.linalg.cholesky(covariance).T


# The Frechet distance


def test_the_frechet_distance_is_that_of_the_moments():
    first, second = np.cov(normal(9, 3, 1).T), 2 * np.cov(normal(9, 3, 2).T)
    real, generated = with_moments([1.0, 2.0, 3.0], first), with_moments([0.0, 2.0, 5.0], second, rows=70, seed=3)
    expected = 5 + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(real, generated).distance == pytest.approx(expected, rel=1e-9)
    # Far from 0 the digits in which rows differ are few.
    assert frechet_distance(real + 1e6, generated + 1e6).distance == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_equal_rows_is_nothing():
    x = normal(100, 5)
    assert frechet_distance(x, x[::-1]).distance == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_covariances_without_full_rank_is_a_number():
    few, other = normal(30, 40), normal(35, 40, 1)
    with pytest.warns(UserWarning, match=r"^The Frechet distance of 30 rows with 40 features is mostly bias"):
        found = frechet_distance(few, other)
    # The trace of the root from the eigenvalues, which may be negative or complex by rounding.
    eigenvalues = np.linalg.eigvals(np.cov(few.T) @ np.cov(other.T)).astype(complex)
    expected = np.sum((few.mean(0) - other.mean(0)) ** 2) + few.var(0, ddof=1).sum() + other.var(0, ddof=1).sum()
    assert found.distance == pytest.approx(expected - 2 * np.sqrt(eigenvalues).real.sum(), rel=1e-5)
    assert np.isfinite(found).all()
    # Copies of a feature, and a constant one.
    x, y = (np.hstack([z, z, np.ones_like(z)]) for z in (normal(50, 2), normal(50, 2, 1)))
    assert frechet_distance(x, y).distance == pytest.approx(2 * frechet_distance(x[:, :2], y[:, :2]).distance)


@pytest.mark.parametrize("num_groups", [2, 3, 4])
def test_the_fewest_rows_are_enough(num_groups):
    assert np.isfinite(frechet_distance(normal(4, 1), normal(5, 1, 1), num_groups=num_groups)).all()
    assert np.isfinite(kernel_distance(normal(4, 1), normal(4, 1, 1))).all()
    assert np.isfinite(precision_recall(normal(20, 1), normal(20, 1, 1), num_neighbors=1)).all()


def test_what_always_generates_one_example_has_the_distance_of_a_point():
    real = with_moments([1.0, 2.0], np.diag([3.0, 4.0]))
    assert frechet_distance(real, np.zeros((50, 2))).distance == pytest.approx(5 + 7)
    assert np.isfinite(kernel_distance(real, np.zeros((50, 2)))).all()
    assert precision_recall(real, np.full((50, 2), 100.0))[:2] == (0, 0)


# The kernel distance


def test_the_kernel_distance_is_the_sum_over_pairs():
    x, y = normal(7, 3), normal(9, 3, 1, loc=0.5)
    kernel = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    expected = sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y).distance == pytest.approx(expected, rel=1e-10)


def test_the_interaction_is_what_effects_of_rows_and_columns_leave():
    x, y = normal(8, 2), normal(6, 2, 1)
    for a, b, distinct in ((x, x, True), (x, y, False)):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (distinct and i == j)]
        values = np.array([(a[i] @ b[j] / 2 + 1) ** 3 for i, j in pairs])
        design = np.zeros((len(pairs), 1 + len(a) + len(b)))
        design[:, 0] = 1
        for row, (i, j) in enumerate(pairs):
            design[row, [1 + i, 1 + len(a) + j]] = 1
        residuals = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        freedom = 8 * 5 if distinct else 7 * 5
        found = samples._Kernel.of_pairs(a, b, distinct)
        assert found.interaction == pytest.approx(np.sum(residuals**2) / freedom, rel=1e-9)


# Precision and recall


def test_precision_and_recall_are_those_of_a_line():
    # Real rows at 0, 1, 3 and 7 have the radii 1, 1, 2 and 4, so their manifold is [-1, 5] and [3, 11]. Those of the
    # generated rows at -2, 6, 12 and 13 are 8, 6, 1 and 1.
    real, generated = np.array([[0.0], [1], [3], [7]]), np.array([[-2.0], [6], [12], [13]])
    assert samples._shares(real, generated, 1) == (1 / 4, 1)
    # The second neighbours of the real rows are at 3, 2, 3 and 6, so their manifold is [-3, 13].
    assert samples._shares(real, generated, 2) == (1, 1)
    # On the edge of a ball.
    assert samples._shares(real, np.array([[11.0], [11.5], [99.0], [100.0]]), 1) == (1 / 4, 0)


def test_copies_of_real_examples_are_realistic():
    real = np.repeat(normal(20, 3, loc=1e3), 5, axis=0)
    assert precision_recall(real, real[::-1])[:2] == (1, 1)
    # Modes that are left out cost recall, not precision.
    modes = np.concatenate([normal(100, 3), normal(100, 3, loc=1e3)])
    found = precision_recall(modes, modes[np.arange(100).repeat(2)])
    assert found.precision == 1
    assert found.recall == 0.5


@pytest.mark.parametrize("measure", MEASURES)
def test_memory_is_bounded_and_parts_change_nothing(measure, monkeypatch):
    real, generated = normal(90, 3), normal(80, 3, 1, loc=0.3)
    whole = measure(real, generated)
    monkeypatch.setattr(samples, "_PAIRS", 200)
    np.testing.assert_allclose(measure(real, generated), whole, rtol=1e-9)


# Standard errors and bias


@pytest.mark.parametrize("loc", [0.0, 0.5])
def test_the_extrapolated_frechet_distance_has_no_bias(loc):
    columns, count = 10, 25
    samples_of = [(normal(120, columns, seed), normal(160, columns, seed + 1000, loc=loc)) for seed in range(count)]
    distances, extrapolated, errors = np.transpose([frechet_distance(*pair) for pair in samples_of])
    expected = columns * loc**2
    assert distances.mean() > expected + 4 * distances.std(ddof=1) / np.sqrt(count)
    assert extrapolated.mean() == pytest.approx(expected, abs=4 * extrapolated.std(ddof=1) / np.sqrt(count))
    # A standard deviation of 25 values is known to a seventh of it; without a difference the jackknife's is larger.
    assert 0.6 < np.sqrt(np.mean(errors**2)) / extrapolated.std(ddof=1) < (1.5 if loc else 2.4)


@pytest.mark.slow
@pytest.mark.parametrize("loc", [0.0, 0.5])
@pytest.mark.parametrize("measure", MEASURES)
def test_standard_errors_are_the_deviations_of_repeated_samples(measure, loc):
    found = np.array([measure(normal(300, 8, s), normal(300, 8, s + 1000, loc=loc)) for s in range(100)])
    values, errors = {
        frechet_distance: (found[:, 1:2], found[:, 2:]),
        kernel_distance: (found[:, :1], found[:, 1:]),
        precision_recall: (found[:, :2], found[:, 2:]),
    }[measure]
    ratios = np.sqrt((errors**2).mean(axis=0)) / values.std(axis=0, ddof=1)
    # The docstrings say which are too large where the distributions agree; 100 values tell a deviation to 7 %.
    low, high = 0.75, 1.3 if loc else {frechet_distance: 1.9, kernel_distance: 1.5, precision_recall: 1.4}[measure]
    assert ((low < ratios) & (ratios < high)).all(), ratios


@pytest.mark.slow
@pytest.mark.extra
def test_the_measures_are_those_of_other_libraries():
    """Needs `pip install torch torchmetrics prdc`, and fails without them; `-m "slow and not extra"` leaves it out."""
    import torch
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 16

        def forward(self, x):
            return x

    real, generated = normal(400, 16) @ normal(16, 16, 7), normal(400, 16, 1, loc=0.3) @ normal(16, 16, 7)
    of_frechet = FrechetInceptionDistance(feature=Identity(), normalize=True).set_dtype(torch.float64)
    with pytest.warns(UserWarning, match="will save all extracted features"):
        of_kernel = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=400)
    for metric in (of_frechet, of_kernel):
        metric.update(torch.tensor(real), real=True)
        metric.update(torch.tensor(generated), real=False)
    assert frechet_distance(real, generated).distance == pytest.approx(float(of_frechet.compute()), rel=1e-6)
    assert kernel_distance(real, generated).distance == pytest.approx(float(of_kernel.compute()[0]), rel=1e-6)
    for k in (3, 5):
        expected = compute_prdc(real, generated, nearest_k=k)
        found = precision_recall(real, generated, num_neighbors=k)
        assert found[:2] == pytest.approx((expected["precision"], expected["recall"]), abs=1e-12)
        assert 0 < found.precision < 1


# Features


def network_of(layer):
    return keras.Sequential([keras.Input((3, 3)), layer])


def test_features_are_those_of_the_network_in_evaluation_mode():
    network = keras.Sequential([keras.Input((3, 3)), keras.layers.Dropout(0.9), keras.layers.Flatten()])
    x = normal(7, 9).reshape(7, 3, 3).astype("float32")
    np.testing.assert_array_equal(features(network, x, batch_size=3), x.reshape(7, 9))


def test_what_is_no_network_of_features_is_refused():
    x, missing = np.ones((2, 3, 3)), np.full((2, 3, 3), np.nan)
    matrices = network_of(keras.layers.Rescaling(1.0))
    infinite = network_of(keras.layers.Lambda(lambda x: keras.ops.log(x[:, 0] - 1)))
    for network, given, message in (
        (np.ravel, x, "`network` must be a Keras model"),
        (matrices, np.ones((2, 3, 4)), r"`x` must have the shape \[N, 3, 3\].*Received: x of shape \[2, 3, 4\]"),
        (matrices, tf.data.Dataset.from_tensors(x), r"`x` must be an array \[N.*Received: x of type tf.data.Dataset"),
        (matrices, missing, "`x` must be finite"),
        (matrices, x, r"`network` must give features \[B, F\].*\[2, 3, 3\] for x of shape \[2, 3, 3\]"),
        (infinite, x, r"`network\(x\)` must be finite.*Received: 6 values"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            features(network, given)


def of_side(side):
    """Scikit-learn's digits [1797, side, side], from 0 to 1."""
    x = (load_digits().images / 16).astype("float32")
    return np.asarray(keras.ops.image.resize(x[..., np.newaxis], (side, side)))[..., 0] if side != 8 else x


@pytest.mark.parametrize("side", [8, pytest.param(28, marks=pytest.mark.slow)])
def test_shipped_features_tell_digits_apart(side):
    # Of 28 x 28 pixels, the digits of scikit-learn are blurred ones, which no training has seen.
    x, labels = of_side(side)[-600:], load_digits().target[-600:]
    found = features(digit_features((side, side)), x)
    classifier = KNeighborsClassifier(3).fit(found[:300], labels[:300])
    assert classifier.score(found[300:], labels[300:]) > (0.95 if side == 8 else 0.85)


@pytest.mark.slow
@pytest.mark.parametrize("side", [8, 28])
def test_distances_by_shipped_features_are_0_for_halves_of_the_digits_and_not_for_darker_ones(side):
    x, network = of_side(side)[-600:], digit_features((side, side))
    found = features(network, x)
    halves = found[::2], found[1::2]
    same, dark = frechet_distance(*halves), frechet_distance(halves[0], features(network, x[1::2] / 2))
    assert abs(same.extrapolated) < 4 * same.standard_error
    assert dark.extrapolated > 5 * dark.standard_error


def test_shipped_features_take_any_shape_of_the_pixels():
    x = of_side(8)[:5]
    expected = features(digit_features((8, 8, 1)), x[..., np.newaxis])
    assert expected.shape == (5, 64)
    for shape in ((8, 8), [64]):
        np.testing.assert_allclose(
            features(digit_features(shape), x.reshape(5, *shape)), expected, rtol=1e-5, atol=1e-5
        )
    assert features(digit_features((28, 28)), of_side(28)[:5]).shape == (5, 64)
    network = digit_features((64,))
    assert not network.trainable_variables
    np.testing.assert_allclose(network.predict(x.reshape(5, 64), verbose=0), expected, rtol=1e-4, atol=1e-4)


def test_shipped_features_refuse_other_pictures():
    for shape in ((32, 32, 3), (8, 8, 2), (4, 16), (1, 8, 8), ()):
        with pytest.raises(ValueError, match=r"^`shape` must be that of pictures.*Received: shape="):
            digit_features(shape)
    for shape in ("88", 64, None):
        with pytest.raises(ValueError, match=r"^`shape` must be a tuple.*Received: shape="):
            digit_features(shape)
    with pytest.raises(ValueError, match=r"with pixels from 0 to 1\. Received: pixels up to 16"):
        features(digit_features((8, 8)), 16 * of_side(8)[:3])


# Errors


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (np.ones(50), normal(50, 2), r"`real` must be features of the shape \[N, F\].*Received: real of shape \[50\]"),
        (normal(50, 2), np.ones((50, 2, 2)), r"`generated` must be features of the shape \[M, F\].*\[50, 2, 2\]"),
        (normal(50, 2), np.full((50, 2), np.inf), "`generated` must be finite"),
        (normal(50, 2), normal(50, 3), "`real` and `generated` must have the same features.*2 columns and 3 columns"),
        (normal(50, 2), normal(3, 2), "`generated` must have at least .* rows. Received: generated of 3 rows"),
        (np.ones((50, 2)), normal(50, 2), "`real` must vary; .*Received: real with the same row 50 times"),
        (np.array(["a"] * 50), normal(50, 2), "`real` must hold real numbers"),
    ],
)
def test_wrong_features_are_named(measure, real, generated, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        measure(real, generated)


def test_wrong_arguments_are_named():
    x = normal(50, 2)
    with pytest.raises(ValueError, match=r"^`num_groups` must be at least 2\. Received: num_groups=1"):
        frechet_distance(x, x, num_groups=1)
    with pytest.raises(ValueError, match=r"^`real` must have at least 60 rows\. Received: real of 50 rows"):
        precision_recall(x, x, num_neighbors=5)
    with pytest.raises(ValueError, match=r"^`num_neighbors` must be"):
        precision_recall(x, x, num_neighbors=0)
    with pytest.raises(ValueError, match=r"^`seed` must be"):
        precision_recall(x, x, seed=None)
    with pytest.raises(ValueError, match=r"^`batch_size` must be"):
        features(network_of(keras.layers.Flatten()), np.ones((2, 3, 3)), batch_size=0)


def test_results_say_what_they_are():
    x, y = normal(60, 2), normal(60, 2, 1)
    assert isinstance(frechet_distance(x, y), evaluation.FrechetDistance)
    assert isinstance(kernel_distance(x, y), evaluation.KernelDistance)
    assert isinstance(precision_recall(x, y), evaluation.PrecisionRecall)
    for result in (frechet_distance(x, y), kernel_distance(x, y), precision_recall(x, y)):
        assert all(type(value) is float for value in result)
