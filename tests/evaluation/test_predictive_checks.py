"""Posterior predictive checks against closed forms, in every form of model."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tests.inference.test_arviz_groups import PRIOR, predictive, with_q
from tests.inference.test_variational_inference import JOINTS, MEAN, NAMED, SD, Y, log_joint
from tfvae import VariationalInference
from tfvae.evaluation import PredictiveCheck, predictive_check

tfd = tfp.distributions


@pytest.fixture(scope="module")
def found():
    # The weights correct q, whose mean is half a standard deviation off.
    inference = with_q(JOINTS["named"].experimental_pin(y=Y), shift=0.5, factor=1.2)
    return predictive_check(inference, {"mean": np.mean, "half": lambda y: [y[0], y[1]]}, 4000)


def test_p_values_are_those_of_the_closed_form(found):
    exact = stats.norm.sf(Y.astype(float).mean(), MEAN, np.sqrt(SD**2 + 4 / 12))
    assert found.p_values["mean"] == pytest.approx(exact, abs=0.04)
    assert list(found.observed) == ["mean", "half[0]", "half[1]"]
    assert found.p_values["half[1]"] == pytest.approx(stats.norm.sf(Y[1], MEAN, np.sqrt(SD**2 + 4)), abs=0.04)


def test_the_table_is_of_the_replications(found):
    table = found.summary()
    assert list(table.columns) == ["observed", "mean", "sd", "5%", "95%", "p_value"]
    assert table.loc["mean", "observed"] == pytest.approx(Y.mean())
    assert table.loc["mean", "mean"] == pytest.approx(MEAN, abs=0.1)
    assert table.loc["mean", "sd"] == pytest.approx(np.sqrt(SD**2 + 4 / 12), rel=0.06)
    assert table.loc["mean", "95%"] == np.quantile(found.replicated["mean"], 0.95)
    assert repr(found).startswith("PredictiveCheck(mean: p=0.")


def test_equal_statistics_count_as_half():
    found = PredictiveCheck({"n": 1.0}, {"n": np.array([0.0, 1.0, 1.0, 2.0, 3.0])})
    assert found.p_values == {"n": pytest.approx(0.6)}


def test_a_function_with_predictive_and_the_statistics_by_default():
    inference = with_q(log_joint, latents=PRIOR, predictive=predictive)
    found = predictive_check(inference, num_samples=300, x=Y)
    assert list(found.observed) == ["mean", "sd", "min", "max"]
    assert found.observed["max"] == Y.max()
    assert found.replicated["mean"].std() == pytest.approx(np.sqrt(SD**2 + 4 / 12), rel=0.2)


def test_several_pinned_variables_come_by_name():
    joint = tfd.JointDistributionNamed({**NAMED, "w": lambda mu: tfd.Normal(mu, 1.0)})
    inference = with_q(joint.experimental_pin(y=Y, w=0.5))
    found = predictive_check(inference, {"distance": lambda data: data["y"].mean() - data["w"]}, 50)
    assert found.observed["distance"] == pytest.approx(Y.mean() - 0.5)
    assert found.replicated["distance"].shape == (50,)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ([np.mean], r"`statistics` must be a dictionary of functions. Received: "),
        ({}, r"`statistics` must be a dictionary of functions. Received: {}"),
        ({"a": lambda y: "high"}, r"`statistics\['a'\]` must return finite numbers for a data set. Received: "),
        ({"a": lambda y: y[y > Y.mean()]}, r"`statistics\['a'\]` must return as many numbers for each data set"),
        ({"a": lambda y: np.log(tf.zeros(()))}, r"`statistics\['a'\]` must return finite numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_statistics_are_refused(statistics, message):
    inference = with_q(JOINTS["named"].experimental_pin(y=Y))
    with pytest.raises(ValueError, match=message):
        predictive_check(inference, statistics, 30)


def test_a_model_that_is_not_fitted_is_refused():
    with pytest.raises(ValueError, match=r"^Fit the model before `predictive_check\(\)`"):
        predictive_check(VariationalInference(JOINTS["named"].experimental_pin(y=Y)))


def test_what_has_no_replications_is_refused():
    with pytest.raises(ValueError, match=r"`predictive` must be given .* Received: predictive=None"):
        predictive_check(VariationalInference(log_joint, PRIOR), x=Y)
    with pytest.raises(ValueError, match=r"The data must be an array y, or x where there is no y, .*Received: {'y'"):
        predictive_check(VariationalInference(log_joint, PRIOR, predictive=predictive), x={"y": Y})
    with pytest.raises(ValueError, match=r"`inference` must be a tfvae.VariationalInference. Received: 3"):
        predictive_check(3)
