"""The networks of rows of tables: their features, computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfvae.networks import RowFeatures, row_encoder


def features_of_rows(x, num_classes, moments):
    """`RowFeatures` by hand: numbers, counts, what is observed, then an indicator for each code."""
    numbers, counts, observed, codes = [], [], [], []
    for column, classes, moment in zip(x.T.astype(np.float64), num_classes, moments, strict=True):
        is_observed = ~np.isnan(column)
        if classes:
            codes.extend((column == code).astype(float) for code in range(classes))
            continue
        observed.append(is_observed.astype(float))
        if moment is None:
            numbers.append(np.where(is_observed, column, 0))
        else:
            counts.append((np.log1p(np.where(is_observed, column, 0)) - moment[0]) / moment[1])
    return np.stack([*numbers, *counts, *observed, *codes], axis=1)


ROWS = {
    "every kind": ([0, 0, 0, 3, 2], [None, None, (1.0, 2.0), None, None]),
    "mixed order": ([3, 0, 2, 0, 0], [None, (0.5, 0.7), None, None, (1.0, 3.0)]),
    "numbers": ([0, 0], [None, None]),
    "counts": ([0], [(0.3, 1.5)]),
    "codes": ([4, 2], [None, None]),
}


@pytest.mark.parametrize("case", ROWS)
def test_features_of_rows_are_those_computed_by_hand(case):
    num_classes, moments = ROWS[case]
    rng = np.random.default_rng(0)
    columns = [
        rng.integers(0, classes, 30) if classes else rng.normal(size=30) if moment is None else rng.poisson(5, 30)
        for classes, moment in zip(num_classes, moments, strict=True)
    ]
    x = np.stack(columns, axis=1).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    layer = RowFeatures(num_classes, moments)
    expected = features_of_rows(x, num_classes, moments)
    for features in (layer(x), tf.function(layer, jit_compile=True)(x)):
        assert features.dtype == "float32"
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape((None, len(columns))) == (None, expected.shape[1])
    again = RowFeatures.from_config(layer.get_config())
    np.testing.assert_array_equal(again(x), layer(x))


def test_an_encoder_of_rows_needs_columns():
    with pytest.raises(ValueError, match=r"`num_classes` must have an entry for each column of x. Received: .*\[\]"):
        row_encoder([])
