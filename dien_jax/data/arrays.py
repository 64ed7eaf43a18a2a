"""Arrays in files, read in bounded memory and checked, and columns of features and examples.

Dimensions: n examples of a split, R rows that are read.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.schema import Column
from dien_jax.errors import UserError, failing, reading, suggestion
from dien_jax.utils.files import MAPPED

CHUNK_ROWS = 1 << 20  # rows checked or written at a time
LARGE_BYTES = 1 << 20  # pages of larger mapped files are released
Check = tuple[Callable[[np.ndarray], np.ndarray], str]  # marks valid entries; describes them
COUNTS: Check = (lambda counts: counts >= 0, "a count of 0 or more")


class FolderFiles:
    """The files of a dataset folder as they were when it was opened.

    A mapped array has the content of its file at the time of access: a file that is rewritten in
    place changes values without an error, and a truncated one crashes the process. A file that is
    removed, or replaced by another under its name, does not change in existing mappings.
    """

    def __init__(self, *folders: Path) -> None:
        found = (file for folder in folders for file in folder.rglob("*.*"))
        files = sorted(str(file) for file in found if file.suffix in (".npy", ".txt", ".json"))
        self._seen = {file: _mark(file) for file in files}

    def array_bytes(self) -> int:
        """Return the size of all arrays."""
        return sum(mark[1] for file, mark in self._seen.items() if mark and file.endswith(".npy"))

    def forget_arrays(self) -> None:
        """Check only text files from now on, because arrays were copied."""
        self._seen = {file: seen for file, seen in self._seen.items() if not file.endswith(".npy")}

    def check(self, *named: Path, opening: bool = False) -> None:
        """Raise a ``UserError`` that names a file whose size or time has changed in place.

        Files that are ``named``, or all while ``opening``, must not be missing or replaced either.
        """
        by_name = {str(file) for file in named}
        for file, seen in self._seen.items():
            now = _mark(file)
            if seen is None or now == seen:
                continue
            if not (opening or file in by_name) and (now is None or now[0] != seen[0]):
                continue
            change = f"{_described(seen)} when it was opened, {_described(now)} now"
            advice = "Write a dataset to a new folder, and start again"
            raise UserError(f"{file} changed while it was in use: {change}. {advice}")


_Mark = tuple[tuple[int, int], int, int]  # device and inode, size, time of the last change


def _mark(file: str) -> _Mark | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - each batch checks all files
    except OSError:
        return None
    return (found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns


def _described(mark: _Mark | None) -> str:
    return f"{mark[1]:,} bytes of time {mark[2] / 1e9:.3f}" if mark else "missing"


def chunks(rows: int, size: int | None = None) -> Iterator[slice]:
    """Yield slices of ``size`` rows, by default ``CHUNK_ROWS``, that cover ``rows`` rows."""
    size = size or CHUNK_ROWS
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def open_array(file: Path) -> np.memmap:
    """Map the array of a ``.npy`` file; for a damaged one, NumPy raises exceptions of any kind."""
    MAPPED[str(file)] = file.stat().st_size
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except SystemError:
        # Python 3.11 fails to parse the header if JAX's garbage-collector callback runs meanwhile
        # ("AST constructor recursion depth mismatch"); the file is intact.
        return np.lib.format.open_memmap(file, mode="r")


def read_array(
    file: Path, dtype: type[np.generic], rows: int | None, check: Check | None = None
) -> np.ndarray:
    """Map an array of one dimension, and check its entries."""
    with failing(f"{file}: damaged, or not a .npy file"), reading(file):
        if not file.exists():
            raise UserError(f"{file} is missing")
        array = np.asarray(open_array(file))
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        shape = f"shape {array.shape} of {array.dtype}"
        raise UserError(f"{file}: expected one dimension of {np.dtype(dtype)}, found {shape}")
    if rows is not None and len(array) != rows:
        raise UserError(f"{file}: expected {rows} entries, found {len(array)}")
    if check is not None:
        is_valid, expected = check
        row = first_bad(len(array), lambda part: is_valid(array[part]), array)
        if row is not None:
            raise UserError(f"{file}: entry {row} should be {expected}, found {array[row]}")
    return array


def release(array: np.ndarray) -> None:
    """Release the pages of a mapped array; a later access reads them from the file again."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and len(base) > LARGE_BYTES:
        base.madvise(mmap.MADV_DONTNEED)


def first_bad(rows: int, valid: Callable[[slice], np.ndarray], *mapped: np.ndarray) -> int | None:
    """Return the first invalid row, or None; mapped arrays are released after each chunk."""
    for part in chunks(rows):
        good = valid(part)
        for array in mapped:
            release(array)
        if not good.all():
            return part.start + int(np.argmin(good))
    return None


def read_ids(file: Path, dtype: type[np.generic], rows: int | None, end: int) -> np.ndarray:
    check = (lambda ids: (ids >= 0) & (ids < end), f"at least 0 and below {end}")
    return read_array(file, dtype, rows, check)


def read_offsets(file: Path, rows: int, total: int) -> np.ndarray:
    """Map and check the offsets of ``rows`` rows that have ``total`` values."""
    offsets = read_array(file, np.int64, rows + 1)
    if offsets[0] != 0 or offsets[-1] != total:
        span = f"{offsets[0]} to {offsets[-1]}"
        raise UserError(f"{file}: expected offsets from 0 to {total}, found {span}")
    row = first_bad(rows, lambda part: np.diff(offsets[part.start : part.stop + 1]) >= 0, offsets)
    if row is not None:
        fall = f"{offsets[row]} then {offsets[row + 1]} at entry {row}"
        raise UserError(f"{file}: offsets must not fall, found {fall}")
    return offsets


def sort_together(key: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort pairs of an int64 key and a number, both 0 or more; this overwrites the keys.

    >>> [column.tolist() for column in sort_together(np.array([7, 5, 5]), np.array([1, 2, 0]))]
    [[5, 5, 7], [0, 2, 1]]
    """
    bits = int(number.max(initial=0)).bit_length()
    if int(key.max(initial=0)).bit_length() + bits > 63:
        order = np.lexsort((number, key))
        return key[order], number[order]
    # Sorting numbers is several times faster than sorting indices.
    key <<= bits
    key |= number
    key.sort()
    number = (key & ((1 << bits) - 1)).astype(number.dtype, copy=False)
    key >>= bits
    return key, number


class ArrayFile:
    """A one-dimensional array in a new file of raw values that can grow.

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
        """Append entries."""
        with self.path.open("ab") as stream:
            stream.write(np.ascontiguousarray(values, self.dtype).data)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the entries from ``start`` to ``stop``, all of them by default."""
        stop = len(self) if stop is None else min(stop, len(self))
        count, offset = max(stop - start, 0), start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=offset)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all entries, ``CHUNK_ROWS`` at a time."""
        for part in chunks(len(self)):
            yield self.read(part.start, part.stop)

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the entries at indices ``places``, integers ``[n]`` in any order."""
        taken = np.empty(len(places), self.dtype)
        if not len(places):
            return taken
        ordered, order = sort_together(places.astype(np.int64), np.arange(len(places)))
        entries = np.asarray(np.memmap(self.path, self.dtype, "r", shape=(len(self),)))
        ends = [part.stop for part in chunks(len(self))]
        for begin, end in pairwise([0, *np.searchsorted(ordered, ends).tolist()]):
            if begin < end:
                taken[order[begin:end]] = entries[ordered[begin:end]]
                release(entries)
        return taken


class Examples(NamedTuple):
    """The n examples of one split, in the source's order.

    Attributes:
      sequence: int32 ``[n]``, the sequence of events that contains the history.
      history_end: int64 ``[n]``, one past the last event of the history, over all events.
      user: int32 ``[n]``, 0 for a user without a trained row.
      group: int32 ``[n]``, index into ``groups.txt``.
      item: int32 ``[n]``, the candidate.
      label: int8 ``[n]``, 1 for a click, else 0.
      columns: features of the request and of the candidate, by name.
    """

    sequence: np.ndarray
    history_end: np.ndarray
    user: np.ndarray
    group: np.ndarray
    item: np.ndarray
    label: np.ndarray
    columns: dict[str, Column] = {}  # noqa: RUF012 - never changed

    def take(self, rows: np.ndarray) -> "Examples":
        """Return some of the examples, integers ``[R]``, in the given order."""
        *ids, columns = self
        taken = {name: column.take(rows) for name, column in columns.items()}
        return Examples._make([*(column[rows] for column in ids), taken])


class Splits(dict[str, Examples]):
    """The examples of every split; another name is a ``UserError``."""

    def __missing__(self, name: str) -> Examples:
        raise UserError(f"unknown split {name!r}{suggestion(name, self)} ({', '.join(self)})")


def joined_columns(parts: Sequence[Column]) -> Column:
    """Concatenate the rows of several columns."""
    values = np.concatenate([part.values for part in parts])
    offsets = [part.offsets for part in parts if part.offsets is not None]
    if not offsets:
        return Column(values, None)
    lengths = np.concatenate([np.diff(part) for part in offsets])
    return Column(values, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
