"""Counts of training events: how many users chose a value, or two values.

A sequence (a user) counts once for each of its distinct values, and once for each pair of them and
for their order, at their first occurrences. An event counts if it is the target of a training
example or in its history; if training examples begin at a set time, all events before validation
count, of all users. An example and later events of its user are therefore in the counts of its
candidate at most once: if the candidate's value first occurs at the example or later. The bits
``OWN_*`` mark this, and a model subtracts it.

Threads count slices of whole sequences, and then blocks of pairs: those of some values with all
values that their users chose. A block drops pairs that are too rare to be kept. Memory is 20 bytes
for each distinct value of a user, some 60 for each pair of a block, and 24 for each kept pair;
:class:`Limits` bound all of these.

Dimensions: E events, S sequences and n training examples of a slice, V values of a feature, N
distinct values, added up over users.
"""

import functools
import operator
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from dien_jax.data.arrays import sort_together
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.statistics_files import CountedFeature
from dien_jax.data.tables import OWN_PAIR, OWN_VALUE, ValueStatistics, statistics_features
from dien_jax.statistics.training_events import (
    SLICE_EVENTS,
    TrainingEvents,
    map_slices,
    training_events,
    values_of_items,
)
from dien_jax.utils.machine import map_in_order, thread_count

FIRST_BITS = 32  # of a counted pair: above them, the users who chose the other value first
ALL_USERS = (1 << FIRST_BITS) - 1
NOT_OWN = 255  # rank of a value that does not first occur at the example or later


class Limits(NamedTuple):
    """Bounds of the counts of a long log, and of the memory that counting needs."""

    distinct: int = 254  # values of a sequence that form pairs, the first ones; at most 254
    pairs: int = 1 << 26  # counted pairs; in longer logs, fewer values of each sequence form pairs
    kept: int = 1 << 23  # kept pairs; in longer logs, pairs of few sequences are dropped
    chunk: int = 1 << 20  # pairs of users and values that a thread counts at a time
    slice: int = SLICE_EVENTS  # events that a thread counts at a time, or one longer sequence


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
    *,
    limits: Limits = Limits(),  # noqa: B008 - never changed
    threads: int | None = None,
) -> tuple[ValueStatistics, np.ndarray]:
    """Count the V = ``size`` values of one feature in the training events.

    ``value_of`` is int ``[items]``, the value of each item; ``UNKNOWN`` does not count. Return the
    counts, and ``own``, int8 ``[n]``: bits ``OWN_*`` of each training example, which do not depend
    on the number of threads.
    """
    threads = threads or thread_count()

    def of_slice(events: TrainingEvents) -> tuple[Firsts, np.ndarray, np.ndarray]:
        firsts = first_occurrences(events, value_of)
        lengths = np.bincount(firsts.sequence, minlength=len(events.offsets) - 1)
        lengths = np.minimum(lengths, limits.distinct).astype(np.int32)
        return firsts, lengths, _own_ranks(events, value_of, firsts, size)

    count, distinct = np.zeros(size, np.int64), np.zeros(limits.distinct + 1, np.int64)
    early, lengths, ranks = list[tuple[np.ndarray, np.ndarray]](), list[np.ndarray](), []
    pieces = map_slices(of_slice, events, threads, limits.slice)
    for firsts, of_sequences, own_ranks in pieces:
        np.add.at(count, firsts.value, 1)
        distinct += np.bincount(of_sequences, minlength=limits.distinct + 1)
        used = _values_in_pairs(distinct, limits.pairs)  # never rises from slice to slice
        is_early = firsts.rank < used
        early.append((firsts.value[is_early], firsts.rank[is_early].astype(np.uint8)))
        lengths.append(of_sequences)
        ranks.append(own_ranks)
    bits = np.full(NOT_OWN + 1, OWN_VALUE, np.int8)
    bits[:used] |= OWN_PAIR
    bits[NOT_OWN] = 0
    own = np.concatenate([bits[rank] for rank in ranks])
    value = np.concatenate([value[rank < used] for value, rank in early])
    del early, ranks
    numbers = np.minimum(np.concatenate(lengths), used)
    pairs, least = count_pairs(value, numbers, size, limits, threads)
    statistics = ValueStatistics(
        count=count.astype(np.int32),
        offsets=pairs.indptr.astype(np.int32, copy=False),
        other=pairs.indices.astype(np.int32, copy=False),
        together=(pairs.data & ALL_USERS).astype(np.int32),
        before=(pairs.data >> FIRST_BITS).astype(np.int32),
        sequences=int(distinct[1:].sum()),
        least=least,
        longest=int(np.diff(pairs.indptr).max()),
    )
    return statistics, own


def count_features(dataset: Dataset) -> Iterator[CountedFeature]:
    """Count the values of every feature with statistics, one feature after another."""
    events = training_events(dataset)
    for feature in statistics_features(dataset.schema):
        counted = count_values(events, values_of_items(dataset, feature), feature.size or 0)
        yield feature.name, *counted
        del counted  # free it before the next feature is counted


def first_occurrences(events: TrainingEvents, value_of: np.ndarray) -> Firsts:
    """Return the first occurrences of the known values, by sequence and in order."""
    start = np.asarray(events.offsets[:-1], np.int64)
    end = start.copy()
    np.maximum.at(end, events.sequence, np.asarray(events.history_end, np.int64))
    if events.counted_end is not None:
        end = np.maximum(end, events.counted_end)
    # The target of a sequence's last training example need not be among the events.
    is_last = (np.asarray(events.label) == 1) & (events.history_end == end[events.sequence])
    # int32, where it is large enough, halves the memory.
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

    keys = sequence.astype(np.int64) * (int(value.max(initial=0)) + 1) + value
    keys, places = sort_together(keys, np.arange(len(keys)))
    first = np.sort(places[np.diff(keys, prepend=-1) != 0])
    del keys, places
    first = first[value[first] != UNKNOWN]
    sequence, value, position = sequence[first], value[first], position[first]
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    rank = np.arange(len(first)) - np.repeat(starts, np.diff(np.append(starts, len(first))))
    return Firsts(sequence, value, position, rank.astype(np.int32))


def _values_in_pairs(sequences: np.ndarray, most: int) -> int:
    """Return how many values of each sequence may form pairs, for at most ``most`` pairs in all.

    ``sequences[k]`` is the number of sequences with k distinct values; the last k means k or more.
    """
    number = np.arange(len(sequences))
    values = np.minimum.outer(number, number)
    pairs = sequences @ (values * (values - 1) // 2)
    return max(int(np.count_nonzero(pairs <= most)) - 1, 2)


def _own_ranks(
    events: TrainingEvents, value_of: np.ndarray, firsts: Firsts, size: int
) -> np.ndarray:
    """Return the rank of each example's candidate in its sequence, uint8 ``[n]``.

    It is ``NOT_OWN`` if the candidate's value does not occur at the example or later for the first
    time.
    """
    if not len(firsts.value):
        return np.full(len(events.item), NOT_OWN, np.uint8)
    keys = firsts.sequence.astype(np.int64) * size + firsts.value
    keys, order = sort_together(keys, np.arange(len(keys)))
    wanted = np.asarray(events.sequence, np.int64) * size + value_of[events.item]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    is_found, place = keys[place] == wanted, order[place]
    is_found &= firsts.position[place] >= np.asarray(events.history_end)
    return np.where(is_found, np.minimum(firsts.rank[place], NOT_OWN - 1), NOT_OWN).astype(np.uint8)


def count_pairs(
    value: np.ndarray, lengths: np.ndarray, size: int, limits: Limits, threads: int
) -> tuple[sparse.csr_array, int]:
    """Count the users of each pair of the V = ``size`` values.

    ``value`` is int32 ``[N]``, the distinct values of each user, by user and in order, and
    ``lengths`` int ``[S]``, their number for each user. Return a matrix ``[V, V]`` with sorted
    rows, and the least number of users of a kept pair. The matrix has at v, w the number of users
    who chose both, plus ``1 << FIRST_BITS`` for each who chose w first.
    """
    user = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    start = (np.cumsum(lengths) - lengths).astype(np.int32)
    work = np.cumsum(np.bincount(value, lengths[user], size)).astype(np.int64)
    places = np.argsort(value, kind="stable").astype(np.int32)
    offsets = np.append(0, np.cumsum(np.bincount(value, minlength=size)))
    ends = np.searchsorted(work, np.arange(limits.chunk, work[-1], limits.chunk), side="right")
    borders = np.unique([0, *ends.tolist(), size]).tolist()
    least = 1

    def of_places(places: np.ndarray, block: tuple[int, int]) -> sparse.csr_array:
        """Return the rows of a block, of the pairs of some places in ``value`` with their users."""
        number = lengths[user[places]]
        ends = np.cumsum(number)
        other = np.arange(number.sum(), dtype=np.int32)
        other += np.repeat(start[user[places]] - (ends - number), number).astype(np.int32)
        own = np.repeat(places, number)
        data = np.where(other == own, 0, 1 + (np.int64(other > own) << FIRST_BITS))
        pairs = sparse.csr_array((data, value[other], np.append(0, ends)), (len(places), size))
        rows = value[places] - block[0], np.arange(len(places))
        ones, shape = np.ones(len(places), np.int64), (block[1] - block[0], len(places))
        return sparse.csr_array((ones, rows), shape) @ pairs

    def of_block(block: tuple[int, int]) -> sparse.csr_array:
        own = places[offsets[block[0]] : offsets[block[1]]]
        parts = np.array_split(own, 1 + lengths[user[own]].sum() // limits.chunk)
        rows = functools.reduce(operator.add, (of_places(part, block) for part in parts))
        return _of_users(rows, least)

    kept, total = list[sparse.csr_array](), 0
    for rows in map_in_order(of_block, pairwise(borders), threads):
        kept.append(rows)
        total += rows.nnz
        if 4 * total > 5 * limits.kept:
            least = _cut(kept, least, limits.kept)
            total = sum(part.nnz for part in kept)
    least = _cut(kept, least, limits.kept)
    # The transpose has sorted rows, and the order of each pair the other way round.
    return sparse.vstack(kept, "csr").T.tocsr(), least


def _of_users(rows: sparse.csr_array, least: int) -> sparse.csr_array:
    """Drop pairs of fewer than ``least`` users, in place; return the rows."""
    rows.data[rows.data & ALL_USERS < least] = 0
    rows.eliminate_zeros()
    return rows


def _cut(kept: list[sparse.csr_array], least: int, most: int) -> int:
    """Drop the rarest pairs until at most ``most`` are left; return the least count of a pair."""
    together = np.concatenate([rows.data & ALL_USERS for rows in kept])
    if len(together) > most:
        at_least = np.cumsum(np.bincount(together)[::-1])[::-1]
        least = max(least, int(np.count_nonzero(at_least > most)))
    kept[:] = [_of_users(rows, least) for rows in kept]
    return least
