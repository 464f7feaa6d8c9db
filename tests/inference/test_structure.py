"""Which latent variables depend on which: patterns found from products with Hessians that are known."""

import numpy as np
import pytest

from tfvae.inference import structure

GLOBALS = 2


def find(shapes, hessian):
    """The pattern found for a quadratic log density; products are counted."""
    calls = []

    def values(z):
        return -0.5 * np.sum((z @ hessian) * z, axis=1)

    def products(points, vectors):
        calls.append(len(vectors))
        return -vectors @ hessian

    return structure.find(shapes, values, products, np.ones([1, len(hessian)])), calls


def banded(count, width, columns=1, seed=0):
    """A Hessian of 2 global variables and of nodes that depend on those up to `width` places away."""
    generator = np.random.default_rng(seed)
    size = count * columns
    node = np.arange(size) // columns
    near = abs(node[:, None] - node) <= width
    hessian = np.zeros([GLOBALS + size] * 2)
    hessian[GLOBALS:, GLOBALS:] = np.where(near, generator.normal(size=[size, size]), 0.0)
    hessian[:GLOBALS] = generator.normal(size=[GLOBALS, GLOBALS + size])
    return hessian + hessian.T + 20.0 * np.eye(len(hessian))


@pytest.mark.parametrize(
    ("count", "width", "columns", "found"),
    [(40, 0, 1, 0), (40, 1, 1, 1), (40, 2, 1, 2), (60, 3, 1, 4), (30, 0, 3, 0), (40, 1, 2, 1)],
)
def test_the_pattern_of_groups_and_series_is_found(count, width, columns, found):
    hessian = banded(count, width, columns)
    shape = (count,) if columns == 1 else (count, columns)
    pattern, calls = find([(), (), shape], hessian)
    assert (pattern.width, pattern.num_globals, len(pattern.mask)) == (found, GLOBALS, (found + 1) * columns - 1)
    # Far fewer products than columns.
    assert sum(calls) < 60
    probes = np.zeros([len(pattern.probes), len(hessian)])
    probes[:, pattern.order[GLOBALS:]] = pattern.probes
    band = pattern.band((probes @ hessian)[:, pattern.order[GLOBALS:]])
    local = hessian[np.ix_(pattern.order[GLOBALS:], pattern.order[GLOBALS:])]
    for k, row in enumerate(band):
        np.testing.assert_allclose(row[: len(row) - k], np.diag(local, -k), atol=1e-12)
    x = np.random.default_rng(1).normal(size=[3, len(local)])
    np.testing.assert_allclose(structure.multiply(band, x), x @ local, atol=1e-9)


def test_the_axis_of_the_nodes_may_be_the_last():
    generator = np.random.default_rng(0)
    hessian = 5.0 * np.eye(2 * 30)
    for node in range(30):
        block = np.ix_([node, 30 + node], [node, 30 + node])
        hessian[block] += np.cov(generator.normal(size=[2, 9]))
    pattern, _ = find([(2, 30)], hessian)
    assert (pattern.width, pattern.num_globals, len(pattern.mask)) == (0, 0, 1)
    np.testing.assert_array_equal(pattern.order[:4], [0, 30, 1, 31])
    assert not pattern.mask[0, ::2].any()


def test_of_two_crossed_groupings_the_longer_one_is_local():
    generator = np.random.default_rng(0)
    hessian = np.diag(generator.uniform(8.0, 9.0, 1 + 12 + 40))
    hessian[1:13, 13:] = generator.uniform(0.0, 1.0, [12, 40])
    hessian[0, 1:] = 0.5
    pattern, _ = find([(), (12,), (40,)], np.maximum(hessian, hessian.T))
    assert [block.shape for block in pattern.blocks] == [(40,)]
    np.testing.assert_array_equal(pattern.order, np.arange(53))
    assert pattern.num_globals == 13


def test_groupings_that_do_not_meet_are_both_local():
    pattern, _ = find([(30,), (), (20,)], np.diag(np.linspace(1.0, 2.0, 51)))
    assert (pattern.num_globals, len(pattern.probes)) == (1, 1)
    np.testing.assert_array_equal(pattern.order[:3], [30, 0, 1])


def test_a_dense_matrix_has_no_pattern_and_costs_no_product():
    root = np.random.default_rng(0).normal(size=[30, 30])
    pattern, calls = find([(30,)], root @ root.T)
    assert pattern is None
    assert not calls


def test_one_element_off_the_band_is_seen():
    hessian = banded(40, 0)
    hessian[5, 22] = hessian[22, 5] = 0.5
    assert find([(), (), (40,)], hessian)[0] is None
