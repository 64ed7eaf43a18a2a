"""Calibration, AUC by part, and the examples that are picked."""

import numpy as np
import pytest

from dien_jax.errors import UserError
from dien_jax.metrics.diagnostics import auc_by_size, calibration, pick
from dien_jax.metrics.intervals import delong
from dien_jax.metrics.scores import auc, calibration_error

pytestmark = pytest.mark.fast

LABELS = np.array([0, 1, 1, 0, 1, 0, 0, 1], np.int8)
SCORES = np.array([0.05, 0.1, 0.95, 0.9, 0.55, 0.45, 1.0, 0.0], np.float32)


def test_calibration_counts_every_example_once():
    low, high = calibration(LABELS, SCORES, bins=2)
    assert (low.examples, high.examples) == (4, 4)
    assert (low.low, low.high, high.high) == (0, 0.5, 1)
    assert low.clicks == high.clicks == 0.5
    assert low.score == pytest.approx((0.05 + 0.1 + 0.45 + 0.0) / 4)


def test_equal_counts_see_what_one_wide_bin_hides():
    scores = np.repeat([0.01, 0.05, 0.09], 1000)
    labels = np.zeros(3000, np.int8)
    labels[::20] = 1  # one in twenty of each
    found = calibration(labels, scores)
    assert [part.examples for part in found] == [3000] + 9 * [0]
    assert found[0].score == pytest.approx(found[0].clicks)
    assert found[1].score is None
    assert calibration_error(labels, scores) == pytest.approx(0.08 / 3)


def test_parts_double_and_hold_every_example():
    sizes = np.array([0, 1, 2, 3, 4, 7, 8, 100])
    parts = auc_by_size(LABELS, SCORES, sizes)
    names = ["0", "1", "2-3", "4-7", "8-15", "64-127"]
    assert [part.name for part in parts] == names
    assert [part.examples for part in parts] == [1, 1, 2, 2, 1, 1]
    assert parts[0].auc is None
    assert parts[2].auc == auc(LABELS[2:4], SCORES[2:4])
    assert parts[2].standard_error is None  # one of each label
    wider = auc_by_size(LABELS, SCORES, sizes, 4)
    assert [part.name for part in wider] == ["0", "1-3", "4-15", "64-255"]


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match="1 of 2 scores are not a number"):
        calibration(np.array([0, 1]), np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="must be probabilities, got values from -2"):
        calibration(np.array([0, 1]), np.array([-2.0, 3.0]))
    with pytest.raises(ValueError, match="factor must be at least 2, got 1"):
        auc_by_size(LABELS, SCORES, np.ones(len(LABELS), int), factor=1)


def test_standard_error_of_a_part_is_delongs():
    random = np.random.default_rng(1)
    labels = (random.random(400) < 0.4).astype(np.int8)
    scores = random.random(400) + labels
    [part] = auc_by_size(labels, scores, np.ones(400, int))
    assert part.standard_error == delong(labels, scores, np.zeros(400)).standard_error


def test_picks_are_the_most_wrong_and_the_most_right():
    found = pick(LABELS, SCORES, 2)
    assert found["false alarms"] == [6, 3]
    assert found["misses"] == [7, 1]
    assert found["hits"] == [2, 4]
    assert found["rejections"] == [0, 5]
    assert set(pick(LABELS[:7], SCORES[:7], 2)["typical"]) == {4, 5}  # the fourth loss of seven
    assert pick(LABELS[:1], SCORES[:1], 2)["misses"] == []
