"""Vocabularies: ids and feature values as rows, counted in training alone.

Rows of the extended folder, if there is one, come first and stay, however often training sees
them.

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
from dien_jax.preparation.options import Features, LogColumn
from dien_jax.preparation.pipeline.extending import extended_feature, known_rows
from dien_jax.preparation.reading.workspace import Workspace


class Vocabulary(NamedTuple):
    """Values that have a row of their own: known ones, then the most frequent first."""

    source: Table  # table position and raw of all n raw values
    # int64 [V - 1]: row k + 1 belongs to value values[k], -1 for a known value that the log lacks
    values: np.ndarray
    # int32 [n + 1]: the row of each of n values, 0 for one too rare. The last entry is 0 too, so
    # that -1 (no value) maps to the unknown row
    row_of: np.ndarray
    known: list[str]  # raw values of the first rows, those of the extended folder

    @property
    def size(self) -> int:
        """V."""
        return len(self.values) + 1

    def positions(self) -> np.ndarray:
        """Return the value of each row, -1 for the unknown row.

        A known row that the log lacks gets n plus its row in the extended folder.
        """
        rows = np.arange(1, self.size)
        return np.append(-1, np.where(self.values < 0, len(self.row_of) - 1 + rows, self.values))

    def raw_values(self, workspace: Workspace) -> Iterator[str]:
        """Yield the raw values by row; an empty text for the unknown row."""
        yield ""
        yield from self.known
        new = self.values[len(self.known) :]
        chosen = pa.table({"position": new, "row": np.arange(len(new))})
        joined = self.source.join(workspace.store("chosen", chosen), "position")
        yield from workspace.strings(joined.order_by("row"), "raw")


class EncodedFeature(NamedTuple):
    """A feature over n rows."""

    feature: Feature  # its entry in the schema
    column: Column  # its values
    vocabulary: Vocabulary | None  # its raw values, or None for numbers


class Encoder:
    """Encoder of raw ids and feature values as rows of vocabularies.

    Args:
      workspace: database that numbers the values.
      features: how multi-valued cells are read.
      min_count: values with fewer occurrences in training share the unknown row.
      extended: folder whose vocabularies are extended, if any.
    """

    def __init__(
        self, workspace: Workspace, features: Features, min_count: int, extended: Dataset | None
    ) -> None:
        self.workspace = workspace
        self.extended = extended
        self.min_count = min_count
        self._features = features

    def vocabulary(self, name: str, values: Table, counts: np.ndarray) -> Vocabulary:
        """Give a row to every new value that is frequent enough; ties keep their order.

        ``values`` is a table of ``position`` and ``raw``, each value once; ``counts`` has the
        occurrences of each in training, int64 ``[n]``.
        """
        known = known_rows(self.workspace, self.extended, name, values, len(counts))
        order = np.argsort(-counts, kind="stable")
        new = order[(counts[order] >= self.min_count) & (known.row_of[order] == 0)]
        here = np.flatnonzero(known.row_of)
        rows = np.full(len(known.vocabulary) + len(new), -1, np.int64)
        rows[known.row_of[here] - 1] = here
        rows[len(known.vocabulary) :] = new
        row_of = np.append(known.row_of, np.int32(0))
        row_of[new] = np.arange(len(known.vocabulary) + 1, len(rows) + 1)
        return Vocabulary(values, rows, row_of, known.vocabulary)

    def encode(self, column: LogColumn, table: Table, counts: np.ndarray) -> EncodedFeature:
        """Encode a feature of all rows of a table; ``counts`` has the training events of each row.

        Values are counted over the training events (impressions) of the rows that have them.
        Numbers are standardised with the mean and deviation of the rows that training sees, each
        counted once, or with those of the extended folder.
        """
        values = table.select("position", raw=table[column.alias])
        encode = {
            "numeric": self._numeric,
            "categorical": self._categorical,
            "multivalued": self._multivalued,
        }
        return encode[column.kind](column.name, values, counts)

    def _numeric(self, name: str, values: Table, counts: np.ndarray) -> EncodedFeature:
        ordered = values.order_by("position")
        numbers = self.workspace.arrays(ordered, len(counts), {"raw": np.float64})["raw"]
        present = numbers[(counts > 0) & ~np.isnan(numbers)]
        mean = float(present.mean()) if len(present) else 0.0
        deviation = float(present.std()) if len(present) else 1.0
        deviation = deviation if deviation > 1e-9 * abs(mean) else 1.0
        feature = extended_feature(self.extended, name)
        feature = feature or Feature(name, "numeric", mean=mean, deviation=deviation)
        assert feature.mean is not None
        assert feature.deviation is not None
        standard = (numbers - feature.mean) / feature.deviation
        column = Column(np.nan_to_num(standard, nan=0.0).astype(np.float32), None)
        return EncodedFeature(feature, column, None)

    def _categorical(self, name: str, values: Table, counts: np.ndarray) -> EncodedFeature:
        present = values.filter(values.raw.notnull()).mutate(rank=0)
        numbered, count = self._numbered(name, present)
        joined = values.left_join(numbered.select(raw="raw", code="position"), "raw")
        ordered = joined.order_by("position")
        codes = self.workspace.arrays(ordered, len(counts), {"code": np.int32})["code"]
        occurrences = np.bincount(codes + 1, counts, count + 1)[1:]
        vocabulary = self.vocabulary(name, numbered, occurrences)
        feature = Feature(name, "categorical", size=vocabulary.size)
        return EncodedFeature(feature, Column(vocabulary.row_of[codes], None), vocabulary)

    def _multivalued(self, name: str, values: Table, counts: np.ndarray) -> EncodedFeature:
        cells = values.filter(values.raw.notnull())
        parts = cells.raw.split(self._features.separator)
        pieces = cells.select(
            "position", rank=ibis.range(0, parts.length()).unnest(), raw=parts.unnest().strip()
        )
        pieces = self.workspace.store(f"pieces of {name}", pieces.filter(pieces.raw != ""))
        numbered, count = self._numbered(name, pieces)
        joined = pieces.join(numbered.select(raw="raw", code="position"), "raw")
        arrays = self.workspace.arrays(
            joined.order_by("position", "rank"),
            self.workspace.count(pieces),
            {"position": np.int64, "code": np.int32},
        )
        position, codes = arrays["position"], arrays["code"]
        vocabulary = self.vocabulary(name, numbered, np.bincount(codes, counts[position], count))
        rows = vocabulary.row_of[codes]
        first = np.sort(np.unique(position * vocabulary.size + rows, return_index=True)[1])
        position, rows = position[first], rows[first]
        offsets = np.searchsorted(position, np.arange(len(counts) + 1))
        kept = np.arange(len(rows)) - offsets[position] < self._features.max_values
        position, rows = position[kept], rows[kept]
        offsets = np.searchsorted(position, np.arange(len(counts) + 1)).astype(np.int64)
        before = extended_feature(self.extended, name)
        least = 1 if before is None or before.max_values is None else before.max_values
        most = max(int(np.diff(offsets).max(initial=0)), least)
        feature = Feature(name, "multivalued", size=vocabulary.size, max_values=most)
        return EncodedFeature(feature, Column(rows, offsets), vocabulary)

    def _numbered(self, name: str, values: Table) -> tuple[Table, int]:
        """Return all raw values once, ``raw`` and ``position``, by first appearance; and how many.

        ``values`` has ``position``, ``rank`` within the cell, and ``raw``.
        """
        first = values.position.cast("int64") * (1 << 20) + values["rank"]
        grouped = values.group_by("raw").aggregate(first=first.min())
        numbered = grouped.mutate(position=ibis.row_number().over(order_by=grouped["first"]))
        stored = self.workspace.store(f"values of {name}", numbered.drop("first"))
        return stored, self.workspace.count(stored)
