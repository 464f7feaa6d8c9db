"""How far an output may be off: a hundredth of a standard deviation of any column is seen, and rounding is not."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.exports import Scaled
from tfvae import export
from tfvae.export import tolerances, units, verification

TOLERANCE = 1e-4
# The second column is like a year, which varies little for its size.
OFFSET, SCALE = np.array([0.0, 2000.0, 5e4], np.float32), np.array([1e-3, 10.0, 1e5], np.float32)


def normal(rows, columns):
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def wrong_columns(sizes, received, expected):
    return np.flatnonzero(sizes.differences(received, expected) > sizes.allowed(TOLERANCE)).tolist()


class Collapsing(Scaled):
    """y = factor * x + shift [B, 3], in the units of x."""

    def __init__(self, factor, shift):
        super().__init__(shift)
        self.factor = factor

    def export_signatures(self, x=None):
        def serving_default(x):
            return {"y": self.factor * x + self.weight.value}

        return {"serving_default": export.Signature(serving_default, (tf.TensorSpec([None, 3], tf.float32, "x"),))}

    def export_examples(self, x, calibrating=False):
        return {"serving_default": {"x": x}}

    def export_units(self, offset, scale):
        return {"x": (offset, scale), "y": (offset, scale)}


@pytest.mark.parametrize("factor", [1.0, 0.0], ids=["used", "collapsed"])
@pytest.mark.parametrize("is_scaled", [True, False], ids=["scaled", "as they are"])
def test_raw_columns(factor, is_scaled):
    x = normal(64, 3)
    raw = x * SCALE + OFFSET
    model = Collapsing(factor, np.zeros(3) if is_scaled else (1 - factor) * OFFSET)
    given = (x, units.make(model, OFFSET, SCALE)) if is_scaled else (raw, None)
    question = verification._questions(model, *given)["serving_default"]
    sizes, expected = question.sizes["y"], question.outputs["y"]
    exact = factor * x.astype(float) * SCALE + OFFSET
    assert wrong_columns(sizes, exact.astype(np.float32), expected) == []
    for column in range(3):
        off = exact.copy()
        off[:, column] += 0.01 * SCALE[column]
        assert wrong_columns(sizes, off, expected) == [column]


@pytest.mark.parametrize("spread", [(3.0, 1e-3), (1e5, 1e-3), (1e-4, 1e-9)])
def test_latent_dimensions_that_are_used_and_collapsed(spread):
    loc = normal(64, 2) * np.array(spread, np.float32)
    sizes = tolerances.sizes("loc", loc, None, {})
    assert wrong_columns(sizes, loc * (1 + 5e-7), loc) == []
    for column in range(2):
        off = loc.astype(float)
        off[:, column] += 0.01 * np.std(loc[:, column])
        assert wrong_columns(sizes, off, loc) == [column]


def test_what_never_varies_is_compared_for_its_own_size():
    ones = np.ones((5, 2), np.float32) * np.array([1e5, 1e-3], np.float32)
    sizes = tolerances.sizes("y", ones, None, {})
    assert wrong_columns(sizes, ones * (1 + 1e-4), ones) == []
    assert wrong_columns(sizes, ones * [1, 1.01], ones) == [1]
    zeros = np.zeros((5, 2), np.float32)
    # What float32 leaves of terms of size 1 that cancel.
    assert wrong_columns(tolerances.sizes("y", zeros, None, {}), zeros + 5e-7, zeros) == []


def test_missing_values_and_pictures_have_a_spread():
    model = Collapsing(1.0, np.zeros(3))
    x = normal(64, 3) * SCALE
    x[::2, 1] = np.nan
    x[:, 2] = np.nan
    spread = tolerances.spread_of_data(model, x)["y"]
    np.testing.assert_allclose(spread, [np.std(x[:, 0]), np.nanstd(x[:, 1]), 0], rtol=1e-5)
    pictures = normal(8, 48).reshape(8, 4, 4, 3)
    np.testing.assert_allclose(tolerances.spread_of_data(model, pictures)["y"], pictures.std((0, 1, 2)), rtol=1e-5)


def test_a_score_is_compared_for_its_size_alone():
    score = -1e5 + normal(64, 1)[:, 0]
    assert tolerances.sizes("elbo", score, None, {}).allowed(TOLERANCE, 10, False) == pytest.approx(10, rel=1e-3)
