"""Splits: which events are examples of which split, and that none of them looks ahead."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_logs import LOG, refused, write

from dien_jax.data.metadata import SPLITS
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.splits import Borders, borders_by_share

pytestmark = pytest.mark.fast


@st.composite
def logs(draw):
    """Timestamps grouped by sequence, with many ties, and the sequences' offsets."""
    sequences = draw(st.lists(st.lists(st.integers(0, 6), max_size=8), max_size=8))
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    timestamp = np.array([t for times in sequences for t in sorted(times)], np.int64)
    return timestamp, offsets


def arrays(*sequences):
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    return np.array([t for times in sequences for t in times], np.int64), offsets


def borders_of(timestamp, **shares):
    def times_at(places):
        return np.sort(timestamp)[places].tolist()

    return borders_by_share(len(timestamp), times_at, **shares)


def by_user(offsets, **shares):
    return targets(splits.by_user(offsets, splits.sides_of_able_users(offsets, **shares)))


def targets(sides):
    """Return the events of each split."""
    return {name: np.flatnonzero(sides == side) for side, name in enumerate(SPLITS)}


def history(target, offsets):
    start = offsets[splits.sequence_of(np.array([target]), offsets)[0]]
    return np.arange(start, target)


def as_lists(targets):
    return {name: events.tolist() for name, events in targets.items()}


@given(logs(), st.integers(0, 3), st.sampled_from([(0.1, 0.1), (0.3, 0.3), (0.0, 0.5)]))
def test_no_history_holds_an_event_later_than_its_target(log, seed, shares):
    timestamp, offsets = log
    valid_share, test_share = shares
    borders = Borders(0, 0)  # of no event; load_events refuses such a log
    if len(timestamp):
        borders = borders_of(timestamp, valid_share=valid_share, test_share=test_share)
    policies = (
        by_user(offsets, valid_share=valid_share, test_share=test_share, seed=seed),
        targets(splits.last_event(offsets)),
        targets(splits.by_time(timestamp, offsets, borders)),
    )
    for policy in policies:
        events = np.concatenate([policy[name] for name in SPLITS])
        assert len(np.unique(events)) == len(events)
        for target in events:
            before = history(target, offsets)
            assert len(before) >= 1
            assert (timestamp[before] <= timestamp[target]).all()


@given(logs(), st.integers(0, 7), st.integers(0, 7))
def test_by_time_never_puts_an_event_of_a_later_side_into_a_history(log, first, second):
    timestamp, offsets = log
    borders = Borders(min(first, second), max(first, second))
    policy = targets(splits.by_time(timestamp, offsets, borders))
    for split, border in (("train", borders.valid), ("valid", borders.test)):
        for target in policy[split]:
            assert timestamp[target] < border
            assert (timestamp[history(target, offsets)] < border).all()
    assert (timestamp[policy["valid"]] >= borders.valid).all()
    assert (timestamp[policy["test"]] >= borders.test).all()
    examples = sum(len(events) for events in policy.values())
    assert examples == sum(max(length - 1, 0) for length in np.diff(offsets))


@given(logs())
def test_last_event_never_trains_on_a_users_last_two_events(log):
    _, offsets = log
    trained = splits.training_events(splits.last_event(offsets) == splits.TRAIN, offsets)
    for start, end in pairwise(offsets):
        assert not trained[max(start, end - 2) : end].any()
        if end - start >= 4:
            assert trained[start : end - 2].all()


@given(logs(), st.data())
def test_impression_histories_hold_exactly_the_clicks_strictly_before(log, data):
    timestamp, offsets = log
    rows = len(timestamp)
    label = np.array(data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)), np.int8)
    ends = splits.click_histories(timestamp, label, offsets)
    clicks = np.flatnonzero(label)
    click_offsets = np.concatenate([[0], np.cumsum(label)])[offsets]
    for sequence, (start, end) in enumerate(pairwise(offsets)):
        for row in range(start, end):
            seen = clicks[click_offsets[sequence] : ends[row]]
            expected = [c for c in clicks if start <= c < end and timestamp[c] < timestamp[row]]
            assert seen.tolist() == expected


@given(logs())
def test_last_time_keeps_the_rows_of_one_request_together(log):
    timestamp, offsets = log
    kept = np.append(0, offsets[1:][np.diff(offsets) > 0])  # no part has a user without a row
    sides = splits.last_time_sides(timestamp, kept)
    for start, end in pairwise(offsets):
        times = sorted(set(timestamp[start:end].tolist()))
        for row in range(start, end):
            from_end = len(times) - 1 - times.index(timestamp[row])
            assert sides[row] == max(2 - from_end, 0)


def test_last_event_gives_short_users_the_later_splits_first():
    _, offsets = arrays([1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [])
    expected = {"train": [7], "valid": [4, 8], "test": [2, 5, 9]}
    assert as_lists(targets(splits.last_event(offsets))) == expected


def test_by_user_splits_users_by_the_given_shares_and_only_those_with_a_history():
    _, offsets = arrays(*([[1, 2, 3]] * 10), *([[1]] * 5))
    policy = by_user(offsets, valid_share=0.2, test_share=0.3, seed=0)
    sizes = {name: len(events) for name, events in policy.items()}
    assert sizes == {"train": 10, "valid": 2, "test": 3}


@given(logs(), st.integers(0, 3))
def test_by_user_trains_on_all_events_of_some_users_and_on_none_of_the_others(log, seed):
    _, offsets = log
    policy = by_user(offsets, valid_share=0.3, test_share=0.3, seed=seed)
    held_out = np.concatenate([policy["valid"], policy["test"]])
    others = splits.sequence_of(held_out, offsets)
    assert held_out.tolist() == (offsets[others + 1] - 1).tolist()
    trained = splits.training_events(np.isin(np.arange(offsets[-1]), policy["train"]), offsets)
    examples = []
    for sequence, (start, end) in enumerate(pairwise(offsets)):
        is_used = end - start > 1 and sequence not in others
        assert (trained[start:end] == is_used).all()
        examples += range(start + 1, end) if is_used else []
    assert policy["train"].tolist() == examples


@given(logs(), st.integers(1, 3))
def test_the_latest_targets_are_the_last_ones_of_each_sequence(log, most):
    _, offsets = log
    trained = np.flatnonzero(splits.last_event(offsets) == splits.TRAIN)
    kept = splits.latest(trained, offsets, most).tolist()
    expected = []
    for start, end in pairwise(offsets):
        expected += [event for event in trained.tolist() if start <= event < end][-most:]
    assert kept == expected


def test_by_user_draws_the_same_users_for_the_same_seed_and_others_for_another():
    _, offsets = arrays(*([[1, 2]] * 100))
    drawn = [
        as_lists(by_user(offsets, valid_share=0.2, test_share=0.2, seed=seed)) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_time_borders_leave_the_last_shares_and_keep_ties_on_the_later_side():
    even = np.arange(10, dtype=np.int64)
    assert borders_of(even, valid_share=0.2, test_share=0.1) == (7, 9)
    tied = np.array([1, 2, 3, 4, 5, 6, 7, 7, 7, 9], np.int64)
    assert borders_of(tied, valid_share=0.2, test_share=0.2) == (7, 7)
    assert borders_of(even, valid_share=0.0, test_share=0.0) == (10, 10)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"test_from": "102"}, "--test-from must not be before --valid-from, got 102 < 103"),
        ({"train_from": "103"}, "--train-from must be before validation, which starts at 103, got"),
        ({"train_from": "soon"}, "--train-from must be a whole number or an ISO date"),
    ],
)
def test_times_in_the_wrong_order_are_refused(tmp_path, times, message):
    refused(
        write(tmp_path, LOG),
        message,
        split="by-time",
        **{"valid_from": "103", "test_from": "104"} | times,
    )
