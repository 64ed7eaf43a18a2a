"""Columns of features and examples, in one part or in several that are read as one.

Dimensions: n rows of all parts together, K parts, R rows that are read, T entries of a window.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Union, overload

import numpy as np

from dien_jax.data.arrays import chunks
from dien_jax.data.metadata import EXAMPLE_COLUMNS
from dien_jax.data.schema import Feature, FeatureValues, MultiValued
from dien_jax.errors import UserError, suggestion

Rows = Union[np.ndarray, "ChainedArray"]
"""An array of one dimension: in memory or mapped, in one part or in several."""


class Located(NamedTuple):
    """Rows that are read, grouped by the part that has them."""

    order: np.ndarray  # int64 [R], which of the rows comes next in the groups
    rows: np.ndarray  # int64 [R, ...], rows of the parts, in that order
    spans: list[tuple[int, int, int]]  # a part, and where its group begins and ends in the order


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
        if rows.ndim > 1 and rows.size:
            return self._gather_blocks(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)
        taken = self.gather(self.locate(rows.reshape(-1)))
        return taken.reshape(rows.shape) if rows.ndim else taken[0]

    def locate(self, rows: np.ndarray) -> Located:
        """Group rows, integers ``[R]``, by part; negative ones count from the end.

        Raises:
          IndexError: for a row that does not exist.
        """
        rows = self._checked(rows)
        return self._grouped(rows, self._part_of(rows))

    def gather(self, located: Located) -> np.ndarray:
        """Return the rows that :meth:`locate` grouped, as it was given them.

        They may be located in another array with parts of the same sizes.
        """
        groups = [
            self._shifted(part, self.parts[part][located.rows[begin:end]])
            for part, begin, end in located.spans
        ]
        return self._in_order(groups, located)

    def windows(self, first: np.ndarray, width: int) -> np.ndarray:
        """Return :func:`windows` of the array."""
        located = self.locate(np.minimum(first, self.size - 1))
        groups = [
            self._shifted(part, _windows(self.parts[part], located.rows[begin:end], width))
            for part, begin, end in located.spans
        ]
        return self._in_order(groups, located) if groups else np.empty((0, width), self.dtype)

    def _gather_blocks(self, rows: np.ndarray) -> np.ndarray:
        """Return rows ``[R, T]``, faster where each T of them are of one part."""
        rows = self._checked(rows)
        part = self._part_of(rows.min(axis=1))
        if np.array_equal(part, self._part_of(rows.max(axis=1))):
            return self.gather(self._grouped(rows, part))
        return self.gather(self.locate(rows.reshape(-1))).reshape(rows.shape)

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        """Return rows from 0 on."""
        rows = rows.astype(np.int64, copy=False)
        if not rows.size:
            return rows
        least, greatest = int(rows.min()), int(rows.max())
        if least < -self.size or greatest >= self.size:
            raise IndexError(f"rows must be below {self.size}, got {least} to {greatest}")
        return rows if least >= 0 else np.where(rows < 0, rows + self.size, rows)

    def _part_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts[1:], rows, side="right")

    def _grouped(self, rows: np.ndarray, part: np.ndarray) -> Located:
        """Group rows ``[R, ...]`` by their parts ``[R]``."""
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=len(self.parts))).tolist()
        spans = [
            (number, begin, end)
            for number, (begin, end) in enumerate(pairwise([0, *ends]))
            if end > begin
        ]
        starts = self.starts[part[order]]
        return Located(order, rows[order] - starts.reshape(-1, *[1] * (rows.ndim - 1)), spans)

    def _in_order(self, groups: list[np.ndarray], located: Located) -> np.ndarray:
        if not groups:
            return np.empty(located.rows.shape, self.dtype)
        joined = np.concatenate(groups)
        taken = np.empty_like(joined)
        taken[located.order] = joined
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


class Column(NamedTuple):
    """Values of one feature over some rows.

    Attributes:
      values: int32 (categorical, multi-valued) or float32 (numeric): ``[rows]``, or the values of
        all rows in sequence when multi-valued.
      offsets: int64 ``[rows + 1]`` when multi-valued: row k has ``values[offsets[k] :
        offsets[k + 1]]``; None otherwise.
    """

    values: Rows
    offsets: Rows | None

    def take(self, rows: np.ndarray) -> "Column":
        """Return some rows, integers ``[R]``; row -1 is missing: value 0, or no values."""
        missing = rows < 0
        if self.offsets is None:
            values = self.values[rows]
            values[missing] = 0
            return Column(values, None)
        first = np.where(missing, 0, self.offsets[rows])
        count = np.where(missing, 0, self.offsets[rows + 1] - self.offsets[rows])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
        places = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], count)
        return Column(self.values[places], offsets)


class Examples(NamedTuple):
    """The n examples of one split, in the source's order.

    Attributes:
      sequence: int32 ``[n]``, the sequence of events that contains the history.
      history_end: int64 ``[n]``, one past the last event of the history, over all events.
      user: int32 ``[n]``, 0 for a user without a trained row.
      group: int32 ``[n]``, index into ``groups.txt``.
      item: int32 ``[n]``, the candidate.
      label: int8 ``[n]``, 1 for a click, else 0.
      context: the context features.
      probability: float32 ``[n]``, the true click probability, or None where it is unknown.
    """

    sequence: Rows
    history_end: Rows
    user: Rows
    group: Rows
    item: Rows
    label: Rows
    context: dict[str, Column] = {}  # noqa: RUF012 - never changed
    probability: Rows | None = None

    def take(self, rows: np.ndarray) -> "Examples":
        """Return some of the examples, integers ``[R]``, in the given order."""
        read = reader(self.sequence, rows)
        columns = {name: read(getattr(self, name)) for name in EXAMPLE_COLUMNS}
        context = {
            name: Column(read(column.values), None) if column.offsets is None else column.take(rows)
            for name, column in self.context.items()
        }
        probability = None if self.probability is None else read(self.probability)
        return Examples(**columns, context=context, probability=probability)


def reader(like: Rows, rows: np.ndarray) -> Callable[[Rows], np.ndarray]:
    """Return a function that reads rows of columns, faster for those with the parts of ``like``."""
    if not isinstance(like, ChainedArray):
        return lambda column: column[rows]
    located, starts = like.locate(rows), like.starts

    def read(column: Rows) -> np.ndarray:
        if isinstance(column, ChainedArray) and (
            column.starts is starts or np.array_equal(column.starts, starts)
        ):
            return column.gather(located)
        return column[rows]

    return read


class Splits(dict[str, Examples]):
    """The examples of every split; another name is a ``UserError``."""

    def __missing__(self, name: str) -> Examples:
        raise UserError(f"unknown split {name!r}{suggestion(name, self)} ({', '.join(self)})")


def joined_columns(parts: Sequence[Column]) -> Column:
    """Return the columns of several parts as one."""
    values = [np.asarray(part.values) for part in parts]
    offsets = [np.asarray(part.offsets) for part in parts if part.offsets is not None]
    if not offsets:
        return Column(chained(values), None)
    shifts = np.cumsum([0, *map(len, values[:-1])]).tolist()
    return Column(chained(values), chained(without_borders(offsets), shifts))


def without_borders(offsets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the offsets of parts without the first one of each part but the first part."""
    return [offsets[0], *(part[1:] for part in offsets[1:])]


def joined_examples(parts: Sequence[Examples]) -> Examples:
    """Return the examples of several parts as one."""

    def joined(columns: Sequence[Rows]) -> Rows:
        return chained([np.asarray(column) for column in columns])

    columns = {name: joined([getattr(part, name) for part in parts]) for name in EXAMPLE_COLUMNS}
    context = {
        name: joined_columns([part.context[name] for part in parts]) for name in parts[0].context
    }
    probabilities = [part.probability for part in parts if part.probability is not None]
    return Examples(
        **columns, context=context, probability=joined(probabilities) if probabilities else None
    )


def padded_columns(
    features: tuple[Feature, ...], columns: dict[str, Column], rows: np.ndarray | None
) -> dict[str, FeatureValues]:
    """Return the values of features over some rows, or over all, multi-valued ones padded."""
    return {f.name: _padded_column(f, columns[f.name], rows) for f in features}


def _padded_column(feature: Feature, column: Column, rows: np.ndarray | None) -> FeatureValues:
    if column.offsets is None:
        return np.array(column.values) if rows is None else column.values[rows]
    first = column.offsets[:-1] if rows is None else column.offsets[rows]
    last = column.offsets[1:] if rows is None else column.offsets[np.asarray(rows) + 1]
    assert feature.max_values is not None
    count = np.minimum(last - first, feature.max_values).astype(np.int32)
    slots = np.arange(feature.max_values)
    live = slots < count[:, None]
    values = np.zeros(live.shape, np.int32)
    values[live] = column.values[(first[:, None] + slots)[live]]
    return MultiValued(values, count)
