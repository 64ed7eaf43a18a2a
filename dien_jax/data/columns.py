"""Columns of features and examples, in one part or in several.

Dimensions: n rows of a column, R rows that are taken.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dien_jax.data.metadata import EXAMPLE_COLUMNS
from dien_jax.data.parts import ChainedArray, Rows, chained
from dien_jax.data.schema import Feature, FeatureValues, MultiValued
from dien_jax.errors import UserError, suggestion


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
