"""The examples run; `digits_against_pca.py`, which the README quotes, and those of clusters are tested elsewhere."""

import re
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_no_example_without_a_test():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "anomalies.py",
        "calibration.py",
        "cluster.py",
        "digits_against_pca.py",
        "eight_schools.py",
        "logistic_regression.py",
        "own_networks.py",
        "ray_cluster.py",
        "semi_supervised.py",
        "text.py",
    }


@pytest.fixture
def run(run_python):
    """Runs an example with arguments, and returns what it printed."""
    code = "import runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return lambda name, *arguments: run_python(code, EXAMPLES / name, *arguments)


# Default tests train, calibrate and export such models.
@pytest.mark.slow
def test_anomalies_are_found_with_their_reasons(run):
    lines = run("anomalies.py").splitlines()
    reasons = [line.split(": ")[2].split()[0] for line in lines if re.match("row [012]:", line)]
    assert reasons == ["channel", "items", "ordered"]
    # One in a hundred of the others is expected to be flagged.
    assert sum(line.startswith("row ") for line in lines) < 12
    assert any(line.startswith("the exported file: ") and line.endswith("anomaly: True") for line in lines)
    assert "the estimator, row 2: ordered" in lines


@pytest.mark.slow
def test_own_networks_learns_the_noise_and_tells_the_data_from_other_data(run):
    scale, held_out, shuffled = (
        float(re.findall(r"-?\d+\.\d+", line)[-1]) for line in run("own_networks.py").splitlines()[-3:]
    )
    # A two-dimensional latent space can represent the circle, so that almost only the noise remains.
    assert 0.09 < scale < 0.13
    assert held_out > shuffled + 50


@pytest.mark.slow
def test_sentences_are_generated_and_an_unusual_one_is_surprising_where_it_is(run):
    lines = run("text.py").splitlines()
    samples = lines[lines.index("samples:") + 1 :][:5]
    is_sentence = re.compile(r"  (the|a) (cat|dog|bird|train|bus|ship) \w+ (in|on|at) [\w ]+")
    assert sum(is_sentence.fullmatch(line) is not None for line in samples) >= 3
    usual, unusual = (float(re.findall(r"ELBO (-[\d.]+)", line)[0]) for line in lines[-2:])
    assert usual > unusual + 2
    assert "after 'the bird " in lines[-1]


# A default test in inference/test_control_variate.py fits such a regression to as many rows.
@pytest.mark.slow
def test_logistic_regression_finds_its_coefficients(run):
    lines = [line.split() for line in run("logistic_regression.py", "--rows", "20000").splitlines()]
    rows = [[float(number) for number in line[1:]] for line in lines if line and line[0].startswith("beta[")]
    assert len(rows) == 10
    means, deviations, truths = (np.array(rows)[:, column] for column in (0, 1, -1))
    # 10 independent standard normal deviates: the sum of their squares exceeds 40 once in 70,000 times.
    assert 1.0 < np.sum(((means - truths) / deviations) ** 2) < 40.0


@pytest.mark.slow
def test_the_digits_without_labels_help_to_classify(run):
    accuracy, alone = (float(line.split()[-1]) for line in run("semi_supervised.py").splitlines()[-2:])
    # On 397 digits; 0.914 against 0.872 was measured.
    assert alone > 0.8
    assert accuracy > alone + 0.02


@pytest.mark.slow
def test_eight_schools_prints_the_effects_of_long_markov_chains(run):
    (line,) = [line for line in run("eight_schools.py").splitlines() if line.startswith("mean effect")]
    effects = [float(number) for number in re.findall(r"-?\d+\.\d+", line)]
    # The means of 10,000 draws in posteriordb (Magnusson et al. 2024), whose standard deviations are about 5.
    expected = [6.15, 4.94, 3.91, 4.80, 3.61, 4.05, 6.32, 4.88]
    np.testing.assert_allclose(effects, expected, atol=0.35)


# A slow test in evaluation/test_calibrating.py says more of the numbers.
@pytest.mark.slow
def test_calibration_prints_a_row_for_each_latent_variable(run):
    lines = run("calibration.py", "--datasets", "3").splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["beta[0]", "beta[1]", "beta[2]"]
    assert "3 data sets" in lines[-5]
