"""The pictures of benchmarks/sprites.py, and the tables of benchmarks/disentanglement.py."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield {name: importlib.import_module(name) for name in ("sprites", "disentanglement")}


@pytest.fixture(scope="module")
def drawn(modules):
    return modules["sprites"].sprites()


def test_every_combination_of_factors_has_its_own_picture(modules, drawn):
    x, factors = drawn
    sizes = modules["sprites"].SIZES
    assert x.shape == (np.prod(sizes), 32, 32, 1)
    assert set(np.unique(x)) == {0, 1}
    assert len({picture.tobytes() for picture in x}) == len({tuple(each) for each in factors}) == len(x)
    assert tuple(factors.max(axis=0) + 1) == sizes


def test_factors_are_what_they_are_called(modules, drawn):
    x, factors = drawn
    pixels = x[..., 0].astype(float)
    size = pixels.sum(axis=(1, 2))
    rows, columns = (np.arange(32) @ pixels.sum(axis=axis).T / size for axis in (2, 1))
    # No picture is cut off at an edge.
    assert pixels[:, [0, -1]].sum() == pixels[:, :, [0, -1]].sum() == 0
    shape, scale, rotation, right, up = factors.T
    for kind in range(3):
        for value in range(4):
            # Rotation changes the number of pixels a little, the scale from 0.6 to 1 changes it by their squares.
            of_scale = size[(shape == kind) & (scale == value)]
            expected = size[(shape == kind) & (scale == 3)].mean() * (0.6 + 0.4 * value / 3) ** 2
            assert of_scale.mean() == pytest.approx(expected, rel=0.1)
    # The centre of mass moves by a pixel a place or a little more, from one end to the other by 12.
    for place, position, sign in ((right, columns, 1), (up, rows, -1)):
        means = np.array([position[place == value].mean() for value in range(12)])
        np.testing.assert_allclose(sign * np.diff(means), 12 / 11, atol=0.25)
    # An ellipse has its long axis in the direction of the rotation, anticlockwise from the vertical.
    for value, angle in enumerate(np.radians(np.linspace(-60, 60, 8))):
        picture = pixels[(shape == 0) & (scale == 3) & (rotation == value) & (right == 5) & (up == 5)][0]
        points = np.argwhere(picture)[:, ::-1] * [1, -1]
        axis = np.linalg.eigh(np.cov(points.T))[1][:, -1]
        assert abs(axis @ [-np.sin(angle), np.cos(angle)]) > 0.98


def test_results_in_the_file_are_not_computed_again(modules, tmp_path, monkeypatch, capsys):
    disentanglement, rows = modules["disentanglement"], []
    common = {"latent_dim": 10, "steps": 20_000, "batch_size": 128, "learning_rate": 1e-3, "examples": 5000}
    for method, weight, values in (("VAE", None, (0.1, 0.3)), ("beta-VAE", 4.0, (0.5, 0.5))):
        for seed, value in enumerate(values):
            scores = dict.fromkeys(disentanglement.SCORES, value)
            rows.append({"method": method, "weight": weight, "seed": seed, **common, **scores, "seconds": 60.4})
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--methods", "VAE", "beta-VAE", "--seeds", "2", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["disentanglement.py", *arguments])
    disentanglement.main()
    assert len(path.read_text().splitlines()) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| method | weight | MIG | D | C | I | SAP |")
    # Two values that differ by 0.2 have the standard error 0.1.
    assert lines[2].startswith("| VAE |  | 0.20 ± 0.10 | 0.20 ± 0.10 |")
    assert lines[3].startswith("| beta-VAE | 4 | 0.50 ± 0.00 |")
    assert lines[3].endswith("| 60 |")


@pytest.mark.slow
def test_a_short_training_is_measured(modules, drawn):
    x, factors = drawn
    setting = {"method": "beta-TCVAE", "weight": 6.0, "seed": 0, "latent_dim": 10, "steps": 20, "batch_size": 128}
    chosen = slice(None, None, 10)
    result = modules["disentanglement"].measure(
        x[chosen].astype("float32"), factors[chosen], {**setting, "learning_rate": 1e-3, "examples": 1000}
    )
    assert set(modules["disentanglement"].SCORES) < set(result)
    assert result["elbo"] < result["log_likelihood"] < 0
    assert setting.items() <= result.items()
