"""The plots show the data that they were given."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from tfvae import plots


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images / 16.0).astype("float32")[..., np.newaxis]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def drawn_images(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def corners(axes):
    return np.array([image.get_extent() for image in axes.images])


def test_reconstructions_of_images_stand_below_their_originals(digits):
    x, reconstruction = digits[:20], 0.5 * digits[:20]
    figure = plots.reconstructions(x, reconstruction, max_examples=10)
    assert len(figure.axes) == 20
    np.testing.assert_array_equal(drawn_images(figure)[:10], x[:10, ..., 0])
    np.testing.assert_array_equal(drawn_images(figure)[10:], reconstruction[:10, ..., 0])
    for original, below in zip(figure.axes[:10], figure.axes[10:], strict=True):
        upper, lower = original.get_position(), below.get_position()
        assert lower.x0 == pytest.approx(upper.x0)
        assert lower.y1 < upper.y0 < lower.y1 + 0.05


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_image_axes_fill_the_page_without_overlap(count, digits):
    figure = plots.reconstructions(digits[:count], digits[:count])
    boxes = [axes.get_position() for axes in figure.axes]
    width, height = figure.get_size_inches()
    for index, box in enumerate(boxes):
        assert 0.0 < box.x0 < box.x1 < 1.0
        assert 0.0 < box.y0 < box.y1 < 1.0
        assert box.width * width == pytest.approx(box.height * height)
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_colour_images_keep_their_channels(rng):
    x = rng.random((3, 4, 6, 3))
    figure = plots.samples(x)
    np.testing.assert_array_equal(drawn_images(figure), x)


def test_images_a_little_outside_the_unit_interval_are_clipped(digits):
    x = 1.1 * digits[:4] - 0.02
    assert x.min() < 0.0
    assert x.max() > 1.0
    np.testing.assert_allclose(drawn_images(plots.samples(x)), np.clip(x, 0, 1)[..., 0])


def test_images_on_another_scale_share_one(digits):
    x = 16 * digits[:4]
    reconstruction = x / 2 - 4
    shown = np.stack(drawn_images(plots.reconstructions(x, reconstruction)))
    np.testing.assert_allclose(shown[:4], (x[..., 0] + 4) / 20)
    np.testing.assert_allclose(shown[4:], (reconstruction[..., 0] + 4) / 20)


def test_integer_pixels_are_drawn(digits):
    x = (255 * digits[:2]).astype("uint8")
    np.testing.assert_allclose(drawn_images(plots.samples(x)), x[..., 0] / 255.0)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_images_are_drawn(value):
    assert np.all(np.isfinite(drawn_images(plots.samples(np.full((2, 4, 4, 1), value)))))


def test_reconstructions_of_vectors_are_pairs_of_lines(rng):
    x = rng.normal(size=(9, 30))
    figure = plots.reconstructions(x, x + 1.0, max_examples=6)
    assert len(figure.axes) == 6
    for index, axes in enumerate(figure.axes):
        original, reconstruction = axes.lines
        np.testing.assert_array_equal(original.get_ydata(), x[index])
        np.testing.assert_array_equal(reconstruction.get_ydata(), x[index] + 1.0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["original", "reconstruction"]


@pytest.mark.parametrize("event_shape", [(4, 5), (4, 5, 2), (3, 2, 2, 1)])
def test_events_that_are_no_images_are_flattened_lines(event_shape, rng):
    x = rng.normal(size=(3, *event_shape))
    figure = plots.samples(x, columns=2)
    assert [len(axes.images) for axes in figure.axes] == [0, 0, 0]
    np.testing.assert_array_equal([axes.lines[0].get_ydata() for axes in figure.axes], x.reshape(3, -1))


@pytest.mark.parametrize("event_shape", [(8, 8, 1), (30,)])
def test_samples_in_columns(event_shape, rng):
    figure = plots.samples(rng.random((7, *event_shape)), columns=3)
    figure.draw_without_rendering()
    assert len(figure.axes) == 7
    assert len({round(axes.get_position().x0, 2) for axes in figure.axes}) == 3


def test_latent_shows_the_principal_components(rng):
    loc = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 3.0
    axes = plots.latent(loc).axes[0]
    offsets = np.asarray(axes.collections[0].get_offsets())
    centred = loc - loc.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(offsets), np.abs(left[:, :2] * singular[:2]), rtol=1e-8, atol=1e-8)
    pca = PCA(2).fit(loc)
    np.testing.assert_allclose(np.abs(offsets), np.abs(pca.transform(loc)), rtol=1e-8, atol=1e-8)
    labels = [f"principal component {i + 1} ({pca.explained_variance_ratio_[i]:.0%} of the variance)" for i in (0, 1)]
    assert [axes.get_xlabel(), axes.get_ylabel()] == labels


def test_latent_of_two_dimensions_is_drawn_as_it_is(rng):
    loc = rng.normal(size=(50, 2)) * [3.0, 1.0]
    axes = plots.latent(loc).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), loc)
    share = loc[:, 0].var() / loc.var(axis=0).sum()
    assert axes.get_xlabel() == f"latent dimension 1 ({share:.0%} of the variance)"
    assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))


def test_latent_of_one_dimension_is_a_histogram_of_every_example(rng):
    loc = rng.normal(size=(300, 1))
    axes = plots.latent(loc, max_points=10).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 300


def test_latent_draws_a_spread_of_at_most_max_points(rng):
    loc = rng.normal(size=(1000, 2))
    offsets = np.asarray(plots.latent(loc, max_points=100).axes[0].collections[0].get_offsets())
    assert len(offsets) == 100
    np.testing.assert_array_equal(offsets[[0, -1]], loc[[0, -1]])


def test_latent_draws_images_at_their_points_without_overlap(digits):
    loc = PCA(2).fit_transform(digits.reshape(len(digits), -1))
    axes = plots.latent(loc, digits).axes[0]
    left, right, bottom, top = corners(axes).T
    centres = np.transpose([left + right, bottom + top]) / 2
    assert 40 < len(centres) < 400
    for centre, image in zip(centres, axes.images, strict=True):
        index = np.argmin(np.abs(loc - centre).sum(axis=1))
        np.testing.assert_allclose(loc[index], centre, atol=1e-6)
        np.testing.assert_array_equal(image.get_array(), digits[index, ..., 0])
    apart = np.abs(centres[:, np.newaxis] - centres).max(axis=-1) + 10 * np.eye(len(centres))
    assert np.all(apart > (right - left).max())
    assert axes.get_xlim()[0] < left.min() < right.max() < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < bottom.min() < top.max() < axes.get_ylim()[1]


def test_latent_thumbnails_keep_their_proportions(rng):
    axes = plots.latent(rng.normal(size=(50, 2)), rng.random((50, 6, 12, 3))).axes[0]
    left, right, bottom, top = corners(axes).T
    np.testing.assert_allclose(right - left, 2 * (top - bottom))


def test_latent_of_vectors_is_a_scatter_only(rng):
    axes = plots.latent(rng.normal(size=(50, 3)), rng.normal(size=(50, 30))).axes[0]
    assert not axes.images
    assert len(axes.collections[0].get_offsets()) == 50


@pytest.mark.parametrize("shape", [(5, 4), (1, 3), (5, 2), (5, 1)])
def test_latent_of_a_collapsed_posterior(shape):
    axes = plots.latent(np.ones(shape), np.ones((shape[0], 8, 8, 1))).axes[0]
    assert len(axes.images) == (0 if shape[1] == 1 else 1)
    assert np.all(np.isfinite([axes.get_xlim(), axes.get_ylim()]))


def test_history_draws_training_and_validation_in_one_panel():
    record = {"loss": [3.0, 2.0], "kl": [1.0, 2.0], "elbo": [-3.0, -2.0], "val_elbo": [-4.0, -3.5]}
    elbo, kl = plots.history(record).axes
    assert elbo.get_ylabel() == "ELBO (nats per example)"
    assert [line.get_label() for line in elbo.lines] == ["training", "validation"]
    np.testing.assert_array_equal([line.get_ydata() for line in elbo.lines], [[-3.0, -2.0], [-4.0, -3.5]])
    np.testing.assert_array_equal(elbo.lines[0].get_xdata(), [1, 2])
    assert kl.get_ylabel() == "KL divergence (nats per example)"
    np.testing.assert_array_equal(kl.lines[0].get_ydata(), [1.0, 2.0])


def test_history_of_a_run_that_diverged_leaves_a_gap():
    line = plots.history({"elbo": [-3.0, np.nan]}).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [-3.0, np.nan])


def test_history_places_a_sparse_validation():
    axes = plots.history({"elbo": np.arange(7.0), "val_elbo": [0.0, 1.0]}).axes[0]
    np.testing.assert_array_equal(axes.lines[1].get_xdata(), [3, 6])


def test_figures_are_written(digits, tmp_path):
    figures = {
        "reconstructions": plots.reconstructions(digits[:3], digits[:3]),
        "samples": plots.samples(digits[:3, 0, :, 0]),
        "latent": plots.latent(digits[:9, 3, :, 0], digits[:9]),
        "history": plots.history({"elbo": [1.0]}),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        written = (tmp_path / f"{name}.png").read_bytes()
        assert written.startswith(b"\x89PNG"), name
        assert len(written) > 2000, name


def test_works_where_pyplot_cannot_be_imported():
    # Keras imports pyplot when it can, so the test blocks the import instead of checking that pyplot was not imported.
    program = (
        "import io, sys; sys.modules['matplotlib.pyplot'] = None; from tfvae import plots;"
        "plots.samples([[1.0, 2.0]]).savefig(io.BytesIO()); assert sys.modules['matplotlib.pyplot'] is None"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


ONES, NANS = np.ones((2, 3)), np.full((2, 3), np.nan)
NAN_IMAGES = np.full((2, 8, 8, 1), np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.reconstructions(ONES, np.ones((2, 4))), r"`reconstruction` must have the shape of `x`"),
        (lambda: plots.reconstructions(ONES, NANS), r"`reconstruction` must hold finite values"),
        (lambda: plots.reconstructions(ONES, ONES, max_examples=0), r"`max_examples` must be at least 1"),
        (lambda: plots.samples(np.array([[1.0, np.inf]])), r"`x` must hold finite values"),
        (lambda: plots.samples(np.ones((0, 3))), r"`x` must hold finite values, at least one"),
        (lambda: plots.samples(np.ones(3)), r"`x` must have the shape \[B, \.\.\.\]"),
        (lambda: plots.samples(ONES, columns=0), r"`columns` must be at least 1"),
        (lambda: plots.latent(np.ones((2, 3, 4))), r"`loc` must have the shape \[B, L\]"),
        (lambda: plots.latent(NANS), r"`loc` must hold finite values"),
        (lambda: plots.latent(np.ones((3, 3)), NAN_IMAGES), r"`x` must hold one example per row of `loc`"),
        (lambda: plots.latent(ONES, NAN_IMAGES), r"`x` must hold finite values"),
        (lambda: plots.latent(ONES, max_points=0), r"`max_points` must be at least 1"),
        (lambda: plots.history({"loss": [1.0]}), r"`history` must have at least one of .*elbo"),
        (lambda: plots.history({"elbo": [1.0], "val_elbo": []}), r"`history` must have a value for each epoch"),
        (lambda: plots.history({"val_elbo": []}), r"`history` must have a value for each epoch"),
        (lambda: plots.history({"elbo": 1.0}), r"`history` must have a value for each epoch"),
        (lambda: plots.history(None), r"`history` must be what `fit\(\.\.\.\)\.history` holds"),
        (lambda: plots.samples([["a"]]), r"`x` must hold numbers"),
        (lambda: plots.reconstructions(ONES, ONES, names=("a",)), r"`names` must be two texts"),
        (lambda: plots.latent(ONES, labels=["a", None]), r"`labels` must be all texts or all numbers"),
        (lambda: plots.latent(ONES, labels=ONES), r"`labels` must have the shape \[B\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message + r".* Received: "):
        call()
