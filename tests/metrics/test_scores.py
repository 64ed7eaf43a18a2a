"""Metrics against their definitions, spelled out pair by pair and example by example."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dien_jax.errors import UserError
from dien_jax.metrics.scores import (
    LOGLOSS_EPSILON,
    METRICS,
    auc,
    calibration_error,
    evaluate_scores,
    gauc,
    logloss,
    normalised_entropy,
)

pytestmark = pytest.mark.fast

PROBABILITIES = ("logloss", "normalised_entropy", "calibration_error")
"""Metrics that refuse scores outside [0, 1]."""

# Few distinct scores, so that ties are common; extremes, so that ranking is all that counts.
SCORES = st.sampled_from([0.0, -0.0, 0.25, 0.5, np.nextafter(0.5, 1), 0.75, 1.0])
ANY_SCORES = SCORES | st.floats(allow_nan=False, width=32)


def arrays(scores=ANY_SCORES):
    return st.integers(0, 60).flatmap(
        lambda size: st.tuples(
            hnp.arrays(np.int8, size, elements=st.integers(0, 1)),
            hnp.arrays(np.float64, size, elements=scores),
            hnp.arrays(np.int32, size, elements=st.integers(-2, 5)),
        )
    )


def auc_by_pairs(labels, scores):
    clicks, others = scores[labels == 1], scores[labels == 0]
    if not clicks.size or not others.size:
        return None
    wins = (clicks[:, None] > others[None, :]).sum()
    ties = (clicks[:, None] == others[None, :]).sum()
    return (2 * int(wins) + int(ties)) / (2 * clicks.size * others.size)


@given(arrays())
def test_auc_is_the_share_of_pairs_in_order_with_ties_halved(case):
    labels, scores, _ = case
    assert auc(labels, scores) == auc_by_pairs(labels, scores)


@given(arrays())
def test_gauc_is_the_weighted_mean_of_the_users_aucs(case):
    labels, scores, groups = case
    total, weight, left_out = 0.0, 0, 0
    for group in set(groups.tolist()):
        own = groups == group
        value = auc_by_pairs(labels[own], scores[own])
        if value is None:
            left_out += 1
        else:
            total += value * int(own.sum())
            weight += int(own.sum())
    result = gauc(labels, scores, groups)
    assert result.left_out == left_out
    assert result.users == len(set(groups.tolist())) - left_out
    if weight:
        assert result.value == pytest.approx(total / weight, abs=1e-12)
    else:
        assert result.value is None


@given(arrays(SCORES))
def test_logloss_is_the_mean_over_examples(case):
    labels, scores, _ = case
    if not labels.size:
        assert logloss(labels, scores) is None
        return
    losses = []
    for label, score in zip(labels.tolist(), scores.tolist(), strict=True):
        probability = min(max(score, LOGLOSS_EPSILON), 1 - LOGLOSS_EPSILON)
        losses.append(-math.log(probability if label else 1 - probability))
    assert logloss(labels, scores) == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_auc_is_exact_where_pairs_exceed_what_float32_counts():
    size = 200_000
    labels = np.zeros(size, np.int8)
    labels[size // 2 :] = 1
    scores = np.arange(size, dtype=np.float32)
    scores[[0, -1]] = scores[[-1, 0]]  # one click below all, one other example above all
    pairs = (size // 2) ** 2
    assert auc(labels, scores) == (pairs - (size - 1)) / pairs


def test_evaluate_scores_names_every_metric():
    labels = np.array([1, 0, 1, 0, 1])
    scores = np.array([0.9, 0.1, 0.4, 0.6, 0.7], np.float32)
    result = evaluate_scores(labels, scores, np.array([3, 3, 5, 5, 7]))
    assert result == {
        "auc": 5 / 6,
        "auc_known": 5 / 6,
        "gauc": 0.5,
        "logloss": logloss(labels, scores),
        "normalised_entropy": normalised_entropy(labels, scores),
        "calibration_error": calibration_error(labels, scores),
        "examples": 5,
        "gauc_users": 2,
        "gauc_left_out": 1,
    }


def test_table_of_metrics_says_what_each_entry_is():
    labels, groups = np.array([1, 0, 1, 0]), np.array([1, 1, 2, 2])
    right, wrong = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.6, 0.4, 0.1, 0.9])
    for name, metric in METRICS.items():
        assert metric.name == name
        assert (metric(labels, right, groups) > metric(labels, wrong, groups)) == (
            metric.higher_is_better
        )
        if name in PROBABILITIES:
            with pytest.raises(ValueError, match="probabilities"):
                metric(labels, 10 * right, groups)
        else:
            assert metric(labels, 10 * right, groups) == metric(labels, right, groups)


def test_auc_of_known_candidates_leaves_out_the_others():
    labels, users = np.array([1, 0, 1, 0]), np.zeros(4, int)
    scores = np.array([0.9, 0.2, 0.1, 0.3])
    known = np.array([True, True, False, True])
    result = evaluate_scores(labels, scores, users, known)
    assert (result["auc"], result["auc_known"]) == (0.5, 1.0)
    assert evaluate_scores(labels, scores, users, labels == 1)["auc_known"] is None


def test_normalised_entropy_is_the_log_loss_as_a_share_of_that_of_the_click_share():
    labels = np.array([1, 0, 0, 0, 0])
    scores = np.array([0.5, 0.1, 0.3, 0.2, 0.1])
    constant = logloss(labels, np.full(5, 0.2))
    assert normalised_entropy(labels, scores) == pytest.approx(logloss(labels, scores) / constant)
    assert normalised_entropy(labels, np.full(5, 0.2)) == pytest.approx(1)
    assert normalised_entropy(np.ones(3), np.full(3, 0.5)) is None


def test_calibration_error_is_the_mean_gap_of_bins_of_equal_counts():
    labels = np.array([0, 1, 0, 1, 1, 1])
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.6, 0.7])
    # In the order of scores, bins of .1 .2 .3 and .6 .7 .9, with clicks 1 0 1 and 1 1 0.
    gaps = abs(0.2 - 2 / 3), abs(2.2 / 3 - 2 / 3)
    assert calibration_error(labels, scores, bins=2) == pytest.approx(np.mean(gaps))


def test_calibration_error_does_not_depend_on_the_order_of_equal_scores():
    labels = np.repeat([1, 0], 100)
    assert calibration_error(labels, np.full(200, 0.5)) == 0
    assert calibration_error(labels, np.full(200, 0.8)) == pytest.approx(0.3)


def test_evaluate_scores_of_no_examples_is_none_not_nan():
    empty = np.zeros(0)
    result = evaluate_scores(empty, empty, empty)
    assert result["examples"] == 0
    assert [result[name] for name in METRICS] == [None] * len(METRICS)


def test_nan_score_is_refused_with_its_position():
    with pytest.raises(UserError, match=r"1 of 3 scores .* the first that of example 1"):
        auc(np.array([0, 1, 1]), np.array([0.5, np.nan, 0.5]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1"),
        ([0, 1], [0.1], "one length"),
        ([[0, 1]], [[0.1, 0.2]], r"\[n\]"),
    ],
)
def test_wrong_arguments_are_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        auc(np.array(labels), np.array(scores))
