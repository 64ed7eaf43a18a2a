"""Arrays that are longer than the memory: files that are read a range at a time."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data.arrays import release, sort_together

BLOCK = 1 << 20  # entries read at a time


class ArrayFile:
    """A one-dimensional array in a new file of raw values, to which entries are added.

    >>> import tempfile
    >>> squares = ArrayFile(Path(tempfile.mkdtemp()) / "squares", np.int64)
    >>> squares.append(np.arange(3) ** 2)
    >>> squares.append(np.array([9, 16]))
    >>> len(squares), squares.read(2, 4).tolist(), squares.take(np.array([4, 0, 4])).tolist()
    (5, [4, 9], [16, 0, 16])
    """

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        path.write_bytes(b"")

    def __len__(self) -> int:
        return self.path.stat().st_size // self.dtype.itemsize

    def append(self, values: Any) -> None:
        """Write some more entries."""
        with self.path.open("ab") as stream:
            stream.write(np.ascontiguousarray(values, self.dtype).data)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the entries from ``start`` to ``stop``, all of them by default."""
        stop = len(self) if stop is None else min(stop, len(self))
        count, offset = max(stop - start, 0), start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=offset)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all entries, ``BLOCK`` at a time."""
        for start in range(0, len(self), BLOCK):
            yield self.read(start, start + BLOCK)

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the entries at some places, integers of any order, ``[n]``."""
        taken = np.empty(len(places), self.dtype)
        if not len(places):
            return taken
        ordered, order = sort_together(places.astype(np.int64), np.arange(len(places)))
        entries = np.asarray(np.memmap(self.path, self.dtype, "r", shape=(len(self),)))
        ends = np.arange(BLOCK, len(self) + BLOCK, BLOCK)
        for begin, end in pairwise([0, *np.searchsorted(ordered, ends).tolist()]):
            if begin < end:
                taken[order[begin:end]] = entries[ordered[begin:end]]
                release(entries)
        return taken
