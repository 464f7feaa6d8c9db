"""How numbers of a table become numbers of x: against SciPy and scikit-learn, and back again."""

import json

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.preprocessing import PowerTransformer, QuantileTransformer

from tfvae.data import transforms
from tfvae.data.transforms import Transforms

RNG = np.random.default_rng(0)
N = 3000
VALUES = {
    "standard": RNG.normal(40, 7, N),
    "yeo_johnson": RNG.gamma(3.0, 3.0, N),
    "quantile": RNG.standard_cauchy(N),
}
LEARNED = {name: transforms.learn(values) for name, values in VALUES.items()}


def forward(transform, values, dtype=tf.float64):
    return Transforms([transform]).forward(tf.constant(values[:, np.newaxis], dtype)).numpy()[:, 0]


def inverse(transform, values, dtype=tf.float64):
    return Transforms([transform]).inverse(tf.constant(values[:, np.newaxis], dtype)).numpy()[:, 0]


def test_every_transformation_is_chosen_for_typical_numbers():
    assert {name: transform["name"] for name, transform in LEARNED.items()} == {name: name for name in transforms.NAMES}
    for name, transform in LEARNED.items():
        x = forward(transform, VALUES[name])
        assert abs(x.mean()) < 0.05
        assert abs(x.std() - 1) < 0.05
        assert np.abs(x).max() < 8
        assert json.loads(json.dumps(transform)) == transform


def test_yeo_johnson_is_that_of_scikit_learn():
    values = VALUES["yeo_johnson"]
    learned = LEARNED["yeo_johnson"]
    u = (values - learned["centre"]) / learned["width"]
    reference = PowerTransformer("yeo-johnson").fit(u[:, np.newaxis])
    np.testing.assert_allclose(learned["power"], reference.lambdas_[0], rtol=1e-3)
    np.testing.assert_allclose(forward(learned, values), reference.transform(u[:, np.newaxis])[:, 0], atol=2e-3)


def test_quantiles_are_those_of_scikit_learn_at_the_knots():
    learned = LEARNED["quantile"]
    knots = np.array(learned["knots"])
    reference = QuantileTransformer(n_quantiles=N, output_distribution="normal").fit(VALUES["quantile"][:, np.newaxis])
    np.testing.assert_allclose(forward(learned, knots), learned["levels"], atol=1e-12)
    # scikit-learn takes the outermost values for the quantiles 0 and 1, and then clips them.
    inner = slice(1, -1)
    expected = reference.transform(knots[inner, np.newaxis])[:, 0]
    np.testing.assert_allclose(forward(learned, knots)[inner], expected, atol=2e-3)


@pytest.mark.parametrize("power", [-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0])
def test_yeo_johnson_is_that_of_scipy_for_every_power(power):
    transform = {"name": "yeo_johnson", "centre": 0.0, "width": 1.0, "power": power, "loc": 0.0, "scale": 1.0}
    values = np.linspace(-4.0, 4.0, 81)
    x = forward(transform, values)
    np.testing.assert_allclose(x, stats.yeojohnson(values, power), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(inverse(transform, x), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", VALUES)
def test_the_inverse_is_exact_over_the_range_and_beyond_and_keeps_the_order(name):
    values, learned = VALUES[name], LEARNED[name]
    spread = np.ptp(values)
    # Yeo-Johnson's inverse has an end that no value reaches; the others go on for ever.
    beyond = 0.5 if name == "yeo_johnson" else 10
    wide = np.linspace(values.min() - beyond * spread, values.max() + beyond * spread, 1001)
    for points in (np.sort(values), wide):
        x = forward(learned, points)
        np.testing.assert_allclose(inverse(learned, x), points, rtol=1e-8, atol=1e-8 * spread)
        assert np.all(np.diff(x)[np.diff(points) > 0] > 0)
        single = inverse(learned, forward(learned, points, tf.float32), tf.float32)
        np.testing.assert_allclose(single, points, rtol=3e-5, atol=3e-6 * spread)
    np.testing.assert_array_equal(np.isnan(forward(learned, np.array([np.nan, 0.0]))), [True, False])
    assert np.isfinite(inverse(learned, np.array([-30.0, 30.0]), tf.float32)).all()


def test_several_columns_are_transformed_in_a_graph_as_one_by_one():
    names = ["standard", "standard", "quantile", "yeo_johnson"]
    together = Transforms([*(LEARNED[name] for name in names), None])
    columns = [*(VALUES[name] for name in names), VALUES["standard"]]
    x = tf.function(together.forward, autograph=False)(tf.constant(np.stack(columns, axis=1))).numpy()
    for position, name in enumerate(names):
        np.testing.assert_allclose(x[:, position], forward(LEARNED[name], columns[position]), rtol=1e-11)
    np.testing.assert_array_equal(x[:, 4], columns[4])
    back = tf.function(together.inverse, autograph=False)(tf.constant(x)).numpy()
    np.testing.assert_allclose(back, np.stack(columns, axis=1), rtol=1e-8, atol=1e-8)


HARD = {
    "one value": np.full(10, 3.0),
    "one number": np.array([5.0]),
    "two values": np.array([1.0, 2.0] * 20),
    "mostly equal": np.concatenate([np.zeros(990), RNG.normal(size=10)]),
    "huge": RNG.lognormal(0, 10, N),
    "far from zero": 1e15 + RNG.integers(0, 100, N),
    "one outlier": np.append(RNG.normal(size=N), 1e9),
    "two clusters": np.concatenate([RNG.normal(0, 1, N), RNG.normal(1000, 1, N)]),
    "ties": RNG.integers(0, 40, N) ** 3.0,
}


@pytest.mark.parametrize("case", HARD)
def test_hard_numbers_become_finite_x_of_moderate_size(case):
    values = HARD[case]
    learned = transforms.learn(values)
    x = forward(learned, values)
    assert np.isfinite(x).all()
    assert abs(x.mean()) < 1
    assert x.std() < 2
    back = inverse(learned, x)
    np.testing.assert_allclose(back, values, rtol=1e-6, atol=1e-6 * np.ptp(values) + 1e-12 * np.abs(values).max())


def test_an_outlier_stays_one():
    """A transformation must not hide what detection looks for: beyond the data x goes on at the outermost slope."""
    for name, values in VALUES.items():
        inside, outside = values.max(), values.max() + 3 * np.ptp(values)
        x = forward(LEARNED[name], np.array([inside, outside]))
        assert x[1] > x[0] + 0.5
