"""Counts of pairs of values, of which the most frequent ones are kept.

Pairs come in any order, from several threads. They are sorted and counted a chunk at a time; each
chunk of counts has its pairs from both sides, by value. The chunks are brought together for one
range of values after another. Memory is a few hundred bytes for each pair of one chunk, some 40 for
each that is kept, and 24 for each distinct pair of all, unless these are in files.

Dimensions: V values of a feature, P pairs, N pairs of one call.
"""

import itertools
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dien_jax.data.arrays import open_array, release
from dien_jax.data.tables import ValueStatistics
from dien_jax.statistics.training_events import SLICE_EVENTS
from dien_jax.utils.machine import map_in_order, trim_memory

SAMPLES = 256  # keys that a range is found by


class Limits(NamedTuple):
    """Bounds of a count of a long log, and of what memory holds of it at a time.

    Attributes:
      distinct: distinct values of a sequence that take part in pairs, the first ones.
      pairs: pairs that are counted; of longer logs, fewer values of each sequence take part.
      kept: pairs that are kept; of longer logs, those that few sequences have are left out.
      chunk: pairs sorted at a time, by all threads.
      slice: events that a thread counts at a time, or one longer sequence.
      firsts: events of a log whose first occurrences are kept for the second pass; those of a
        longer one are computed again.
    """

    distinct: int = 100
    pairs: int = 1 << 26
    kept: int = 1 << 23
    chunk: int = 1 << 21
    slice: int = SLICE_EVENTS
    firsts: int = 1 << 22


class _Pairs(NamedTuple):
    """Pairs from both sides, by value."""

    key: np.ndarray  # int64 [P], value V + other, rising
    users: np.ndarray  # int32 [P]

    def of_users(self, least: int) -> "_Pairs":
        """Return the pairs that some users have, at least."""
        is_kept = self.users >= least
        return _Pairs(self.key[is_kept], self.users[is_kept])


class PairCounts:
    """Number of users who chose two values.

    Args:
      size: V.
      folder: an empty folder for the chunks of counts; None to keep them in memory.
      threads: how many add pairs, and how many bring counts together.
      limits: the bounds of memory.
    """

    def __init__(
        self,
        size: int,
        folder: Path | None = None,
        threads: int = 1,
        limits: Limits = Limits(),  # noqa: B008 - never changed
    ) -> None:
        self._size, self._folder, self._threads = size, folder, threads
        self._chunk, self._most = limits.chunk // threads, limits.kept
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._pending: list[np.ndarray] = []
        self._counted: list[_Pairs] = []

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Count pairs of two distinct values, ``[N]`` each, of one user each."""
        keys = np.minimum(one, other).astype(np.int64) * self._size + np.maximum(one, other)
        with self._lock:
            self._pending.append(keys)
            if sum(map(len, self._pending)) <= self._chunk:
                return
            pending, self._pending = self._pending, []
        self._count(pending)

    def _count(self, pending: list[np.ndarray]) -> None:
        """Count the keys of some calls together, and forget them."""
        keys, users = np.unique(np.concatenate(pending), return_counts=True)
        pending.clear()
        less, more = np.divmod(keys, self._size)
        both = np.concatenate([keys, more * self._size + less])
        del keys, less, more
        key, number = sort_together(both, np.tile(users.astype(np.int32), 2))
        if self._folder is not None:
            place = next(self._numbers)
            key = _mapped(self._folder / f"pairs {place}.npy", key)
            number = _mapped(self._folder / f"users {place}.npy", number)
        self._counted.append(_Pairs(key, number))
        del both, key, number
        trim_memory()

    def statistics(self, count: np.ndarray, sequences: int) -> ValueStatistics:
        """Return the counts of pairs, in rows, with those of values ``[V]`` and of sequences."""
        if self._pending:
            self._count(self._pending)
        pairs, least = self._most_frequent()
        starts = np.arange(self._size + 1) * self._size
        offsets = np.searchsorted(pairs.key, starts).astype(np.int32)
        return ValueStatistics(
            count=count.astype(np.int32),
            offsets=offsets,
            other=(pairs.key % self._size).astype(np.int32),
            together=pairs.users,
            sequences=sequences,
            least=least,
            longest=int(np.diff(offsets).max()),
        )

    def _most_frequent(self) -> tuple[_Pairs, int]:
        """Return at most ``Limits.kept`` pairs, and the least number of users that they have."""
        kept, total, least = [_Pairs(np.zeros(0, np.int64), np.zeros(0, np.int32))], 0, 1
        for rows in map_in_order(self._rows, self._ranges(), self._threads):
            kept.append(rows.of_users(least))
            total += len(kept[-1].key)
            if 4 * total > 5 * self._most:
                least = _cut(kept, least, self._most)
                total = sum(len(part.key) for part in kept)
                trim_memory()
        least = _cut(kept, least, self._most)
        return _Pairs(*map(np.concatenate, zip(*kept, strict=True))), least

    def _ranges(self) -> list[tuple[int, int]]:
        """Return ranges of keys that have some ``_chunk`` pairs each, or are those of one value."""
        if not self._counted:
            return []
        step = max(self._chunk // SAMPLES, 1)
        samples = []
        for counted in self._counted:
            samples.append(counted.key[::step].copy())
            release(counted.key)
        sample = np.sort(np.concatenate(samples))
        borders = np.unique(sample[::SAMPLES] // self._size) * self._size
        return list(itertools.pairwise([*borders.tolist(), self._size**2]))

    def _rows(self, keys: tuple[int, int]) -> _Pairs:
        """Return the pairs of a range of keys."""
        found = []
        for counted in self._counted:
            chosen = slice(*np.searchsorted(counted.key, keys).tolist())
            found.append([column[chosen].copy() for column in counted])
            for column in counted:
                release(column)
        key, number = sort_together(*map(np.concatenate, zip(*found, strict=True)))
        del found
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        return _Pairs(key[starts], np.add.reduceat(number, starts).astype(np.int32))


def _mapped(file: Path, array: np.ndarray) -> np.ndarray:
    """Write an array to a file, and return it as a memory map."""
    np.save(file, array)
    return np.asarray(open_array(file))


def sort_together(key: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keys, int64, rising, and the number of each; both are 0 or more. Changes the keys.

    >>> [column.tolist() for column in sort_together(np.array([7, 5, 5]), np.array([1, 2, 0]))]
    [[5, 5, 7], [0, 2, 1]]
    """
    bits = int(number.max(initial=0)).bit_length()
    if int(key.max(initial=0)).bit_length() + bits > 63:
        order = np.lexsort((number, key))
        return key[order], number[order]
    # Numbers sort several times faster than an order of numbers.
    key <<= bits
    key |= number
    key.sort()
    number = (key & ((1 << bits) - 1)).astype(number.dtype, copy=False)
    key >>= bits
    return key, number


def _cut(parts: list[_Pairs], least: int, most: int) -> int:
    """Leave out the pairs of fewest users until ``most`` or fewer are left.

    Return the least number of users that pairs have now.
    """
    together = np.concatenate([part.users for part in parts])
    excess = len(together) - most
    if excess > 0:
        # All pairs with as many users as the first that does not fit are left out.
        together.partition(excess - 1)
        least = int(together[excess - 1]) + 1
    del together
    parts[:] = [part.of_users(least) for part in parts]
    return least
