"""Target negatives: for each positive, items that existed by then and that its user had not chosen.

A negative looks no further than its positive. It is drawn from what others had chosen up to that
time, and only the positive itself and what the user had chosen before it are excluded. What the
user chose later may be drawn: excluding it would teach a model who avoids what, which no ranking
can know.

Every draw has its own random number, a function of the seed, the event and the number of the draw.
So what is drawn for an event does not depend on which other events are processed with it, or where.

Dimensions: P positives, M negatives, E events, S sequences, K entries of a pool.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dien_jax.preparation.options import Distribution
from dien_jax.preparation.reading.array_files import ArrayFile
from dien_jax.statistics.pairs import sort_together
from dien_jax.utils.machine import map_in_order, thread_count

DRAWS = 32  # draws before a negative is given up
NONE = -1  # the item of a negative that was given up


class Negatives(NamedTuple):
    """Drawn negatives, those of one positive together."""

    positive: np.ndarray  # int64 [M], non-decreasing: the positive that each negative belongs to
    item: np.ndarray  # int32 [M]
    missing: int  # negatives that were given up; M + missing is the number asked for


class Pool:
    """Entries that negatives are drawn from, oldest first, in files; at a time, all up to it alike.

    Every event is an entry for ``popularity``: an item is drawn in proportion to its events up to
    then. For ``uniform`` the first event of each item is one. ``path`` is that of the files without
    the ends of their names; ``chosen``, bool ``[E]``, are the events of the pool, None for all.
    """

    def __init__(
        self,
        path: Path,
        num_items: int,
        distribution: Distribution,
        chosen: np.ndarray | None = None,
    ) -> None:
        self._item = ArrayFile(path.with_name(f"{path.name} item"), np.int32)
        # The distinct times, rising, and the number of entries before each.
        self._time, self._start = (
            ArrayFile(path.with_name(f"{path.name} {name}"), np.int64) for name in ("time", "start")
        )
        self._is_new = np.ones(num_items, bool) if distribution == "uniform" else None
        self._chosen, self._length, self._last = chosen, 0, -1  # no event has a time below 0

    def add(self, item: np.ndarray, time: np.ndarray, number: np.ndarray) -> None:
        """Add events, oldest first: item, time and number of each, ``[n]``."""
        if self._chosen is not None:
            is_chosen = self._chosen[number]
            item, time = item[is_chosen], time[is_chosen]
        if self._is_new is not None:
            first = np.sort(np.unique(item, return_index=True)[1])
            first = first[self._is_new[item[first]]]
            item, time = item[first], time[first]
            self._is_new[item] = False
        starts = np.flatnonzero(np.diff(time, prepend=self._last))
        self._item.append(item)
        self._time.append(time[starts])
        self._start.append(self._length + starts)
        self._length, self._last = self._length + len(time), time[-1] if len(time) else self._last

    def until(self, times: np.ndarray) -> np.ndarray:
        """Return the number of entries up to each time, int64 ``[P]``."""
        earliest = times.min(initial=np.iinfo(np.int64).max)
        ordered, order = sort_together(times - earliest, np.arange(len(times)))
        ordered += earliest
        found = np.zeros(len(times), np.int64)
        before = last = done = 0
        for block in self._time.blocks():
            ends = np.append(self._start.read(done + 1, done + 1 + len(block)), self._length)
            first = np.searchsorted(ordered, block[0])
            found[last:first] = before  # times between this block and the one before it
            last = np.searchsorted(ordered, block[-1], side="right")
            found[first:last] = ends[np.searchsorted(block, ordered[first:last], side="right") - 1]
            before, done = ends[len(block) - 1], done + len(block)
        found[last:] = before
        places = np.empty(len(times), np.int64)
        places[order] = found
        return places

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the items at some places, int32 ``[P]``."""
        return self._item.take(places)


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
        keys, order = sort_together(keys, np.arange(len(keys)))  # an item's first event comes first
        self._keys = np.append(keys, np.iinfo(np.int64).max)
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
    num_items: int  # a number above all items that occur
    allow_own: bool = False  # whether items that the user chose before may be drawn

    def draw(
        self,
        target: np.ndarray,
        *,
        count: int,
        seed: tuple[int, ...],
        first_event: int = 0,
        chunk: int = 1 << 22,
    ) -> Negatives:
        """Draw ``count`` negatives for every positive, given as an event, int64 ``[P]``.

        ``first_event`` is added to an event for its random numbers: the events may be a part of
        more. All threads together draw ``chunk`` negatives at a time.
        """
        (key,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        choices = self.pool.until(self.timestamp[target])
        # Threads that draw for one sequence have its events each: an eighth of all, at most.
        longest = int(np.diff(self.offsets).max(initial=1))
        threads = max(min(thread_count(), len(self.event_item) // (8 * longest)), 1)
        step = max(chunk // (count * threads), 1)

        def of_chunk(start: int) -> np.ndarray:
            part = slice(start, start + step)
            numbers = (target[part] + first_event)[:, None] * count + np.arange(count)
            return self._draw_chunk(target[part], choices[part], numbers.reshape(-1), key)

        starts = range(0, len(target), step)
        for start, drawn in zip(starts, map_in_order(of_chunk, starts, threads), strict=True):
            kept = np.flatnonzero(drawn != NONE)
            owners.append(start + kept // count)
            items.append(drawn[kept])
        kept_items = np.concatenate(items)
        return Negatives(np.concatenate(owners), kept_items, len(target) * count - len(kept_items))

    def _draw_chunk(
        self, target: np.ndarray, choices: np.ndarray, numbers: np.ndarray, key: np.uint64
    ) -> np.ndarray:
        """Return negatives by number, those of each positive together; ``NONE`` if given up."""
        count = len(numbers) // len(target)
        earlier = None
        if not self.allow_own:
            sequence = np.searchsorted(self.offsets, target, side="right") - 1
            earlier = EarlierItems(sequence, self.event_item, self.offsets, self.num_items)
        drawn = np.full(len(numbers), NONE, np.int32)
        pending = np.flatnonzero(np.repeat(choices, count))
        for draw in range(DRAWS):
            if not len(pending):
                break
            row = pending // count
            uniform = uniform_numbers(numbers[pending] * DRAWS + draw, key)
            item = self.pool.take((uniform * choices[row]).astype(np.int64))
            taken = item == self.event_item[target[row]]
            if earlier is not None:
                taken |= earlier.contain(row, item, target[row])
            drawn[pending] = np.where(taken, NONE, item)
            pending = pending[taken]
        return drawn


def uniform_numbers(counters: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a random number of [0, 1) for each counter, float64: SplitMix64, 53 bits.

    Source: Steele, Lea and Flood, OOPSLA 2014.

    >>> uniform_numbers(np.arange(2), np.uint64(0)).round(4).tolist()
    [0.8835, 0.4322]
    """
    bits = key + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ bits >> np.uint64(31)) >> np.uint64(11)) * 2.0**-53
