"""Target negatives: for each positive, items that existed by then and that its user had not chosen.

Sampling does not look ahead of the positive. Negatives are sampled from the items of all events up
to that time, except the positive itself and the user's earlier items. Items that the user chose
later may be sampled: excluding them would leak the user's future, which is unknown when a model
ranks.

The random number of a draw is a function of the seed, the event and the number of the draw. So the
negatives of an event do not depend on which other events are processed with it, or where.

Dimensions: P positives, M negatives, E events, S sequences, K entries of a pool.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dien_jax.data.arrays import ArrayFile, sort_together
from dien_jax.preparation.options import Distribution, ImplicitOptions
from dien_jax.preparation.pipeline.splits import TRAIN, EventPart, Split
from dien_jax.utils.machine import map_in_order, thread_count

if TYPE_CHECKING:
    from dien_jax.preparation.pipeline.events import Events
    from dien_jax.preparation.reading.workspace import Workspace

DRAWS = 32  # draws before a negative is given up
NONE = -1  # the item of a negative that was given up


class Negatives(NamedTuple):
    """Sampled negatives, grouped by positive."""

    positive: np.ndarray  # int64 [M], non-decreasing: the positive that each negative belongs to
    item: np.ndarray  # int32 [M]
    missing: int  # negatives that were given up; M + missing is the requested number


class Pool:
    """Entries to sample negatives from, oldest first, in files.

    Entries up to a given time are equally likely. For ``popularity``, every event is an entry, so
    items are sampled in proportion to their events; for ``uniform``, the first event of each item.
    ``path`` is a prefix of the files; ``chosen``, bool ``[E]``, selects events, None for all.
    """

    def __init__(
        self,
        path: Path,
        num_items: int,
        distribution: Distribution,
        chosen: np.ndarray | None = None,
    ) -> None:
        self.item = ArrayFile(path.with_name(f"{path.name} item"), np.int32)  # of each entry
        self._time = ArrayFile(path.with_name(f"{path.name} time"), np.int64)
        self._is_new = np.ones(num_items, bool) if distribution == "uniform" else None
        self._chosen = chosen

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
        self.item.append(item)
        self._time.append(time)

    def until(self, times: np.ndarray) -> np.ndarray:
        """Return the number of entries up to each time, int64 ``[P]``."""
        earliest = times.min(initial=np.iinfo(np.int64).max)
        ordered, order = sort_together(times - earliest, np.arange(len(times)))
        ordered += earliest
        found = np.zeros(len(times), np.int64)
        before = last = 0
        for block in self._time.blocks():
            first = np.searchsorted(ordered, block[0])
            found[last:first] = before  # times between this block and the one before it
            last = np.searchsorted(ordered, block[-1], side="right")
            found[first:last] = before + np.searchsorted(block, ordered[first:last], side="right")
            before += len(block)
        found[last:] = before
        places = np.empty(len(times), np.int64)
        places[order] = found
        return places


class EarlierItems:
    """Look-up of the items, all below ``num_items``, that a sequence has before an event."""

    def __init__(self, part: EventPart, num_items: int) -> None:
        self._num_items = num_items
        keys = part.sequence.astype(np.int64) * num_items + part.item
        keys, events = sort_together(keys, np.arange(len(keys)))  # an item's first event first
        self._keys = np.append(keys, np.iinfo(np.int64).max)
        self._events = np.append(events, 0)

    def contain(self, sequence: np.ndarray, item: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return for each sequence whether it has the item before the event ``end``."""
        keys = sequence.astype(np.int64) * self._num_items + item
        place = np.searchsorted(self._keys, keys)
        return (self._keys[place] == keys) & (self._events[place] < end)


class NegativeSampler:
    """Sampler of negatives, with replacement, for positives among the events of a part.

    A draw is repeated if it is the positive, or an item that the user chose before, unless
    ``allow_own``. If the pool is still empty, or the user chose nearly all of it, a positive gets
    fewer negatives. ``part`` has the events of the users of the positives.
    """

    def __init__(self, part: EventPart, num_items: int, allow_own: bool = False) -> None:
        self._part, self._sequence = part, part.sequence
        self._earlier = None if allow_own else EarlierItems(part, num_items)

    def draw(
        self,
        target: np.ndarray,
        pool: Pool,
        *,
        count: int,
        seed: tuple[int, ...],
        chunk: int = 1 << 22,
    ) -> Negatives:
        """Sample ``count`` negatives from a pool for every positive; ``target`` ``[P]`` are events.

        All threads together sample ``chunk`` negatives at a time.
        """
        (key,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        owners, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        choices = pool.until(self._part.timestamp[target])
        threads = thread_count()
        step = max(chunk // (count * threads), 1)

        def of_chunk(start: int) -> np.ndarray:
            own = slice(start, start + step)
            return self._draw_chunk(target[own], pool, choices[own], count, key)

        starts = range(0, len(target), step)
        for start, drawn in zip(starts, map_in_order(of_chunk, starts, threads), strict=True):
            kept = np.flatnonzero(drawn != NONE)
            owners.append(start + kept // count)
            items.append(drawn[kept])
        kept_items = np.concatenate(items)
        return Negatives(np.concatenate(owners), kept_items, len(target) * count - len(kept_items))

    def _draw_chunk(
        self, target: np.ndarray, pool: Pool, choices: np.ndarray, count: int, key: np.uint64
    ) -> np.ndarray:
        """Return ``count`` negatives for each positive in turn; ``NONE`` for those given up."""
        numbers = (target + self._part.first_event)[:, None] * count + np.arange(count)
        numbers = numbers.reshape(-1)
        drawn = np.full(len(numbers), NONE, np.int32)
        pending = np.flatnonzero(np.repeat(choices, count))
        for draw in range(DRAWS):
            if not len(pending):
                break
            row = pending // count
            uniform = uniform_numbers(numbers[pending] * DRAWS + draw, key)
            item = pool.item.take((uniform * choices[row]).astype(np.int64))
            taken = item == self._part.item[target[row]]
            if self._earlier is not None:
                taken |= self._earlier.contain(self._sequence[target[row]], item, target[row])
            drawn[pending] = np.where(taken, NONE, item)
            pending = pending[taken]
        return drawn


class TargetNegatives:
    """Sampler of the negatives of all positives of a log.

    Training negatives are sampled from the events that popularity counts, so each is an item that
    training knows. Validation and test negatives are sampled from all events up to their time, so
    items unknown in training occur among the negatives as they do among the positives. ``missing``
    counts the negatives that were given up.
    """

    def __init__(
        self,
        workspace: "Workspace",
        options: ImplicitOptions,
        events: "Events",
        split: Split,
        known: np.ndarray,
    ) -> None:
        self.options, self._num_items, self.missing = options, events.num_items, 0
        chosen = np.zeros(len(events.item), bool)
        for part in events.parts():
            stop = part.first_event + len(part.item)
            chosen[part.first_event : stop] = split.marks(part).chosen & known[part.item]
        kind = events.num_items, options.negative_distribution
        self._train = Pool(workspace.folder / "pool of training", *kind, chosen)
        self._held_out = Pool(workspace.folder / "pool", *kind)
        for batch in events.by_time(workspace):
            self._train.add(*batch)
            self._held_out.add(*batch)

    def of_part(self, part: EventPart) -> Callable[[np.ndarray, int], tuple[np.ndarray, ...]]:
        """Return a function of positives (events of the part) and their side.

        It returns event, item and label of each positive, followed by those of its negatives.
        """
        sampler = NegativeSampler(part, self._num_items, self.options.allow_own_negatives)

        def draw(target: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
            pool = self._train if side == TRAIN else self._held_out
            seed = (self.options.seed, 1, side)
            drawn = sampler.draw(target, pool, count=self.options.negatives, seed=seed)
            self.missing += drawn.missing
            positive = np.concatenate([np.arange(len(target)), drawn.positive])
            order = np.argsort(positive, kind="stable")
            label = (order < len(target)).astype(np.int8)
            item = np.concatenate([part.item[target], drawn.item])[order]
            return target[positive[order]], item, label

        return draw


def uniform_numbers(counters: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a random number in [0, 1) for each counter, float64: SplitMix64, 53 bits.

    Source: Steele, Lea and Flood, OOPSLA 2014.

    >>> uniform_numbers(np.arange(2), np.uint64(0)).round(4).tolist()
    [0.8833, 0.4315]
    """
    bits = key + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ bits >> np.uint64(31)) >> np.uint64(11)) * 2.0**-53
