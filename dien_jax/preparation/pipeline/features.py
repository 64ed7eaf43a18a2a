"""Vocabularies: ids and feature values as rows, counted in training alone.

Rows of the extended folder, if there is one, come first, however often training sees them; but not
those of forgotten ids.

Dimensions: n rows that a feature describes (items, users or impressions), V rows of a vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.dataset import Column
from dien_jax.data.schema import Feature
from dien_jax.data.vocabularies import LARGEST_NUMBER
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogColumn
from dien_jax.preparation.pipeline.events import Events, numbered
from dien_jax.preparation.pipeline.extending import Growth, known_rows
from dien_jax.preparation.pipeline.separators import separator_warnings
from dien_jax.preparation.pipeline.training_values import training_values
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import say, stage


class Vocabulary(NamedTuple):
    """Values that have a row of their own: known ones, then the most frequent first."""

    source: Table  # table position and raw of all n raw values
    # int64 [V - 1]: row k + 1 belongs to value values[k], -1 for a known value that the log lacks
    values: np.ndarray
    # int32 [n + 1]: the row of each of n values, 0 for one too rare. The last entry is 0 too, so
    # that -1 (no value) maps to the unknown row
    row_of: np.ndarray
    known: list[str]  # raw values of the first rows, those of the extended folder
    before: np.ndarray  # int64 [K], rows of these in the extended folder

    @property
    def size(self) -> int:
        return len(self.values) + 1

    def positions(self) -> np.ndarray:
        """Return the value of each row, -1 for the unknown row.

        A known row that the log lacks gets n plus its row in the extended folder.
        """
        positions = self.values.copy()
        absent = np.flatnonzero(self.values < 0)
        positions[absent] = len(self.row_of) - 1 + self.before[absent]
        return np.append(-1, positions)

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

    feature: Feature
    column: Column
    vocabulary: Vocabulary | None = None  # None for numbers


class Encoder:
    """Encoder of the raw ids and feature values of a log as rows of vocabularies.

    Args:
      workspace: database that numbers the values.
      events: the log.
      trained: bool ``[E]``, the events (impressions) that training sees.
      counts: occurrences of each ``item`` and ``user`` in training, int64 ``[n]``, and for
        impressions ``context``, 1 for each row of training.
      min_count: values with fewer occurrences in training share the unknown row.
      growth: folder whose vocabularies are extended, if any.
    """

    def __init__(
        self,
        workspace: Workspace,
        events: Events,
        trained: np.ndarray,
        counts: dict[str, np.ndarray],
        min_count: int,
        growth: Growth | None,
    ) -> None:
        extended = None if growth is None else growth.folder
        self.workspace, self.events, self.extended = workspace, events, extended
        self._growth = growth
        self.min_count, self._counts, self._trained = min_count, counts, trained
        self.notes: list[str] = []  # lines about encoded features, for the user
        self._warnings: list[str] = []
        self._before = {f.name: f for f in extended.schema.features} if extended else {}
        self.items = self.vocabulary("item", events.items, counts["item"])
        self.users = self.vocabulary("user", events.users, counts["user"])

    def features(self) -> dict[str, list[EncodedFeature]]:
        """Encode all features, by group.

        Values are counted over the training events (impressions) of the rows that have them.
        Numbers are standardised with the mean and deviation of the rows that training sees, each
        counted once, or with those of the extended folder. Lists that were cut are noted;
        categorical columns that look like lists are reported on standard error.
        """
        events = self.events
        encode = {
            "numeric": self._numeric,
            "categorical": self._categorical,
            "multivalued": self._multivalued,
        }
        encoded: dict[str, list[EncodedFeature]] = {"item": [], "user": [], "context": []}
        for group, counts in self._counts.items():
            with stage(f"encoding {group} features"):
                table = events.contexts
                if group != "context":
                    table = training_values(self.workspace, events, group, self._trained)
                for column in events.features.groups[group]:
                    values = table.select("position", raw=table[column.alias])
                    encoded[group].append(encode[column.kind](column, values, counts))
        for warning in self._warnings:
            say(warning)
        return encoded

    def vocabulary(self, name: str, values: Table, counts: np.ndarray) -> Vocabulary:
        """Give a row to every new value that is frequent enough; ties keep their order.

        ``values`` has ``position`` and ``raw``; ``counts`` the occurrences of each in training.
        """
        known, before, row_of = known_rows(self.workspace, self._growth, name, values, len(counts))
        order = np.argsort(-counts, kind="stable")
        new = order[(self._is_admitted(name, counts) & (row_of == 0))[order]]
        here = np.flatnonzero(row_of)
        rows = np.concatenate([np.full(len(known), -1, np.int64), new])
        rows[row_of[here] - 1] = here
        row_of = np.append(row_of, np.int32(0))
        row_of[new] = np.arange(len(known) + 1, len(rows) + 1)
        return Vocabulary(values, rows, row_of, known, before)

    def _is_admitted(self, name: str, counts: np.ndarray) -> np.ndarray:
        """Return whether each value may get a new row, bool ``[n]``."""
        if self._growth is None or name not in self._growth.counts:
            return counts >= self.min_count
        # Before this extension an id may have been too rare: earlier events count too.
        admitted = (counts > 0) & (self._growth.counts[name] >= self.min_count)
        recent = self._growth.recent
        return admitted if recent is None else admitted & recent[name]

    def _numeric(self, column: LogColumn, values: Table, counts: np.ndarray) -> EncodedFeature:
        ordered = values.order_by("position")
        numbers = self.workspace.arrays(ordered, len(counts), {"raw": np.float64})["raw"]
        present = numbers[(counts > 0) & ~np.isnan(numbers)]
        mean, deviation = (present.mean(), present.std()) if len(present) else (0.0, 1.0)
        deviation = deviation if deviation > 1e-9 * abs(mean) else 1.0
        feature = Feature(column.name, "numeric", mean=float(mean), deviation=float(deviation))
        feature = self._before.get(column.name, feature)
        assert feature.mean is not None
        assert feature.deviation is not None
        standard = (numbers - feature.mean) / feature.deviation
        beyond = np.flatnonzero(np.abs(standard) > LARGEST_NUMBER)
        if len(beyond):
            spread = f"mean {feature.mean:g} and deviation {feature.deviation:g} in training"
            problem = f"is too far from the other numbers ({spread}); correct or remove it"
            raise UserError(f"{column.flag} {column.name}: {numbers[beyond[0]]:g} {problem}")
        encoded = Column(np.nan_to_num(standard, nan=0.0).astype(np.float32), None)
        return EncodedFeature(feature, encoded)

    def _categorical(self, column: LogColumn, values: Table, counts: np.ndarray) -> EncodedFeature:
        name, separator = column.name, self.events.features.separator
        present = values.filter(values.raw.notnull()).mutate(rank=0)
        raws, count = self._numbered(name, present)
        self._warnings += separator_warnings(self.workspace, column, raws, separator)
        joined = values.left_join(raws.select(raw="raw", code="position"), "raw")
        ordered = joined.order_by("position")
        codes = self.workspace.arrays(ordered, len(counts), {"code": np.int32})["code"]
        vocabulary = self.vocabulary(name, raws, np.bincount(codes + 1, counts, count + 1)[1:])
        feature = Feature(name, "categorical", size=vocabulary.size)
        return EncodedFeature(feature, Column(vocabulary.row_of[codes], None), vocabulary)

    def _multivalued(self, column: LogColumn, values: Table, counts: np.ndarray) -> EncodedFeature:
        name, max_values = column.name, self.events.features.max_values
        cells = values.filter(values.raw.notnull())
        parts = cells.raw.split(self.events.features.separator)
        rank = ibis.range(0, parts.length()).unnest()
        pieces = cells.select("position", rank=rank, raw=parts.unnest().strip())
        pieces = self.workspace.store(f"pieces of {name}", pieces.filter(pieces.raw != ""))
        raws, count = self._numbered(name, pieces)
        joined = pieces.join(raws.select(raw="raw", code="position"), "raw")
        ordered, total = joined.order_by("position", "rank"), self.workspace.count(pieces)
        arrays = self.workspace.arrays(ordered, total, {"position": np.int64, "code": np.int32})
        position, codes = arrays.values()
        vocabulary = self.vocabulary(name, raws, np.bincount(codes, counts[position], count))
        rows = vocabulary.row_of[codes]
        first = np.sort(np.unique(position * vocabulary.size + rows, return_index=True)[1])
        position, rows = position[first], rows[first]
        offsets = np.searchsorted(position, np.arange(len(counts) + 1))
        long = np.count_nonzero(np.diff(offsets) > max_values)
        if long:
            cut = f"{long:,} of {self.workspace.count(cells):,} cells hold more than {max_values:,}"
            self.notes.append(f"{name}: {cut} values and keep the first ones (--max-values)")
        kept = np.arange(len(rows)) - offsets[position] < max_values
        position, rows = position[kept], rows[kept]
        offsets = np.searchsorted(position, np.arange(len(counts) + 1)).astype(np.int64)
        before = self._before.get(name)
        least = (before.max_values if before else None) or 1
        most = int(np.diff(offsets).max(initial=least))
        feature = Feature(name, "multivalued", size=vocabulary.size, max_values=most)
        return EncodedFeature(feature, Column(rows, offsets), vocabulary)

    def _numbered(self, name: str, values: Table) -> tuple[Table, int]:
        """Return all raw values once, numbered by first appearance, and how many there are."""
        first = values.position.cast("int64") * (1 << 20) + values["rank"]
        grouped = values.group_by("raw").aggregate(first=first.min())
        stored = self.workspace.store(f"values of {name}", numbered(grouped))
        return stored, self.workspace.count(stored)
