"""Paired comparisons against their definitions, against each other, and where nothing is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dien_jax.metrics import intervals
from dien_jax.metrics.intervals import bootstrap, delong, paired_seeds
from dien_jax.metrics.scores import METRICS, auc

pytestmark = pytest.mark.fast

SCORES = st.sampled_from([0.0, 0.25, 0.5, np.nextafter(0.5, 1), 0.75, 1.0]) | st.floats(
    0, 1, width=32
)
CASES = st.integers(0, 40).flatmap(
    lambda size: st.tuples(
        hnp.arrays(np.int8, size, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, size, elements=SCORES),
        hnp.arrays(np.float64, size, elements=SCORES),
    )
)


def delong_by_pairs(labels, *models):
    """AUCs and their covariance matrix by every pair of a click and another: O(clicks x others)."""
    wins = []
    for scores in models:
        clicks, others = scores[labels == 1][:, None], scores[labels == 0][None, :]
        wins.append((clicks > others) + 0.5 * (clicks == others))
    areas = np.array([each.mean() for each in wins])
    of_clicks = np.cov([each.mean(1) for each in wins]) / wins[0].shape[0]
    of_others = np.cov([each.mean(0) for each in wins]) / wins[0].shape[1]
    return areas, of_clicks + of_others


def drawn(users=400, each=1, effect=0.0):
    """Users of some examples each, whose scores share errors within a user."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(users), each)
    labels = random.integers(0, 2, users * each)
    shared = random.normal(size=users)[groups] * (each > 1)
    noise = random.normal(size=(3, users * each))
    common = labels + noise[0] + shared
    scores, baseline = (
        1 / (1 + np.exp(-(common + strength * labels + noise[1 + k])))
        for k, strength in enumerate((effect, 0.0))
    )
    return labels, scores, baseline, groups


@given(CASES)
def test_delong_is_what_every_pair_gives(case):
    labels, scores, baseline = case
    found = delong(labels, scores, baseline)
    if min((labels == 1).sum(), (labels == 0).sum()) < 2:
        assert found is None
        return
    areas, covariance = delong_by_pairs(labels, scores, baseline)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)


def test_interval_and_p_value_are_the_normal_ones():
    labels, scores, baseline, _ = drawn(effect=0.3)
    found = delong(labels, scores, baseline)
    assert found.value == auc(labels, scores) - auc(labels, baseline)
    assert (found.high - found.low) / found.standard_error / 2 == pytest.approx(1.96, abs=1e-4)
    z = found.value / found.standard_error
    assert found.p_value == pytest.approx(2 * (1 - (1 + math.erf(abs(z) / math.sqrt(2))) / 2))


def test_scores_of_one_order_do_not_differ_at_all():
    labels, scores, _, groups = drawn(users=100, each=3)
    assert delong(labels, scores, scores) == (0, 0, 0, 0, 1)
    assert delong(labels, scores, scores**3).standard_error == 0
    for found in bootstrap(labels, scores, scores, groups, resamples=20).values():
        assert found == (0, 0, 0, 0, None)


@pytest.mark.long
def test_bootstrap_of_users_with_one_example_each_agrees_with_delong():
    labels, scores, baseline, groups = drawn(effect=0.4)
    exact = delong(labels, scores, baseline)
    found = bootstrap(labels, scores, baseline, groups, resamples=1000)
    # A deviation over 1000 draws is off by 1/sqrt(2000), 2.2%, and the two methods differ by
    # O(1/n); the ends of an interval of percentiles by .08 standard errors. Four times that.
    assert found["auc"].value == exact.value
    assert found["auc"].standard_error == pytest.approx(exact.standard_error, rel=0.1)
    assert found["auc"].low == pytest.approx(exact.low, abs=0.33 * exact.standard_error)
    assert found["auc"].high == pytest.approx(exact.high, abs=0.33 * exact.standard_error)
    assert found["gauc"] is None  # one example has no order


def test_a_resample_is_the_metric_of_its_users_examples(monkeypatch):
    labels, scores, baseline, groups = drawn(users=12, each=4)
    scores, baseline = scores.round(1), baseline.round(1)  # ties
    seen = []
    monkeypatch.setattr(intervals, "_percentiles", lambda value, drawn: seen.append(drawn))
    known = np.arange(len(labels)) % 5 > 0
    bootstrap(labels, scores, baseline, groups + 7, known=known, resamples=3, seed=5)
    random = np.random.default_rng(5)
    for number in range(3):
        users = random.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(groups == user) for user in users])
        own = np.repeat(np.arange(12), 4)
        found = [values[number] for values in seen]
        pairs = [
            [metric(labels[rows], each[rows], own, known[rows]) for each in (scores, baseline)]
            for metric in METRICS.values()
        ]
        assert found == pytest.approx([first - second for first, second in pairs], abs=1e-12)


def test_bootstrap_tells_only_what_is_defined():
    labels, scores, baseline, groups = drawn(users=30, each=2)
    one_label = bootstrap(np.ones_like(labels), scores, baseline, groups, resamples=10)
    assert (one_label["auc"], one_label["gauc"]) == (None, None)
    assert one_label["logloss"].standard_error > 0
    unknown = np.zeros(len(labels), bool)
    all_unknown = bootstrap(labels, scores, baseline, groups, known=unknown, resamples=10)
    assert all_unknown["auc_known"] is None
    assert all_unknown["auc"].standard_error > 0
    one_user = bootstrap(labels, scores, baseline, np.zeros_like(groups), resamples=10)
    assert list(one_user.values()) == [None] * len(METRICS)
    nobody = bootstrap(*[np.zeros(0, int)] * 4, resamples=10)
    assert list(nobody.values()) == [None] * len(METRICS)


def test_bootstrap_leaves_out_resamples_without_the_metric():
    # The one user with a click is missing from (1 - 1/5)^5 = 33% of the resamples.
    labels = np.array([1, 0, 0, 0, 0])
    scores, baseline = np.linspace(0.9, 0.1, 5), np.linspace(0.1, 0.9, 5)
    found = bootstrap(labels, scores, baseline, np.arange(5), resamples=100)
    assert (found["auc"].value, found["auc"].low, found["auc"].high) == (1, 1, 1)


def test_seeds_are_compared_by_students_t():
    # By hand: differences 1, 2, 3; mean 2, deviation 1; t of 2 degrees at 97.5% is 4.302653.
    found = paired_seeds([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    margin = 4.302653 / math.sqrt(3)
    assert found[:4] == pytest.approx((2, 1 / math.sqrt(3), 2 - margin, 2 + margin), abs=1e-6)
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert paired_seeds([0.5, 0.6], [0.5, 0.6]) == (0, 0, 0, 0, 1)
    assert paired_seeds([1.0], [0.5]) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: bootstrap(a, a, a, np.zeros(3)), "groups must have shape"),
        (lambda a: bootstrap(a, a, a, a, resamples=0), "resamples must be at least 1, got 0"),
        (lambda a: paired_seeds([1.0], [1.0, 2.0]), "one length"),
        (lambda a: paired_seeds([1.0, math.nan], [1.0, 2.0]), "finite"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([0, 1, 1, 0]))
