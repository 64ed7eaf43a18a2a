"""Counts of pairs of values, of which the most frequent ones are kept.

Pairs come in any order. They are sorted and counted a chunk at a time; the chunks of counts are
brought together for one range of values after another. Memory is a few hundred bytes for each pair
of one chunk, some 40 for each that is kept, and 12 for each distinct pair of all, unless these are
in files.

Dimensions: V values of a feature, P pairs, N pairs of one call.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dien_jax.data.arrays import open_array, release
from dien_jax.data.schema import ValueStatistics
from dien_jax.utils.progress import Progress, unseen

MAX_KEPT = 1 << 23
"""Pairs that are kept; of longer logs, those that few sequences have are left out."""
CHUNK_PAIRS = 1 << 22  # pairs sorted at a time


class _Counted(NamedTuple):
    """Counts of distinct pairs that were sorted together, by earlier and then by later value."""

    earlier: np.ndarray  # int32 [P]
    later: np.ndarray  # int32 [P], twice the later value, and 1 more if they are neighbours
    users: np.ndarray  # int32 [P]


class _Rows(NamedTuple):
    """Pairs from both sides, by value."""

    key: np.ndarray  # int64 [P], value V + other, rising
    together: np.ndarray  # int32 [P]
    before: np.ndarray  # int32 [P]
    following: np.ndarray  # int32 [P]


class PairCounts:
    """Number of users who chose an earlier and a later value.

    Args:
      size: V.
      folder: an empty folder for the chunks of counts; None to keep them in memory.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        self._size, self._folder = size, folder
        self._pending: list[np.ndarray] = []
        self._counted: list[_Counted] = []

    def add(self, earlier: np.ndarray, later: np.ndarray, are_neighbours: np.ndarray) -> None:
        """Count pairs of one user each, ``[N]``: two values, and whether one followed the other."""
        self._pending.append((earlier.astype(np.int64) * self._size + later) * 2 + are_neighbours)
        if sum(map(len, self._pending)) > CHUNK_PAIRS:
            self._sort()

    def _sort(self) -> None:
        if self._pending:
            keys = np.concatenate(self._pending)
            self._pending = []
            key, users = np.unique(keys, return_counts=True)
            del keys
            columns = np.empty((3, len(key)), np.int32)
            columns[2] = users
            np.divmod(key, 2 * self._size, out=(columns[0], columns[1]), casting="same_kind")
            if self._folder is not None:
                file = self._folder / f"{len(self._counted)}.npy"
                np.save(file, columns)
                columns = np.asarray(open_array(file))
            self._counted.append(_Counted(*columns))

    def statistics(
        self, count: np.ndarray, sequences: int, progress: Progress = unseen
    ) -> ValueStatistics:
        """Return the counts of pairs, in rows, with those of values ``[V]`` and of sequences."""
        self._sort()
        pairs, least = self._most_frequent(progress)
        row, other = np.divmod(pairs.key, self._size)
        offsets = np.searchsorted(row, np.arange(self._size + 1)).astype(np.int32)
        return ValueStatistics(
            count=count.astype(np.int32),
            offsets=offsets,
            other=other.astype(np.int32),
            together=pairs.together,
            before=pairs.before,
            following=pairs.following,
            sequences=sequences,
            least=least,
            longest=int(np.diff(offsets).max()),
        )

    def _most_frequent(self, progress: Progress) -> tuple[_Rows, int]:
        """Return at most ``MAX_KEPT`` pairs, and the least number of users that they have."""
        kept, total, least = [_no_rows()], 0, 1
        for first, end in self._ranges():
            rows = self._rows(first, end)
            kept.append(_where(rows, rows.together >= least))
            total += len(kept[-1].key)
            if 4 * total > 5 * MAX_KEPT:
                kept, least = _cut(kept, least)
                total = len(kept[0].key)
            progress(end / self._size)
        kept, least = _cut(kept, least)
        progress(1.0)
        return kept[0], least

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of values that have some ``CHUNK_PAIRS`` pairs each, or are one value."""
        pairs = np.zeros(self._size, np.int64)
        for counted in self._counted:
            pairs += np.bincount(counted.earlier, minlength=self._size)
            pairs += np.bincount(counted.later >> 1, minlength=self._size)
            release(counted.earlier)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs)])
        first = 0
        while first < self._size and before[first] < before[-1]:
            end = int(np.searchsorted(before, before[first] + CHUNK_PAIRS, side="right")) - 1
            end = max(end, first + 1)
            yield first, end
            first = end

    def _rows(self, first: int, end: int) -> _Rows:
        """Return the pairs of a range of values from both sides."""
        keys, users = [], []
        for counted in self._counted:
            for key, number in (self._of_earlier(counted, first, end),
                                self._of_later(counted, first, end)):  # fmt: skip
                keys.append(key)
                users.append(number)
            release(counted.earlier)
        key, number = sort_together(np.concatenate(keys), np.concatenate(users))
        starts = np.flatnonzero(np.diff(key >> 2, prepend=-1))
        columns = [number, number * ((key & 2) > 0), number * ((key & 1) > 0)]
        together, before, following = (np.add.reduceat(column, starts) for column in columns)
        return _Rows(key[starts] >> 2, *(n.astype(np.int32) for n in (together, before, following)))

    def _of_earlier(self, counted: _Counted, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs whose earlier value is in a range, as 4 (value V + other), and users."""
        chosen = slice(*np.searchsorted(counted.earlier, np.array([first, end], np.int32)).tolist())
        earlier = counted.earlier[chosen].astype(np.int64)
        return 4 * (earlier * self._size + (counted.later[chosen] >> 1)), counted.users[chosen]

    def _of_later(self, counted: _Counted, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs whose later value is in a range, as 4 (value V + other) + 2, and users.

        Those of neighbours have 1 more.
        """
        chosen = np.flatnonzero((counted.later >= 2 * first) & (counted.later < 2 * end))
        later = counted.later[chosen].astype(np.int64)
        pair = (later >> 1) * self._size + counted.earlier[chosen]
        return 4 * pair + 2 + (later & 1), counted.users[chosen]


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


def _no_rows() -> _Rows:
    none = np.zeros(0, np.int32)
    return _Rows(np.zeros(0, np.int64), none, none, none)


def _where(rows: _Rows, chosen: np.ndarray) -> _Rows:
    return _Rows(*(column[chosen] for column in rows))


def _cut(parts: list[_Rows], least: int) -> tuple[list[_Rows], int]:
    """Leave out the pairs of fewest users until ``MAX_KEPT`` or fewer are left."""
    together = np.concatenate([part.together for part in parts])
    excess = len(together) - MAX_KEPT
    if excess > 0:
        # All pairs with as many users as the first that does not fit are left out.
        together.partition(excess - 1)
        least = int(together[excess - 1]) + 1
    del together
    parts = [_where(part, part.together >= least) for part in parts]
    return [_Rows(*map(np.concatenate, zip(*parts, strict=True)))], least
