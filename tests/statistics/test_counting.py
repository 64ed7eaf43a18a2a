"""Counts of training events, against a count in plain Python that removes what is later."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from scipy import sparse
from support.random_log import random_log

from dien_jax.data.arrays import sort_together
from dien_jax.data.tables import OWN_PAIR, OWN_VALUE
from dien_jax.statistics import counting
from dien_jax.statistics.counting import Limits, count_values
from dien_jax.statistics.training_events import TrainingEvents

pytestmark = pytest.mark.fast

ITEMS, USERS = 12, 15


def sequences(events: TrainingEvents, value_of: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """The training events of each user, as pairs of position and value."""
    last = defaultdict(int)
    if events.counted_end is not None:  # of events that count without examples
        last |= dict(enumerate(events.counted_end))
    for user, end in zip(events.sequence, events.history_end, strict=True):
        last[user] = max(last[user], end)
    result = {
        user: [(p, value_of[events.event_item[p]]) for p in range(events.offsets[user], end)]
        for user, end in last.items()
    }
    for user, end, item, label in zip(*events[2:6], strict=True):
        if label and end == last[user]:
            result[user].append((end, value_of[item]))
    return result


def brute_counts(histories: dict[int, list[tuple[int, int]]]) -> tuple[dict, dict]:
    """Users of each value, and of each pair: of both, and of those who chose the second first."""
    count, pairs = defaultdict(int), defaultdict(lambda: (0, 0))
    for events in histories.values():
        values = list(dict.fromkeys(value for _, value in events if value))
        for value in values:
            count[value] += 1
        for value, other in itertools.permutations(values, 2):
            together, before = pairs[value, other]
            is_before = values.index(other) < values.index(value)
            pairs[value, other] = together + 1, before + is_before
    return count, pairs


def looked_up(statistics, value: int, other: int) -> tuple[int, int]:
    row = slice(statistics.offsets[value], statistics.offsets[value + 1])
    (place,) = np.nonzero(statistics.other[row] == other)
    counts = statistics.together[row], statistics.before[row]
    return tuple(int(array[place[0]]) if len(place) else 0 for array in counts)


@pytest.mark.parametrize("all_before", [False, True])
@pytest.mark.parametrize("by_category", [False, True])
def test_counts_are_those_of_plain_python(by_category: bool, all_before: bool) -> None:
    value_of = np.arange(ITEMS) // 3 if by_category else np.arange(ITEMS)
    for seed in range(20):
        events = random_log(seed, USERS, ITEMS, all_before=all_before)
        size = int(value_of.max()) + 1
        statistics, _ = count_values(events, value_of, size)
        count, pairs = brute_counts(sequences(events, value_of))
        assert statistics.count.tolist() == [count[value] for value in range(size)]
        for value in range(size):
            for other in range(size):
                assert looked_up(statistics, value, other) == pairs[value, other]


@pytest.mark.parametrize("all_before", [False, True])
@pytest.mark.parametrize("by_category", [False, True])
def test_own_bits_remove_the_own_event_and_all_later_ones(by_category, all_before) -> None:
    """What is left equals a count of a log in which the user stopped before the example."""
    value_of = np.arange(ITEMS) // 3 if by_category else np.arange(ITEMS)
    removed = 0
    for seed in range(20):
        events = random_log(seed, USERS, ITEMS, all_before=all_before)
        statistics, own = count_values(events, value_of, int(value_of.max()) + 1)
        whole = sequences(events, value_of)
        for (user, end, item, _), bits in zip(zip(*events[2:6], strict=True), own, strict=True):
            past = [(position, value) for position, value in whole[user] if position < end]
            count, pairs = brute_counts(whole | {user: past})
            candidate, history = value_of[item], [value for _, value in past]
            assert statistics.count[candidate] - bool(bits & OWN_VALUE) == count[candidate]
            for value in {*history} - {0, candidate}:
                own_pair = bool(bits & OWN_PAIR)
                left = tuple(n - own_pair for n in looked_up(statistics, candidate, value))
                assert left == pairs[candidate, value]
            removed += bool(bits)
    assert removed > 50


def test_only_the_first_values_of_a_user_make_pairs() -> None:
    items = np.array([1, 2, 3, 4, 5], np.int32)
    end = np.arange(1, 5)
    zeros = np.zeros(4, np.int64)
    events = TrainingEvents(items, np.array([0, 5]), zeros, end, items[1:], zeros + 1)
    statistics, own = count_values(events, np.arange(6), 6, limits=Limits(distinct=3))
    assert statistics.count.tolist() == [0, 1, 1, 1, 1, 1]
    assert looked_up(statistics, 3, 1) == (1, 1)
    assert looked_up(statistics, 4, 1) == (0, 0)
    every = OWN_VALUE | OWN_PAIR
    assert own.tolist() == [every, every, OWN_VALUE, OWN_VALUE]


def test_pairs_of_few_users_are_left_out_of_a_long_log() -> None:
    events = random_log(0, USERS, ITEMS)
    whole, _ = count_values(events, np.arange(ITEMS), ITEMS)
    limits = Limits(kept=len(whole.other) // 2)
    kept, _ = count_values(events, np.arange(ITEMS), ITEMS, limits=limits)
    assert kept.least > 1
    assert len(kept.other) <= len(whole.other) // 2
    assert sorted(kept.together) == sorted(whole.together[whole.together >= kept.least])


def test_pairs_that_were_counted_before_a_cut_do_not_lower_the_next_one() -> None:
    users = np.array([1] * 8 + [5] * 3, np.int64)
    kept = [sparse.csr_array((users, np.arange(11), [0, 11]), shape=(1, 11))]
    assert counting._cut(kept, 4, most=5) == 4
    assert kept[0].data.tolist() == [5, 5, 5]


@pytest.mark.parametrize("largest", [6, 2**62])
def test_keys_are_sorted_with_their_numbers_whatever_their_size(largest: int) -> None:
    keys, numbers = np.array([largest, 5, 0, 5]), np.array([3, 2, 7, 0], np.int32)
    key, number = sort_together(keys, numbers)
    assert (key.tolist(), number.tolist()) == ([0, 5, 5, largest], [7, 0, 2, 3])
    assert (key.dtype, number.dtype) == (np.int64, np.int32)
