"""Thresholds against closed forms and SciPy, and the rates that they hold on new data."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from tfvae.detection import Threshold, threshold

# Random numbers with a seed of their own for each test.
RNG = np.random.default_rng


def test_contamination_is_the_quantile_above_which_that_share_lies():
    scores = RNG(0).permutation(1000).astype(np.float32)
    found = threshold(scores, contamination=0.05)
    assert np.count_nonzero(scores > found.value) == 50
    assert found == Threshold(found.value, "contamination", 0.05, 1000)


@pytest.mark.parametrize(("rows", "rate", "rank"), [(99, 0.05, 95), (19, 0.05, 19), (500, 0.01, 496), (9, 0.5, 5)])
def test_a_false_alarm_rate_takes_the_conformal_rank(rows, rate, rank):
    assert threshold(RNG(0).permutation(rows) + 1.0, false_alarm_rate=rate).value == rank


@pytest.mark.parametrize(("rows", "rate"), [(99, 0.05), (50, 0.02), (19, 0.05)])
def test_a_false_alarm_rate_holds_on_new_data(rows, rate):
    values = [threshold(scores, false_alarm_rate=rate).value for scores in RNG(0).exponential(size=(4000, rows))]
    # The share of new data above each threshold. For scores without ties its mean is (n + 1 - rank) / (n + 1).
    shares = np.exp(-np.array(values))
    rank = math.ceil((rows + 1) * (1 - rate) - 1e-9)
    assert 1 - rank / (rows + 1) <= rate + 1e-12
    assert shares.mean() == pytest.approx(1 - rank / (rows + 1), abs=4 * shares.std() / len(shares) ** 0.5)


@pytest.mark.parametrize("tail", [scipy.stats.expon(), scipy.stats.pareto(4)], ids=["exponential", "Pareto"])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_a_tail_gives_the_quantile_of_the_distribution(tail, size):
    rows, rate, samples = 20_000, 1e-5, 40
    values = [threshold(size * tail.rvs(rows, random_state=s), tail=rate).value / size for s in range(samples)]
    spread, exact = np.std(values), tail.isf(rate)
    error = 4 * spread / math.sqrt(samples)
    # Half of the exponential samples seem to have a lighter tail than an exponential one, which they then get. Of an
    # error that is normal but for this, the mean is 0.69 standard deviations.
    bias = 0.69 * spread if tail.dist.name == "expon" else 0.0
    assert exact - error < np.mean(values) < exact + bias + error
    assert spread < 0.3 * exact


def test_a_tail_is_the_fit_of_scipy():
    scores = scipy.stats.t(3).rvs(2000, random_state=0)
    number = int(3 * math.sqrt(2000))
    start = np.sort(scores)[-number - 1]
    above = scores[scores > start] - start
    shape, _, scale = scipy.stats.genpareto.fit(above, floc=0)
    expected = start + scale / shape * ((1e-4 * len(scores) / number) ** -shape - 1)
    assert shape > 0
    assert threshold(scores, tail=1e-4).value == pytest.approx(expected, rel=1e-3)


def test_a_tail_without_an_end_is_assumed():
    scores = RNG(0).uniform(size=2000)
    number = int(3 * math.sqrt(2000))
    start = np.sort(scores)[-number - 1]
    above = scores[scores > start] - start
    # The quantile of an exponential tail.
    expected = start + above.mean() * math.log(number / 2000 / 1e-4)
    assert threshold(scores, tail=1e-4).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "given", "needed"),
    [
        (50, {"contamination": 0.01}, 100),
        (50, {"false_alarm_rate": 0.01}, 99),
        (100, {"tail": 1e-2}, 200),
        (500, {"tail": 1e-4}, 1000),
    ],
)
def test_too_few_rows_warn_of_how_many_are_needed(rows, given, needed):
    ((name, rate),) = given.items()
    with pytest.warns(UserWarning, match=rf"^`{name}` of {rate:g} needs at least {needed} rows. Received: {rows} rows"):
        found = threshold(RNG(0).exponential(size=rows), **given)
    # What is said is what holds.
    assert found.rate == (pytest.approx(1 / (rows + 1)) if name == "false_alarm_rate" else rate)
    threshold(RNG(0).exponential(size=needed), **given)


@pytest.mark.parametrize(
    ("scores", "given", "message"),
    [
        ([1.0, 2.0], {}, "^Exactly one of `contamination`, `false_alarm_rate`, `tail` must be given"),
        ([1.0, 2.0], {"contamination": 0.1, "tail": 0.1}, "^Exactly one of .*Received: contamination=0.1"),
        ([1.0, 2.0], {"contamination": 0}, "^`contamination` must be between 0 and 1, both excluded. Received"),
        ([1.0, 2.0], {"tail": 1.0}, "^`tail` must be between 0 and 1"),
        ([1.0, 2.0], {"false_alarm_rate": "1%"}, "^`false_alarm_rate` must be a finite number"),
        ([[1.0], [2.0]], {"contamination": 0.1}, r"^`scores` must have the shape \[N\]"),
        ([1.0, np.nan], {"contamination": 0.1}, "^`scores` must be finite"),
        ([], {"contamination": 0.1}, "^`scores` must "),
        (np.ones(1000), {"tail": 1e-3}, "^`scores` must have at least 5 different values in their upper tail"),
        (np.arange(1000), {"tail": 0.2}, "^`tail` must be below the share of the scores that are in their tail"),
    ],
)
def test_invalid_arguments_are_refused(scores, given, message):
    with pytest.raises(ValueError, match=message):
        threshold(np.asarray(scores), **given)


def test_a_threshold_is_ready_for_json():
    found = threshold(np.arange(100.0), contamination=0.1)
    assert Threshold(**json.loads(json.dumps(found.to_dict()))) == found
