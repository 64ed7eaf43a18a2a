"""Ids and feature values as rows of vocabularies, counted in training and nowhere else.

Dimensions: n rows that a feature describes (items, users or impressions), V values of a
vocabulary, the unknown one included.
"""

from collections.abc import Iterator
from typing import NamedTuple

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.dataset import Column
from dien_jax.prepare.options import FeatureColumn
from dien_jax.prepare.workspace import Workspace
from dien_jax.schema import Feature


class Kept(NamedTuple):
    """Which of many values have a row of their own, the most frequent first.

    Attributes:
      values: int64 ``[V - 1]``: row k + 1 is that of value ``values[k]``.
      row_of: int32 ``[n + 1]``: the row of each of n values, 0 for one too rare; the last entry,
        which is 0, is what -1 (no value) finds.
    """

    values: np.ndarray
    row_of: np.ndarray


class Encoded(NamedTuple):
    """A feature over n rows.

    Attributes:
      feature: its entry in the schema.
      column: its values.
      values: table ``position`` and ``raw`` of all raw values, or None for numbers.
      kept: which of them are in the vocabulary, or None for numbers.
    """

    feature: Feature
    column: Column
    values: Table | None
    kept: Kept | None


def keep(counts: np.ndarray, min_count: int) -> Kept:
    """Gives a row to every value that occurs ``min_count`` times; equal counts stay in order.

    Args:
      counts: ``[n]``, how often each value occurs in training.
      min_count: at least 1.
    """
    order = np.argsort(-counts, kind="stable")
    values = order[counts[order] >= min_count]
    row_of = np.zeros(len(counts) + 1, np.int32)
    row_of[values] = np.arange(1, len(values) + 1)
    return Kept(values, row_of)


def raw_values(workspace: Workspace, values: Table, kept: Kept) -> Iterator[str]:
    """The vocabulary: an empty text for the unknown row, then the kept values by row."""
    yield ""
    chosen = pa.table({"position": kept.values, "row": np.arange(len(kept.values))})
    joined = values.join(workspace.store("chosen", chosen), "position")
    yield from workspace.strings(joined.order_by("row"), "raw")


def encode(
    workspace: Workspace,
    table: Table,
    rows: int,
    columns: list[FeatureColumn],
    *,
    trained: np.ndarray,
    min_count: int,
    separator: str,
    max_values: int,
) -> list[Encoded]:
    """The features of all rows of a table.

    Values are counted over the training events (impressions) of the rows that have them. Numbers
    are standardised with the mean and deviation of the rows that have any, each counted once.

    Args:
      workspace: where the values are numbered.
      table: ``position`` and the features' columns.
      rows: n.
      columns: the features.
      trained: int64 ``[n]``, how many training events each row has.
      min_count: values that occur less often in training share the unknown row.
      separator: between the values of a multi-valued cell.
      max_values: how many of them are kept, the first ones.
    """
    encoded = []
    for column in columns:
        values = table.select("position", raw=table[column.alias])
        if column.kind == "numeric":
            encoded.append(_numeric(workspace, values, rows, column.name, trained))
        elif column.kind == "categorical":
            encoded.append(_categorical(workspace, values, rows, column.name, trained, min_count))
        else:
            pieces = _pieces(values, separator)
            encoded.append(
                _multivalued(workspace, pieces, column.name, trained, min_count, max_values)
            )
    return encoded


def take(column: Column, rows: np.ndarray) -> Column:
    """Some rows of a column; row -1 is unknown: value 0, no values, or a missing number."""
    if column.offsets is None:
        values = column.values[rows]
        values[rows < 0] = 0
        return Column(values, None)
    starts = np.where(rows < 0, 0, column.offsets[rows])
    lengths = np.where(rows < 0, 0, column.offsets[rows + 1] - column.offsets[rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Column(column.values[places], offsets)


def _numeric(
    workspace: Workspace, values: Table, rows: int, name: str, trained: np.ndarray
) -> Encoded:
    numbers = workspace.arrays(values.order_by("position"), rows, {"raw": np.float64})["raw"]
    known = numbers[(trained > 0) & ~np.isnan(numbers)]
    mean = float(known.mean()) if len(known) else 0.0
    deviation = float(known.std()) if len(known) else 1.0
    deviation = deviation if deviation > 1e-9 * abs(mean) else 1.0
    standard = np.nan_to_num((numbers - mean) / deviation, nan=0.0).astype(np.float32)
    feature = Feature(name, "numeric", mean=mean, deviation=deviation)
    return Encoded(feature, Column(standard, None), None, None)


def _categorical(
    workspace: Workspace, values: Table, rows: int, name: str, trained: np.ndarray, min_count: int
) -> Encoded:
    known = values.filter(values.raw.notnull()).mutate(rank=0)
    numbered, count = _number(workspace, known, name)
    joined = values.left_join(numbered.select(raw="raw", code="position"), "raw")
    codes = workspace.arrays(joined.order_by("position"), rows, {"code": np.int32})["code"]
    kept = keep(np.bincount(codes + 1, trained, count + 1)[1:], min_count)
    feature = Feature(name, "categorical", size=len(kept.values) + 1)
    return Encoded(feature, Column(kept.row_of[codes], None), numbered, kept)


def _multivalued(
    workspace: Workspace,
    pieces: Table,
    name: str,
    trained: np.ndarray,
    min_count: int,
    max_values: int,
) -> Encoded:
    pieces = workspace.store(f"pieces of {name}", pieces)
    numbered, count = _number(workspace, pieces, name)
    joined = pieces.join(numbered.select(raw="raw", code="position"), "raw")
    arrays = workspace.arrays(
        joined.order_by("position", "rank"),
        workspace.count(pieces),
        {"position": np.int64, "code": np.int32},
    )
    position, codes = arrays["position"], arrays["code"]
    kept = keep(np.bincount(codes, trained[position], count), min_count)
    values = kept.row_of[codes]
    size = len(kept.values) + 1
    first = np.sort(np.unique(position * size + values, return_index=True)[1])
    position, values = position[first], values[first]
    offsets = np.searchsorted(position, np.arange(len(trained) + 1))
    in_time = np.arange(len(values)) - offsets[position] < max_values
    position, values = position[in_time], values[in_time]
    offsets = np.searchsorted(position, np.arange(len(trained) + 1)).astype(np.int64)
    most = max(int(np.diff(offsets).max(initial=0)), 1)
    feature = Feature(name, "multivalued", size=size, max_values=most)
    return Encoded(feature, Column(values, offsets), numbered, kept)


def _pieces(values: Table, separator: str) -> Table:
    """The values of every cell: ``position``, ``rank`` in the cell, ``raw`` without spaces."""
    cells = values.filter(values.raw.notnull())
    parts = cells.raw.split(separator)
    pieces = cells.select(
        "position", rank=ibis.range(0, parts.length()).unnest(), raw=parts.unnest().strip()
    )
    return pieces.filter(pieces.raw != "")


def _number(workspace: Workspace, known: Table, name: str) -> tuple[Table, int]:
    """All raw values once: ``raw`` and ``position``, by first appearance; and how many."""
    first = known.position.cast("int64") * (1 << 20) + known["rank"]
    grouped = known.group_by("raw").aggregate(first=first.min())
    numbered = grouped.mutate(position=ibis.row_number().over(order_by=grouped["first"]))
    stored = workspace.store(f"values of {name}", numbered.drop("first"))
    return stored, workspace.count(stored)
