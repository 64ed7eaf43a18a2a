"""Counts of training events: how many users chose a value, or two values.

A sequence (a user) counts once for each of its distinct values, and once for each pair of them, at
their first occurrences. Only events that a training example has as its target or in its history
count; where training examples begin at some time, also those before it, of other users too. So what
a user did at an example and after it is in the counts of the example's candidate exactly where the
candidate's value first occurs at the example or after it, and then it is there once: the bits
``OWN_*`` tell where, and a model takes it out.

Dimensions: E events, S sequences, V values of a feature, n training examples, P pairs.
"""

from typing import NamedTuple

import numpy as np

from dien_jax.data.schema import UNKNOWN, ValueStatistics

MAX_DISTINCT = 100
"""Distinct values of a sequence that take part in pairs, the first ones."""
MAX_PAIRS = 1 << 26
"""Pairs that are counted; of longer logs, fewer values of each sequence take part."""
MAX_KEPT = 1 << 23
"""Pairs that are kept; of longer logs, those that few sequences have are left out."""
CHUNK_PAIRS = 1 << 24  # pairs sorted at a time
OWN_VALUE, OWN_PAIR, OWN_FOLLOWING = 1, 2, 4
"""Bits of ``own``: what the sequence of an example did at the example or after it is in the count
of the candidate; in its pairs with the history; in its pair with the last event."""


class TrainingEvents(NamedTuple):
    """The events and training examples of a dataset; see :class:`dien_jax.data.Examples`."""

    event_item: np.ndarray  # int [E]
    offsets: np.ndarray  # int64 [S + 1]
    sequence: np.ndarray  # int [n]
    history_end: np.ndarray  # int64 [n]
    item: np.ndarray  # int [n]
    label: np.ndarray  # int [n]
    counted_end: np.ndarray | None = None  # int64 [S], ends of events that count without examples


class Firsts(NamedTuple):
    """First occurrences of the known values of each training sequence, in order."""

    sequence: np.ndarray
    value: np.ndarray
    position: np.ndarray  # among all events; the end of the history for the last target
    rank: np.ndarray  # distinct values before it in its sequence
    previous: np.ndarray  # value of the event right before it, UNKNOWN if there is none


class _Pairs(NamedTuple):
    """Distinct pairs of an earlier and a later value, with their numbers of sequences."""

    key: np.ndarray  # earlier * V + later, rising
    users: np.ndarray
    following: np.ndarray  # those in which the later value comes right after the earlier one


def count_values(
    events: TrainingEvents, value_of: np.ndarray, size: int
) -> tuple[ValueStatistics, np.ndarray]:
    """Count the values of one feature in the training events.

    Args:
      events: the events and the training examples.
      value_of: int ``[items]``, the value of each item; ``UNKNOWN`` does not count.
      size: V.

    Returns:
      The counts, and ``own``, int8 ``[n]``: bits ``OWN_*`` of each training example.
    """
    firsts = first_occurrences(events, value_of)
    used = _values_in_pairs(firsts)
    pairs = _count_pairs(firsts, used, size)
    count = np.bincount(firsts.value, minlength=size)
    sequences = int(np.count_nonzero(np.bincount(firsts.sequence)))
    return _rows(pairs, count, sequences), _own(events, value_of, firsts, used, size)


def first_occurrences(events: TrainingEvents, value_of: np.ndarray) -> Firsts:
    """Return the first occurrences of the known values, by sequence and in order."""
    start = np.asarray(events.offsets[:-1], np.int64)
    end = start.copy()
    np.maximum.at(end, events.sequence, np.asarray(events.history_end, np.int64))
    if events.counted_end is not None:
        end = np.maximum(end, events.counted_end)
    # The target of a sequence's last training example need not be among the events.
    is_last = (np.asarray(events.label) == 1) & (events.history_end == end[events.sequence])
    length = end - start
    sequence = np.repeat(np.arange(len(start)), length)
    position = np.arange(len(sequence)) + np.repeat(start - (np.cumsum(length) - length), length)
    item = np.asarray(events.event_item)[position]
    sequence = np.concatenate([sequence, events.sequence[is_last]])
    position = np.concatenate([position, events.history_end[is_last]])
    value = np.asarray(value_of, np.int64)[np.concatenate([item, events.item[is_last]])]
    order = np.lexsort((position, sequence))
    sequence, position, value = sequence[order], position[order], value[order]

    # Targets at one position are of one request, and all follow the last event before it.
    starts = np.flatnonzero(np.diff(sequence, prepend=-1) | np.diff(position, prepend=-1))
    begins = np.repeat(starts, np.diff(np.append(starts, len(sequence))))
    has_previous = (begins > 0) & (sequence[begins - 1] == sequence)
    previous = np.where(has_previous, value[begins - 1], UNKNOWN)

    keys = sequence * (int(value.max(initial=0)) + 1) + value
    first = np.sort(np.unique(keys, return_index=True)[1])
    first = first[value[first] != UNKNOWN]
    sequence, value, position, previous = (
        column[first] for column in (sequence, value, position, previous)
    )
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    rank = np.arange(len(first)) - np.repeat(starts, np.diff(np.append(starts, len(first))))
    return Firsts(sequence, value, position, rank, previous)


def _values_in_pairs(firsts: Firsts) -> int:
    """Return how many values of each sequence take part in pairs."""
    distinct = np.bincount(firsts.sequence)
    for used in range(MAX_DISTINCT, 2, -1):
        values = np.minimum(distinct, used)
        if (values * (values - 1) // 2).sum() <= MAX_PAIRS:
            return used
    return 2


def _count_pairs(firsts: Firsts, used: int, size: int) -> _Pairs:
    is_used = firsts.rank < used
    sequence, value, previous = (
        column[is_used] for column in (firsts.sequence, firsts.value, firsts.previous)
    )
    counted: list[tuple[np.ndarray, np.ndarray]] = []
    pending = [np.zeros(0, np.int64)]
    for lag in range(1, used):
        place = np.flatnonzero(sequence[lag:] == sequence[:-lag])
        pending.append(value[place] * size + value[place + lag])
        if sum(map(len, pending)) > CHUNK_PAIRS:
            counted.append(np.unique(np.concatenate(pending), return_counts=True))
            pending = []
        if not len(place):
            break
    counted.append(np.unique(np.concatenate([*pending, np.zeros(0, np.int64)]), return_counts=True))
    keys, counts = (np.concatenate(parts) for parts in zip(*counted, strict=True))
    key, inverse = np.unique(keys, return_inverse=True)
    count = np.bincount(inverse, counts, len(key)).astype(np.int64)
    follows = previous != UNKNOWN
    adjacent, times = np.unique(previous[follows] * size + value[follows], return_counts=True)
    following = np.zeros(len(key), np.int64)
    following[np.searchsorted(key, adjacent)] = times
    return _Pairs(key, count, following)


def _rows(pairs: _Pairs, count: np.ndarray, sequences: int) -> ValueStatistics:
    """Return the pairs from both sides, by value, in rows."""
    size = len(count)
    earlier, later = np.divmod(pairs.key, size)
    zeros = np.zeros_like(pairs.users)
    key, inverse = np.unique(
        np.concatenate([pairs.key, later * size + earlier]), return_inverse=True
    )

    def total(of_earlier: np.ndarray, of_later: np.ndarray) -> np.ndarray:
        sums = np.bincount(inverse, np.concatenate([of_earlier, of_later]), len(key))
        return sums.astype(np.int32)

    together = total(pairs.users, pairs.users)
    before, following = total(zeros, pairs.users), total(zeros, pairs.following)
    ordered = np.sort(together)
    least = 1 if len(key) <= MAX_KEPT else int(ordered[-MAX_KEPT - 1]) + 1
    kept = together >= least
    row, other = np.divmod(key[kept], size)
    offsets = np.searchsorted(row, np.arange(size + 1)).astype(np.int32)
    return ValueStatistics(
        count=count.astype(np.int32),
        offsets=offsets,
        other=other.astype(np.int32),
        together=together[kept],
        before=before[kept],
        following=following[kept],
        sequences=int(sequences),
        least=least,
        longest=int(np.diff(offsets).max()),
    )


def _own(
    events: TrainingEvents, value_of: np.ndarray, firsts: Firsts, used: int, size: int
) -> np.ndarray:
    if not len(firsts.value):
        return np.zeros(len(events.item), np.int8)
    keys = firsts.sequence * size + firsts.value
    order = np.argsort(keys)
    wanted = np.asarray(events.sequence, np.int64) * size + value_of[events.item]
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    end = np.asarray(events.history_end)
    in_count = (keys[place] == wanted) & (firsts.position[place] >= end)
    in_pairs = in_count & (firsts.rank[place] < used)
    latest = np.full(len(end), UNKNOWN)
    has_history = end > np.asarray(events.offsets)[events.sequence]
    latest[has_history] = value_of[np.asarray(events.event_item)[end[has_history] - 1]]
    is_next = in_pairs & (latest != UNKNOWN) & (firsts.previous[place] == latest)
    own = in_count * OWN_VALUE + in_pairs * OWN_PAIR + is_next * OWN_FOLLOWING
    return own.astype(np.int8)
