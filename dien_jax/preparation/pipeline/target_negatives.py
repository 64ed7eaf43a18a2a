"""Target negatives: for each positive, items that existed by then and that its user had not chosen.

Sampling does not look ahead of the positive. Negatives are sampled from the items of all events up
to that time, except the positive itself and the user's earlier items. Items that the user chose
later may be sampled: excluding them would leak the user's future, which is unknown when a model
ranks.

The random number of a draw is a function of the seed, the event and the number of the draw. So the
negatives of an event do not depend on which other events are processed with it, or where.

Dimensions: P positives, E events, K entries of a pool.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dien_jax.data.arrays import ArrayFile, sort_together
from dien_jax.preparation.options import Distribution, ImplicitOptions
from dien_jax.preparation.pipeline.splits import TRAIN, EventPart, Split
from dien_jax.utils.machine import map_in_order, thread_count

if TYPE_CHECKING:
    from dien_jax.preparation.pipeline.events import Events

DRAWS = 32  # draws before a negative is given up
NONE = -1  # the item of a negative that was given up


class Pool:
    """Entries to sample negatives from, oldest first, in files.

    Entries up to a given time are equally likely. For ``popularity``, every event is an entry, so
    items are sampled in proportion to their events; for ``uniform``, the first event of each item.
    ``path`` is a prefix of the files.
    """

    def __init__(self, path: Path, num_items: int, distribution: Distribution) -> None:
        self.item = ArrayFile(path.with_name(f"{path.name} item"), np.int32)  # of each entry
        self._time = ArrayFile(path.with_name(f"{path.name} time"), np.int64)
        self._is_new = np.ones(num_items, bool) if distribution == "uniform" else None

    def add(self, item: np.ndarray, time: np.ndarray) -> None:
        """Add events, oldest first: item and time of each, ``[n]``."""
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


class NegativeSampler:
    """Sampler of negatives, with replacement, for positives among the events of a part.

    A draw is repeated if it is the positive, or an item that the user chose before, unless
    ``allow_own``. If the pool is still empty, or the user chose nearly all of it, a positive gets
    fewer negatives. ``part`` has the events of the users of the positives. ``repeats`` counts those
    of an item that their user chose before, unless ``allow_own``.
    """

    def __init__(self, part: EventPart, num_items: int, allow_own: bool = False) -> None:
        self._part, self._allow_own = part, allow_own
        self._user_keys = part.sequence.astype(np.int64) * num_items  # of each event
        self.repeats = 0
        if not allow_own:
            keys, events = sort_together(self._user_keys + part.item, np.arange(len(part.item)))
            self._keys = np.append(keys, np.iinfo(np.int64).max)
            self._events = np.append(events, 0)  # an item's first event first
            self.repeats = int(np.count_nonzero(keys[1:] == keys[:-1]))

    def draw(
        self,
        target: np.ndarray,
        items: ArrayFile | np.ndarray,
        choices: np.ndarray,
        *,
        count: int,
        seed: tuple[int, ...],
        chunk: int = 1 << 22,
    ) -> np.ndarray:
        """Sample negatives of the events ``target`` ``[P]``.

        Those of ``target[k]`` are among the first ``choices[k]`` of ``items``, the entries ``[K]``
        of a pool. All threads together sample ``chunk`` negatives at a time.

        Returns:
          int32 ``[P, count]``, ``NONE`` for negatives that were given up.
        """
        (key,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        threads = thread_count()
        step = max(chunk // (count * threads), 1)

        def of_chunk(start: int) -> np.ndarray:
            own, most = target[start : start + step], choices[start : start + step]
            numbers = (own + self._part.first_event)[:, None] * count + np.arange(count)
            numbers = numbers.reshape(-1)
            drawn = np.full(len(numbers), NONE, np.int32)
            pending = np.flatnonzero(np.repeat(most, count))
            for draw in range(DRAWS):
                if not len(pending):
                    break
                row = pending // count
                uniform = uniform_numbers(numbers[pending] * DRAWS + draw, key)
                item = items.take((uniform * most[row]).astype(np.int64))
                taken = item == self._part.item[own[row]]
                if not self._allow_own:
                    taken |= self._chose_before(own[row], item)
                drawn[pending] = np.where(taken, NONE, item)
                pending = pending[taken]
            return drawn.reshape(-1, count)

        drawn = map_in_order(of_chunk, range(0, len(target), step), threads)
        return np.concatenate([np.zeros((0, count), np.int32), *drawn])

    def _chose_before(self, target: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return for each event whether its user chose the item before."""
        keys = self._user_keys[target] + item
        place = np.searchsorted(self._keys, keys)
        return (self._keys[place] == keys) & (self._events[place] < target)


class TargetNegatives:
    """Sampler of the negatives of all positives of a log.

    Training negatives are sampled from the events that popularity counts, so each is an item that
    training knows. Validation and test negatives are sampled from all events up to their time, so
    items unknown in training occur among the negatives as they do among the positives. ``missing``
    counts the negatives that were given up, ``repeats`` is the sum of those of the samplers.
    """

    def __init__(
        self, options: ImplicitOptions, events: "Events", split: Split, known: np.ndarray
    ) -> None:
        self.options, self._num_items = options, events.num_items
        self.missing = self.repeats = 0
        chosen = np.zeros(len(events.item), bool)
        for part in events.parts():
            stop = part.first_event + len(part.item)
            chosen[part.first_event : stop] = split.marks(part).chosen & known[part.item]
        folder, kind = events.workspace.folder, (events.num_items, options.negative_distribution)
        self._train = Pool(folder / "pool of training", *kind)
        self._held_out = Pool(folder / "pool", *kind)
        for item, time, number in events.by_time():
            is_chosen = chosen[number]
            self._train.add(item[is_chosen], time[is_chosen])
            self._held_out.add(item, time)

    def of_part(self, part: EventPart) -> Callable[[np.ndarray, int], tuple[np.ndarray, ...]]:
        """Return a function of positives (events of the part) and their side.

        It returns event, item and label of each positive, followed by those of its negatives.
        """
        sampler = NegativeSampler(part, self._num_items, self.options.allow_own_negatives)
        self.repeats += sampler.repeats

        def draw(target: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
            pool = self._train if side == TRAIN else self._held_out
            choices, seed = pool.until(part.timestamp[target]), (self.options.seed, 1, side)
            count = self.options.negatives
            drawn = sampler.draw(target, pool.item, choices, count=count, seed=seed)
            item = np.column_stack([part.item[target], drawn])
            is_there = item != NONE
            self.missing += int(np.count_nonzero(~is_there))
            label = np.zeros_like(item, np.int8)
            label[:, 0] = 1
            return np.repeat(target, is_there.sum(axis=1)), item[is_there], label[is_there]

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
