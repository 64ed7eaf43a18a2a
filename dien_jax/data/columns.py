"""Columns of features and examples, in memory or mapped.

Dimensions: n examples of a split, R rows that are read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.data.metadata import EXAMPLE_COLUMNS
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

    values: np.ndarray
    offsets: np.ndarray | None

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

    sequence: np.ndarray
    history_end: np.ndarray
    user: np.ndarray
    group: np.ndarray
    item: np.ndarray
    label: np.ndarray
    context: dict[str, Column] = {}  # noqa: RUF012 - never changed
    probability: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Examples":
        """Return some of the examples, integers ``[R]``, in the given order."""
        columns = {name: getattr(self, name)[rows] for name in EXAMPLE_COLUMNS}
        context = {name: column.take(rows) for name, column in self.context.items()}
        probability = None if self.probability is None else self.probability[rows]
        return Examples(**columns, context=context, probability=probability)


class Splits(dict[str, Examples]):
    """The examples of every split; another name is a ``UserError``."""

    def __missing__(self, name: str) -> Examples:
        raise UserError(f"unknown split {name!r}{suggestion(name, self)} ({', '.join(self)})")


def copied(tree: Any) -> Any:
    """Return arrays in memory, in the tuples and dictionaries that they are in."""
    if isinstance(tree, dict):  # jax.tree would sort it
        return type(tree)({name: copied(part) for name, part in tree.items()})
    if isinstance(tree, tuple):
        parts = map(copied, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return jax.tree.map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def joined_columns(parts: Sequence[Column]) -> Column:
    """Return the rows of several columns, one after another."""
    values = np.concatenate([part.values for part in parts])
    offsets = [part.offsets for part in parts if part.offsets is not None]
    if not offsets:
        return Column(values, None)
    lengths = np.concatenate([np.diff(part) for part in offsets])
    return Column(values, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))


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
