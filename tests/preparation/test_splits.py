"""Splits: which events are examples of which split, and that none of them looks ahead."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_logs import LOG, refused, write

from dien_jax.data.metadata import SPLITS
from dien_jax.data.value_text import Clock
from dien_jax.preparation.options import ImplicitOptions
from dien_jax.preparation.pipeline.splits import (
    TRAIN,
    Borders,
    EventPart,
    Split,
    borders_by_share,
    history_ends,
)

pytestmark = pytest.mark.fast


def log_of(*sequences: Any, label: Any = None) -> EventPart:
    """The log of users with events at some times."""
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    time = np.array([time for times in sequences for time in sorted(times)], np.int64)
    return EventPart(0, 0, np.zeros(len(time), np.int32), time, label, offsets)


TIMES = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=8)
LOGS = TIMES.map(lambda times: log_of(*times))


@st.composite
def impressions(draw) -> EventPart:
    log = draw(LOGS)
    rows = len(log.item)
    label = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    return log._replace(label=np.array(label, np.int8))


def split_of(log: EventPart, policy: str, **settings: Any) -> Split:
    """The split of a log that is one part."""
    events: Any = SimpleNamespace(
        item=log.item,
        label=log.label,
        offsets=log.offsets,
        num_users=len(log.offsets) - 1,
        clock=Clock(False, "seconds"),
        times=(0, 6),
        times_at=lambda _, places: np.sort(log.timestamp)[places].tolist(),
    )
    workspace: Any = None
    options = ImplicitOptions(out=Path("data"), split=policy, **settings)
    return Split(workspace, options, events)


def targets_of(log: EventPart, policy: str, **settings: Any) -> dict[str, list[int]]:
    """The examples of each split."""
    sides = split_of(log, policy, **settings).sides(log)
    return {name: np.flatnonzero(sides == side).tolist() for side, name in enumerate(SPLITS)}


POLICIES = st.sampled_from(
    [("last-event", {})]
    + [
        (policy, {"valid_share": valid, "test_share": test, "seed": seed})
        for policy in ("by-user", "by-time")
        for valid, test in ((0.1, 0.1), (0.3, 0.3), (0.0, 0.5))
        for seed in range(2)
    ]
)


@given(LOGS, POLICIES)
def test_every_example_has_a_history_and_its_own_place(log, policy):
    targets = np.concatenate([*targets_of(log, policy[0], **policy[1]).values()]).astype(int)
    assert len(np.unique(targets)) == len(targets)
    assert not set(targets) & set(log.offsets[:-1].tolist()), "first events have no history"
    assert history_ends(log).tolist() == list(range(len(log.item)))


@given(LOGS, st.integers(0, 7), st.integers(0, 7))
def test_by_time_never_puts_an_event_of_a_later_side_into_a_history(log, first, second):
    valid, test = sorted((first, second))
    found = targets_of(log, "by-time", valid_from=str(valid), test_from=str(test))
    times = {name: log.timestamp[targets] for name, targets in found.items()}
    assert (times["train"] < valid).all()
    assert ((valid <= times["valid"]) & (times["valid"] < test)).all()
    assert (times["test"] >= test).all()
    examples = sum(len(events) for events in found.values())
    assert examples == sum(length - 1 for length in np.diff(log.offsets))


@given(LOGS)
def test_last_event_never_trains_on_a_users_last_two_events(log):
    seen = split_of(log, "last-event").marks(log).seen
    for start, end in pairwise(log.offsets):
        assert not seen[max(start, end - 2) : end].any()
        if end - start >= 4:
            assert seen[start : end - 2].all()


@given(impressions())
def test_impression_histories_hold_exactly_the_clicks_strictly_before(log):
    ends, clicks = history_ends(log), np.flatnonzero(log.label)
    first_click = np.append(0, np.cumsum(log.label))[log.offsets]
    for sequence, (start, end) in enumerate(pairwise(log.offsets)):
        for row in range(start, end):
            seen = clicks[first_click[sequence] : ends[row]].tolist()
            before = log.timestamp < log.timestamp[row]
            assert seen == [c for c in clicks if start <= c < end and before[c]]


@given(impressions())
def test_last_time_keeps_the_rows_of_one_request_together(log):
    sides = split_of(log, "last-event").sides(log)
    for start, end in pairwise(log.offsets):
        times = sorted(set(log.timestamp[start:end].tolist()))
        for row in range(start, end):
            from_end = len(times) - 1 - times.index(log.timestamp[row])
            assert sides[row] == max(2 - from_end, 0)


def test_last_event_gives_short_users_the_later_splits_first():
    log = log_of([1], [1, 2], [1, 2, 3], [1, 2, 3, 4])
    expected = {"train": [7], "valid": [4, 8], "test": [2, 5, 9]}
    assert targets_of(log, "last-event") == expected


def test_by_user_splits_users_by_the_given_shares_and_only_those_with_a_history():
    log = log_of(*([[1, 2, 3]] * 10), *([[1]] * 5))
    found = targets_of(log, "by-user", valid_share=0.2, test_share=0.3)
    assert [len(events) for events in found.values()] == [10, 2, 3]


@given(LOGS, st.integers(0, 3))
def test_by_user_trains_on_all_events_of_some_users_and_on_none_of_the_others(log, seed):
    settings = {"valid_share": 0.3, "test_share": 0.3, "seed": seed}
    found = targets_of(log, "by-user", **settings)
    held_out = np.array([*found["valid"], *found["test"]], int)
    others = log.sequence[held_out]
    assert held_out.tolist() == (log.offsets[others + 1] - 1).tolist()
    seen = split_of(log, "by-user", **settings).marks(log).seen
    examples = []
    for sequence, (start, end) in enumerate(pairwise(log.offsets)):
        is_used = end - start > 1 and sequence not in others
        assert (seen[start:end] == is_used).all()
        examples += range(start + 1, end) if is_used else []
    assert found["train"] == examples


@given(LOGS, POLICIES, st.integers(1, 3))
def test_the_latest_examples_are_the_last_ones_of_each_user(log, policy, most):
    name, settings = policy
    kept = targets_of(log, name, **settings, max_examples=most)
    every = targets_of(log, name, **settings)
    expected = []
    for start, end in pairwise(log.offsets):
        expected += [event for event in every["train"] if start <= event < end][-most:]
    assert kept == every | {"train": expected}
    past = (split_of(log, name, **settings | more).marks(log).past
            for more in ({}, {"max_examples": most}))  # fmt: skip
    np.testing.assert_array_equal(*past)


@given(LOGS, st.integers(0, 6))
def test_training_begins_at_its_time(log, begin):
    borders = {"valid_from": "7", "test_from": "7"}
    late = split_of(log, "by-time", **borders, train_from=str(begin))
    whole = split_of(log, "by-time", **borders)
    is_late = log.timestamp >= begin
    assert ((late.sides(log) == TRAIN) == (whole.sides(log) == TRAIN) & is_late).all()
    np.testing.assert_array_equal(late.marks(log).past, whole.marks(log).past)


def test_by_user_draws_the_same_users_for_the_same_seed_and_others_for_another():
    log, shares = log_of(*([[1, 2]] * 100)), {"valid_share": 0.2, "test_share": 0.2}
    drawn = [targets_of(log, "by-user", **shares, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_time_borders_leave_the_last_shares_and_keep_ties_on_the_later_side():
    def borders_of(times: list[int], valid_share: float, test_share: float) -> Borders:
        shares = {"valid_share": valid_share, "test_share": test_share}
        return borders_by_share(10, lambda places: [times[place] for place in places], **shares)

    even, tied = list(range(10)), [1, 2, 3, 4, 5, 6, 7, 7, 7, 9]
    assert borders_of(even, 0.2, 0.1) == (7, 9)
    assert borders_of(tied, 0.2, 0.2) == (7, 7)
    assert borders_of(even, 0.0, 0.0) == (10, 10)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"test_from": "102"}, "--test-from must not be before --valid-from, got 102 < 103"),
        ({"train_from": "103"}, "--train-from must be before validation, which starts at 103, got"),
        ({"train_from": "soon"}, "--train-from must be a whole number or an ISO date"),
    ],
)
def test_times_in_the_wrong_order_are_refused(tmp_path, times, message):
    borders = {"valid_from": "103", "test_from": "104"} | times
    refused(write(tmp_path, LOG), message, split="by-time", **borders)
