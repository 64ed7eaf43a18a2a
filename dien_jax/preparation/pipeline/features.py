"""Ids and feature values as rows of vocabularies, counted in training and nowhere else.

Where a folder is extended, its rows come first and stay, however often training sees them.

Dimensions: n rows that a feature describes (items, users or impressions), V values of a
vocabulary, the unknown one included.
"""

from collections.abc import Iterator
from typing import NamedTuple

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.dataset import Column, Dataset
from dien_jax.data.schema import Feature
from dien_jax.preparation.options import FeatureColumn
from dien_jax.preparation.pipeline.extending import Known, before, known
from dien_jax.preparation.reading.workspace import Workspace


class Kept(NamedTuple):
    """Which of many values have a row of their own: known ones, then the most frequent first.

    Attributes:
      values: int64 ``[V - 1]``: row k + 1 is that of value ``values[k]``, -1 for a known value
        that the log lacks.
      row_of: int32 ``[n + 1]``: the row of each of n values, 0 for one too rare; the last entry,
        which is 0, is what -1 (no value) finds.
      known: the raw values of the first rows, those of the folder that is extended.
    """

    values: np.ndarray
    row_of: np.ndarray
    known: list[str]

    def sources(self, count: int) -> np.ndarray:
        """For each row which of ``count`` values it is of, -1 for the unknown one.

        A known row that the log lacks counts on: ``count`` plus its place in the folder extended.
        """
        rows = np.arange(1, len(self.values) + 1)
        return np.append(-1, np.where(self.values < 0, count + rows, self.values))


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


def keep(counts: np.ndarray, min_count: int, known: Known) -> Kept:
    """Gives a row to every new value that occurs ``min_count`` times; equal counts stay in order.

    Args:
      counts: ``[n]``, how often each value occurs in training.
      min_count: at least 1.
      known: which of the values have a row already.
    """
    order = np.argsort(-counts, kind="stable")
    new = order[(counts[order] >= min_count) & (known.row_of[order] == 0)]
    here = np.flatnonzero(known.row_of)
    values = np.full(len(known.vocabulary) + len(new), -1, np.int64)
    values[known.row_of[here] - 1] = here
    values[len(known.vocabulary) :] = new
    row_of = np.append(known.row_of, np.int32(0))
    row_of[new] = np.arange(len(known.vocabulary) + 1, len(values) + 1)
    return Kept(values, row_of, known.vocabulary)


def raw_values(workspace: Workspace, values: Table, kept: Kept) -> Iterator[str]:
    """The vocabulary: an empty text for the unknown row, then the kept values by row."""
    yield ""
    yield from kept.known
    new = kept.values[len(kept.known) :]
    chosen = pa.table({"position": new, "row": np.arange(len(new))})
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
    extended: Dataset | None,
) -> list[Encoded]:
    """The features of all rows of a table.

    Values are counted over the training events (impressions) of the rows that have them. Numbers
    are standardised with the mean and deviation of the rows that have any, each counted once, or
    those of the folder that is extended.

    Args:
      workspace: where the values are numbered.
      table: ``position`` and the features' columns.
      rows: n.
      columns: the features.
      trained: int64 ``[n]``, how many training events each row has.
      min_count: values that occur less often in training share the unknown row.
      separator: between the values of a multi-valued cell.
      max_values: how many of them are kept, the first ones.
      extended: the folder whose vocabularies go on, if any.
    """
    encoded = []
    for column in columns:
        values = table.select("position", raw=table[column.alias])
        if column.kind == "numeric":
            encoded.append(_numeric(workspace, values, rows, column.name, trained, extended))
        elif column.kind == "categorical":
            encoded.append(
                _categorical(workspace, values, rows, column.name, trained, min_count, extended)
            )
        else:
            pieces = _pieces(values, separator)
            encoded.append(
                _multivalued(
                    workspace, pieces, column.name, trained, min_count, max_values, extended
                )
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
    workspace: Workspace,
    values: Table,
    rows: int,
    name: str,
    trained: np.ndarray,
    extended: Dataset | None,
) -> Encoded:
    numbers = workspace.arrays(values.order_by("position"), rows, {"raw": np.float64})["raw"]
    known = numbers[(trained > 0) & ~np.isnan(numbers)]
    mean = float(known.mean()) if len(known) else 0.0
    deviation = float(known.std()) if len(known) else 1.0
    deviation = deviation if deviation > 1e-9 * abs(mean) else 1.0
    feature = before(extended, name) or Feature(name, "numeric", mean=mean, deviation=deviation)
    assert feature.mean is not None
    assert feature.deviation is not None
    standard = (numbers - feature.mean) / feature.deviation
    column = Column(np.nan_to_num(standard, nan=0.0).astype(np.float32), None)
    return Encoded(feature, column, None, None)


def _categorical(
    workspace: Workspace,
    values: Table,
    rows: int,
    name: str,
    trained: np.ndarray,
    min_count: int,
    extended: Dataset | None,
) -> Encoded:
    present = values.filter(values.raw.notnull()).mutate(rank=0)
    numbered, count = _number(workspace, present, name)
    joined = values.left_join(numbered.select(raw="raw", code="position"), "raw")
    codes = workspace.arrays(joined.order_by("position"), rows, {"code": np.int32})["code"]
    of_values = np.bincount(codes + 1, trained, count + 1)[1:]
    kept = keep(of_values, min_count, known(workspace, extended, name, numbered, count))
    feature = Feature(name, "categorical", size=len(kept.values) + 1)
    return Encoded(feature, Column(kept.row_of[codes], None), numbered, kept)


def _multivalued(
    workspace: Workspace,
    pieces: Table,
    name: str,
    trained: np.ndarray,
    min_count: int,
    max_values: int,
    extended: Dataset | None,
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
    of_values = np.bincount(codes, trained[position], count)
    kept = keep(of_values, min_count, known(workspace, extended, name, numbered, count))
    values = kept.row_of[codes]
    size = len(kept.values) + 1
    first = np.sort(np.unique(position * size + values, return_index=True)[1])
    position, values = position[first], values[first]
    offsets = np.searchsorted(position, np.arange(len(trained) + 1))
    in_time = np.arange(len(values)) - offsets[position] < max_values
    position, values = position[in_time], values[in_time]
    offsets = np.searchsorted(position, np.arange(len(trained) + 1)).astype(np.int64)
    feature = before(extended, name)
    least = 1 if feature is None or feature.max_values is None else feature.max_values
    most = max(int(np.diff(offsets).max(initial=0)), least)
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
