"""Counts of training events: how many users chose a value, or two values.

A sequence (a user) counts once for each of its distinct values, and once for each pair of them, at
their first occurrences. Only events that a training example has as its target or in its history
count; where training examples begin at some time, also those before it, of other users too. So what
a user did at an example and after it is in the counts of the example's candidate exactly where the
candidate's value first occurs at the example or after it, and then it is there once: the bits
``OWN_*`` tell where, and a model takes it out.

Threads count slices of whole sequences. Memory is bounded by them, and by :class:`Limits`.

Dimensions: E events, S sequences and n training examples of a slice, V values of a feature.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.statistics_files import CountedFeature
from dien_jax.data.tables import OWN_PAIR, OWN_VALUE, ValueStatistics, statistics_features
from dien_jax.statistics.pairs import Limits, PairCounts, sort_together
from dien_jax.statistics.training_events import (
    TrainingEvents,
    slices,
    training_events,
    values_of_items,
)
from dien_jax.utils.machine import map_in_order, thread_count

T = TypeVar("T")


class Firsts(NamedTuple):
    """First occurrences of the known values of each training sequence, in order."""

    sequence: np.ndarray  # int32
    value: np.ndarray  # int32
    position: np.ndarray  # among all events; the end of the history for the last target
    rank: np.ndarray  # int32, distinct values before it in its sequence


def count_values(
    events: TrainingEvents,
    value_of: np.ndarray,
    size: int,
    folder: Path | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008 - never changed
    threads: int | None = None,
) -> tuple[ValueStatistics, np.ndarray]:
    """Count the values of one feature in the training events.

    Args:
      events: the events and the training examples.
      value_of: int ``[items]``, the value of each item; ``UNKNOWN`` does not count.
      size: V.
      folder: an empty folder for what memory need not hold; None to hold all.
      limits: what is left out of a long log, and bounds of memory.
      threads: how many count, :func:`thread_count` by default; results do not depend on it.

    Returns:
      The counts, and ``own``, int8 ``[n]``: bits ``OWN_*`` of each training example.
    """
    threads = threads or thread_count()
    kept: dict[int, Firsts] = {}

    def each(function: Callable[[TrainingEvents, Firsts], T]) -> Iterator[T]:
        """Yield what a function returns for the first occurrences of each slice."""

        def of_slice(numbered: tuple[int, TrainingEvents]) -> T:
            number, piece = numbered
            firsts = kept.get(number) or first_occurrences(piece, value_of)
            if len(events.event_item) <= limits.firsts:
                kept[number] = firsts
            return function(piece, firsts)

        def is_large(numbered: tuple[int, TrainingEvents]) -> bool:
            return len(numbered[1].event_item) > limits.slice

        return map_in_order(of_slice, enumerate(slices(events, limits.slice)), threads, is_large)

    count, distinct = np.zeros(size, np.int64), np.zeros(limits.distinct + 1, np.int64)

    def totals(_: TrainingEvents, firsts: Firsts) -> tuple[np.ndarray, np.ndarray]:
        found = np.minimum(np.bincount(firsts.sequence), limits.distinct)
        return firsts.value, np.bincount(found, minlength=limits.distinct + 1)

    for values, numbers in each(totals):
        np.add.at(count, values, 1)
        distinct += numbers
    used = _values_in_pairs(distinct, limits.pairs)
    pairs = PairCounts(size, folder, threads, limits)

    def pairs_and_own(events: TrainingEvents, firsts: Firsts) -> np.ndarray:
        _count_pairs(firsts, used, pairs)
        return _own(events, value_of, firsts, used, size)

    own = np.concatenate([*each(pairs_and_own)])
    return pairs.statistics(count, int(distinct[1:].sum())), own


def count_features(dataset: Dataset, folder: Path | None = None) -> Iterator[CountedFeature]:
    """Count the values of every feature with statistics, one feature after another.

    Counts that memory need not hold are in files for a while: in ``folder``, or where Python makes
    temporary ones.
    """
    events = training_events(dataset)
    for feature in statistics_features(dataset.schema):
        value_of = values_of_items(dataset, feature)
        with tempfile.TemporaryDirectory(dir=folder) as files:
            counted = count_values(events, value_of, feature.size or 0, Path(files))
        yield feature.name, *counted
        del counted  # while the next feature is counted


def first_occurrences(events: TrainingEvents, value_of: np.ndarray) -> Firsts:
    """Return the first occurrences of the known values, by sequence and in order."""
    start = np.asarray(events.offsets[:-1], np.int64)
    end = start.copy()
    np.maximum.at(end, events.sequence, np.asarray(events.history_end, np.int64))
    if events.counted_end is not None:
        end = np.maximum(end, events.counted_end)
    # The target of a sequence's last training example need not be among the events.
    is_last = (np.asarray(events.label) == 1) & (events.history_end == end[events.sequence])
    # Numbers of four bytes, where they fit, halve the memory.
    number = np.int32 if events.offsets[-1] < 2**31 else np.int64
    length = end - start
    sequence = np.repeat(np.arange(len(start), dtype=np.int32), length)
    skipped = start - (np.cumsum(length) - length)  # events that do not count, before each sequence
    position = np.repeat(skipped.astype(number), length)
    position += np.arange(len(position), dtype=number)
    item = np.concatenate([np.asarray(events.event_item)[position], events.item[is_last]])
    value = np.asarray(value_of, np.int32)[item]
    del item
    sequence = np.concatenate([sequence, events.sequence[is_last].astype(np.int32)])
    position = np.concatenate([position, events.history_end[is_last].astype(number)])
    # Stable: the events of a sequence are in order, and its last targets follow them.
    order = np.argsort(sequence, kind="stable")
    sequence, position, value = sequence[order], position[order], value[order]
    del order

    first = _first_places(sequence.astype(np.int64) * (int(value.max(initial=0)) + 1) + value)
    first = first[value[first] != UNKNOWN]
    sequence, value, position = sequence[first], value[first], position[first]
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    rank = np.arange(len(first)) - np.repeat(starts, np.diff(np.append(starts, len(first))))
    return Firsts(sequence, value, position, rank.astype(np.int32))


def _first_places(keys: np.ndarray) -> np.ndarray:
    """Return where each distinct key, 0 or more, stands first, rising; changes the keys."""
    key, place = sort_together(keys, np.arange(len(keys)))
    return np.sort(place[np.diff(key, prepend=-1) != 0])


def _values_in_pairs(sequences: np.ndarray, most: int) -> int:
    """Return how many values of each sequence take part in pairs, ``most`` of these or fewer.

    ``sequences`` are those of each number of distinct values, the last one of that many or more.
    """
    for used in range(len(sequences) - 1, 2, -1):
        values = np.minimum(np.arange(len(sequences)), used)
        if (values * (values - 1) // 2 * sequences).sum() <= most:
            return used
    return 2


def _count_pairs(firsts: Firsts, used: int, pairs: PairCounts) -> None:
    is_used = firsts.rank < used
    sequence, value = firsts.sequence[is_used], firsts.value[is_used]
    for lag in range(1, used):
        place = np.flatnonzero(sequence[lag:] == sequence[:-lag])
        if not len(place):
            break
        pairs.add(value[place], value[place + lag])


def _own(
    events: TrainingEvents, value_of: np.ndarray, firsts: Firsts, used: int, size: int
) -> np.ndarray:
    if not len(firsts.value):
        return np.zeros(len(events.item), np.int8)
    keys = firsts.sequence.astype(np.int64) * size + firsts.value
    keys, order = sort_together(keys, np.arange(len(keys)))
    wanted = np.asarray(events.sequence, np.int64) * size + value_of[events.item]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    is_found, place = keys[place] == wanted, order[place]
    del keys, order
    end = np.asarray(events.history_end)
    in_count = is_found & (firsts.position[place] >= end)
    in_pairs = in_count & (firsts.rank[place] < used)
    return (in_count * OWN_VALUE + in_pairs * OWN_PAIR).astype(np.int8)
