"""Target negatives: for each positive, items that existed by then and that its user had not chosen.

A negative looks no further than its positive. It is drawn from what others had chosen up to that
time, and only the positive itself and what the user had chosen before it are excluded. What the
user chose later may be drawn: excluding it would teach a model who avoids what, which no ranking
can know.

Dimensions: P positives, M negatives, E events, S sequences, K entries of a pool.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from dien_jax.preparation.options import Distribution

DRAWS = 32  # draws before a negative is given up
CHUNK_POSITIVES = 1 << 18  # positives processed at a time
NONE = -1  # the item of a negative that was given up


class Negatives(NamedTuple):
    """Drawn negatives, those of one positive together."""

    positive: np.ndarray  # int64 [M], non-decreasing: the positive that each negative belongs to
    item: np.ndarray  # int32 [M]
    missing: int  # negatives that were given up; M + missing is the number asked for


class Pool(NamedTuple):
    """Entries that negatives are drawn from, oldest first; at a time, all up to it alike."""

    item: np.ndarray  # int32 [K]
    time: np.ndarray  # int64 [K], non-decreasing


def make_pool(item: np.ndarray, time: np.ndarray, distribution: Distribution) -> Pool:
    """Return a pool of events in the order of their times.

    Every event is an entry for ``popularity``: an item is drawn in proportion to its events up to
    then. For ``uniform`` the first event of each item is one.
    """
    if distribution == "uniform":
        first = np.sort(np.unique(item, return_index=True)[1])
        item, time = item[first], time[first]
    return Pool(item, time)


class EarlierItems:
    """Lookup of the items that the sequence of each of P rows has before an event.

    Args:
      sequence: int32 ``[P]``, the sequence of each row.
      event_item: int32 ``[E]``, item of every event of all sequences.
      offsets: int64 ``[S + 1]``, where the events of each sequence begin.
      num_items: a number above all items that occur.
    """

    def __init__(
        self, sequence: np.ndarray, event_item: np.ndarray, offsets: np.ndarray, num_items: int
    ) -> None:
        chosen, self._owner = np.unique(sequence, return_inverse=True)
        self._num_items = num_items
        lengths = offsets[chosen + 1] - offsets[chosen]
        ends = np.cumsum(lengths)
        shift = np.repeat(offsets[chosen] - (ends - lengths), lengths)
        events = np.arange(len(shift)) + shift
        keys = np.repeat(np.arange(len(chosen)), lengths) * num_items + event_item[events]
        order = np.argsort(keys, kind="stable")  # the first event of each item comes first
        self._keys = np.append(keys[order], np.iinfo(np.int64).max)
        self._events = np.append(events[order], 0)

    def contain(self, row: np.ndarray, item: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return for each of the rows whether it has the item before the event ``end``."""
        keys = self._owner[row] * self._num_items + item
        place = np.searchsorted(self._keys, keys)
        return (self._keys[place] == keys) & (self._events[place] < end)


@dataclass(frozen=True)
class NegativeSampler:
    """Sampler of negatives, with replacement, from a pool.

    A draw that equals the positive is repeated, and so is one that the user chose before, unless
    those are allowed. Where the pool has nothing yet, or a user chose nearly all of it, a positive
    gets fewer negatives.
    """

    event_item: np.ndarray  # int32 [E], item of every event of every user
    timestamp: np.ndarray  # int64 [E]
    offsets: np.ndarray  # int64 [S + 1], where the events of each sequence begin
    pool: Pool
    allow_own: bool = False  # whether items that the user chose before may be drawn

    def draw(self, target: np.ndarray, *, count: int, seed: tuple[int, ...]) -> Negatives:
        """Draw ``count`` negatives for every positive, given as an event, int64 ``[P]``.

        Positives are processed in chunks, each with a generator made from the seed and the number
        of the chunk: memory is bounded, and the same seed always draws the same items.
        """
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        num_items = 1 + int(max(self.event_item.max(initial=0), self.pool.item.max(initial=0)))
        for chunk, start in enumerate(range(0, len(target), CHUNK_POSITIVES)):
            part = target[start : start + CHUNK_POSITIVES]
            generator = np.random.default_rng((*seed, chunk))
            drawn = self._draw_chunk(part, count, num_items, generator)
            kept = np.flatnonzero(drawn != NONE)
            owners.append(start + kept // count)
            items.append(drawn[kept])
        kept_items = np.concatenate(items)
        return Negatives(np.concatenate(owners), kept_items, len(target) * count - len(kept_items))

    def _draw_chunk(
        self, target: np.ndarray, count: int, num_items: int, generator: Generator
    ) -> np.ndarray:
        """Return ``count`` negatives for each positive, ``NONE`` where one was given up."""
        choices = np.searchsorted(self.pool.time, self.timestamp[target], side="right")
        earlier = None
        if not self.allow_own:
            sequence = np.searchsorted(self.offsets, target, side="right") - 1
            earlier = EarlierItems(sequence, self.event_item, self.offsets, num_items)
        drawn = np.full(len(target) * count, NONE, np.int32)
        pending = np.flatnonzero(np.repeat(choices, count))
        for _ in range(DRAWS):
            if not len(pending):
                break
            row = pending // count
            item = self.pool.item[generator.integers(choices[row])]
            taken = item == self.event_item[target[row]]
            if earlier is not None:
                taken |= earlier.contain(row, item, target[row])
            drawn[pending] = np.where(taken, NONE, item)
            pending = pending[taken]
        return drawn
