"""How steps of series are judged on two scales."""

import json

import numpy as np

from tfvae.detection import StepDecision


def test_each_scale_counts_in_units_of_its_spread():
    own, around = np.array([0.0, 2.0, np.nan, 0.0, 2.0]), np.array([-10.0, 30.0, np.nan, 30.0, -10.0])
    decision = StepDecision.learn(own, around, contamination=0.25)
    assert (decision.own_scale, decision.around_scale) == (1.0, 20.0)
    scores = decision.score(own, around)
    np.testing.assert_allclose(scores, [-0.5, 3.5, np.nan, 1.5, 1.5])
    assert decision.threshold.rows == 4
    assert np.count_nonzero(scores > decision.threshold.value) == 1
    assert StepDecision(**json.loads(json.dumps(decision.to_dict()))) == decision


def test_what_does_not_vary_has_the_least_spread():
    decision = StepDecision.learn(np.zeros(4), np.full(4, 1e-7), contamination=0.5)
    assert (decision.own_scale, decision.around_scale) == (1e-3, 1e-3)
