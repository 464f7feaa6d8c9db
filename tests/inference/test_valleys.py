"""Starts beyond a valley of a density, along rays."""

import numpy as np
import pytest

from tfvae.inference import valleys


def test_a_ray_rises_again_beyond_a_valley_only():
    falling, again, noise = [-5.0, -9.0, -30.0], [-5.0, -50.0, -3.0], [-5.0, -5.5, -5.0]
    beyond_overflow = [-5.0, np.nan, -90.0]
    values = np.array([falling, again, noise, beyond_overflow, [-9.0, -8.5, -1.0]])
    assert valleys.rises(0.0, values) == [(4, 2), (1, 2)]
    # Rounding errors of large values are no rise.
    assert valleys.rises(-1e7, np.array([[-2e7, -2e7 + 50.0]])) == []
    assert valleys.rises(0.0, np.zeros([0, 3])) == []


@pytest.mark.parametrize(("place", "width"), [(12.0, 1.0), (-60.0, 1.0), (40.0, 10.0)])
def test_another_mode_of_one_of_many_coordinates_gives_a_start(place, width):
    def density(z):
        other = -0.5 * ((z[:, 7] - place) / width) ** 2
        return np.logaddexp(-0.5 * z[:, 7] ** 2, other) - 0.5 * np.sum(np.delete(z, 7, axis=1) ** 2, axis=1)

    loc, covariance = np.zeros(60), np.eye(60)
    rays = valleys.outward(loc, valleys.axes(covariance, np.random.default_rng(0)))
    (start,) = valleys.starts(density, loc, rays, most=1)
    assert start[7] == pytest.approx(place, rel=0.35)
    assert valleys.starts(lambda z: -0.5 * np.sum(z**2, axis=1), loc, rays, most=1) == []


def test_a_coordinate_is_followed_by_what_depends_on_it():
    covariance = np.array([[4.0, 3.0], [3.0, 9.0]])
    axes = valleys.axes(covariance, np.random.default_rng(0))
    np.testing.assert_allclose(axes[0], [2.0, 1.5])
    np.testing.assert_allclose(axes[1], [1.0, 3.0])
    # All are of one standard deviation.
    np.testing.assert_allclose(np.einsum("mi,ij,mj->m", axes, np.linalg.inv(covariance), axes), 1.0)


def test_labels_are_exchanged_in_all_latent_variables_at_once():
    # m [2], tau [], x [2, 3] and theta [7].
    z = np.arange(16.0)
    others = valleys.relabelled(z, [(2,), (), (2, 3), (7,)])
    assert [1, 0, 2, 6, 7, 8, 3, 4, 5, *range(9, 16)] in others.tolist()


def test_signs_are_those_of_some_latent_variables_and_not_of_an_intercept():
    # Loadings [3], factors [4], intercepts [3] and the logarithm of a scale.
    z = np.arange(1.0, 12.0)
    others = valleys.relabelled(z, [(3,), (4,), (3,), ()]).tolist()
    signs = np.repeat([-1.0, -1.0, 1.0, 1.0], [3, 4, 3, 1])
    assert (signs * z).tolist() in others
    assert (-z).tolist() in others
    # Of two factors, each has a sign of its own: loadings [3, 2], factors [4, 2] and an intercept.
    z = np.arange(1.0, 16.0)
    others = valleys.relabelled(z, [(3, 2), (4, 2), ()]).tolist()
    assert (np.array([1, -1] * 7 + [1]) * z).tolist() in others


def test_images_are_the_best_points_that_are_far_from_each_other():
    loc, deviations = np.array([5.0, 3.0]), np.array([1.0, np.inf])
    candidates = np.array([[5.5, 0.0], [-5.0, 0.0], [-5.5, 0.0], [9.0, 0.0], [20.0, 0.0]])

    def density(z):
        return np.where(z[:, 0] > 15.0, np.nan, -np.abs(np.abs(z[:, 0]) - 5.0))

    found = valleys.images(density, loc, deviations, candidates, most=3, apart=3.0)
    np.testing.assert_array_equal(found, candidates[[1, 3]])
    assert len(valleys.images(density, loc, deviations, candidates, most=1, apart=3.0)) == 1
