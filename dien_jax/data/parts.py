"""Arrays in several parts, one after another, that are read as one array.

Dimensions: n rows of all parts together, K parts, R rows that are read, T entries of a window.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Union, overload

import numpy as np

from dien_jax.data.arrays import chunks

Rows = Union[np.ndarray, "ChainedArray"]
"""An array of one dimension: in memory or mapped, in one part or in several."""


class Piece(NamedTuple):
    """Some of the rows that are read, all of one part."""

    part: int
    places: np.ndarray  # int64 [R'], where they stand among the R rows that are read
    rows: np.ndarray  # int64 [R'], their rows in the part


class ChainedArray:
    """The concatenation of arrays of one dimension and type; read-only.

    It has the attributes of an array and is indexed as one, by a number, a slice, or an array of
    numbers or of booleans; what an index returns is an array, a view where a slice lies within one
    part. ``np.asarray`` gives all of it in memory. There is no arithmetic.

    >>> import numpy as np
    >>> array = ChainedArray([np.array([5, 6]), np.array([7])])
    >>> len(array), array[1:].tolist(), array[np.array([[2, 0]])].tolist()
    (3, [6, 7], [[7, 5]])

    Args:
      parts: the arrays; some may be empty.
      shifts: number that is added to the entries of each part; 0 by default.

    Attributes:
      parts: the arrays as given.
      starts: int64 ``[K + 1]``, where each part begins, and n.
    """

    ndim = 1
    __array_ufunc__ = None  # arithmetic with arrays raises instead of reading everything
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Sequence[np.ndarray], shifts: Sequence[int] | None = None) -> None:
        self.parts = tuple(parts)
        self._shifts = (0,) * len(self.parts) if shifts is None else tuple(shifts)
        sizes = np.array([len(part) for part in self.parts], np.int64)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.dtype = self.parts[0].dtype
        self.size = int(self.starts[-1])
        self.shape = (self.size,)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"ChainedArray({len(self.parts)} parts, {self.size} entries, {self.dtype})"

    def __eq__(self, other: object) -> bool:
        raise TypeError("entries are not compared in parts; compare a slice, or np.asarray of all")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in parts has to be copied to become one")
        return np.asarray(self._slice(0, self.size), dtype)

    def __iter__(self) -> Iterator[Any]:
        for rows in chunks(self.size):
            yield from self[rows]

    @overload
    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray: ...
    @overload
    def __getitem__(self, key: Any) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(self.size)
            if step == 1:
                return self._slice(start, max(start, stop))
            key = np.arange(start, stop, step)
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != self.shape:
                raise IndexError(f"expected {self.size} booleans, got shape {rows.shape}")
            rows = np.flatnonzero(rows)
        taken = self.gather(self.locate(rows.reshape(-1)))
        return taken.reshape(rows.shape) if rows.ndim else taken[0]

    def locate(self, rows: np.ndarray) -> list[Piece]:
        """Group rows, integers ``[R]``, by part; negative ones count from the end.

        Raises:
          IndexError: for a row that does not exist.
        """
        if not rows.size:
            return []
        rows = rows.astype(np.int64, copy=False)
        if (least := int(rows.min())) < 0:
            rows = np.where(rows < 0, rows + self.size, rows)
            least = min(int(rows.min()), 0)
        if least < 0 or int(rows.max()) >= self.size:
            raise IndexError(f"rows must be below {self.size}, got {rows.min()} to {rows.max()}")
        part = np.searchsorted(self.starts[1:], rows, side="right")
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=len(self.parts))).tolist()
        pieces, begin = [], 0
        for number, end in enumerate(ends):
            if end > begin:
                places = order[begin:end]
                pieces.append(Piece(number, places, rows[places] - self.starts[number]))
            begin = end
        return pieces

    def gather(self, pieces: list[Piece]) -> np.ndarray:
        """Return the rows that :meth:`locate` grouped, ``[R]``, in their order.

        They may be located in another array with parts of the same sizes.
        """
        taken = np.empty(sum(len(piece.places) for piece in pieces), self.dtype)
        for number, places, rows in pieces:
            taken[places] = self._shifted(number, self.parts[number][rows])
        return taken

    def windows(self, first: np.ndarray, width: int) -> np.ndarray:
        """Return :func:`windows` of the array."""
        taken = np.empty((len(first), width), self.dtype)
        for number, places, rows in self.locate(np.minimum(first, self.size - 1)):
            taken[places] = self._shifted(number, _windows(self.parts[number], rows, width))
        return taken

    def _shifted(self, number: int, values: np.ndarray) -> np.ndarray:
        shift = self._shifts[number]
        return values + self.dtype.type(shift) if shift else values

    def _slice(self, start: int, stop: int) -> np.ndarray:
        pieces = []
        first = int(np.searchsorted(self.starts[1:], start, side="right"))
        for number in range(first, len(self.parts)):
            begin = int(self.starts[number])
            if begin >= stop:
                break
            values = self.parts[number][max(start - begin, 0) : stop - begin]
            pieces.append(self._shifted(number, values))
        if not pieces:
            return np.empty(0, self.dtype)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def chained(parts: Sequence[np.ndarray], shifts: Sequence[int] | None = None) -> Rows:
    """Return arrays as one; a single array is itself."""
    return parts[0] if len(parts) == 1 else ChainedArray(parts, shifts)


def bounds(array: Rows) -> list[int]:
    """Return where the parts of an array begin, and its size."""
    return array.starts.tolist() if isinstance(array, ChainedArray) else [0, len(array)]


def part_of(array: Rows, number: int) -> np.ndarray:
    """Return a part of an array: a view where the entries of the part are not shifted."""
    begin, end = bounds(array)[number : number + 2]
    return array[begin:end]


def windows(array: Rows, first: np.ndarray, width: int) -> np.ndarray:
    """Return the entries from some rows on, ``[R, T]``; ``first`` are the rows, integers ``[R]``.

    Entries past the end of an array, or of the part in which the window begins, are any.

    >>> windows(np.array([5, 6, 7]), np.array([0, 1]), 2).tolist()
    [[5, 6], [6, 7]]
    """
    if isinstance(array, ChainedArray):
        return array.windows(first, width)
    return _windows(array, first, width)


def _windows(array: np.ndarray, first: np.ndarray, width: int) -> np.ndarray:
    return array.take(first[:, None] + np.arange(width), mode="clip")
