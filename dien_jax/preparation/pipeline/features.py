"""Vocabularies: rows of ids and feature values, by their frequency in training only.

Dimensions: n rows that a feature describes (items, users or impressions), V rows of a vocabulary.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.arrays import CHUNK_ROWS, ArrayFile, chunks
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import GROUPS, Column, Feature
from dien_jax.data.value_text import LARGEST_NUMBER, too_far
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogColumn, LogOptions
from dien_jax.preparation.pipeline.events import Events, count_events, training_values
from dien_jax.preparation.pipeline.splits import Split
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import say, stage

MANY = 0.3  # share of distinct values with a separator from which a column looks like lists
LONGEST_EXAMPLE = 60  # characters shown of a value


class Vocabulary(NamedTuple):
    """Values that have a row of their own: known values, then new ones by falling frequency."""

    source: Table  # table position and raw of all n raw values
    # int64 [V - 1]: row k + 1 belongs to value values[k], -1 for a known value that the log lacks
    values: np.ndarray
    # int32 [n + 1]: row of each of n values, 0 if too rare; the last entry, 0, is for -1 (no value)
    row_of: np.ndarray
    known: list[str]  # raw values of the first rows, those of the extended folder

    @property
    def size(self) -> int:
        return len(self.values) + 1

    def positions(self) -> np.ndarray:
        """Return the value of each row, -1 for the unknown row.

        A known row that the log lacks gets n plus its row in the extended folder.
        """
        of_known = len(self.row_of) + np.arange(len(self.values))
        return np.append(-1, np.where(self.values < 0, of_known, self.values))

    def raw_values(self, workspace: Workspace) -> Iterator[str]:
        """Yield the raw values by row; an empty text for the unknown row."""
        yield ""
        yield from self.known
        new = self.values[len(self.known) :]
        chosen = pa.table({"position": new, "row": np.arange(len(new))})
        joined = self.source.join(workspace.store("chosen", chosen), "position")
        yield from workspace.strings(joined.order_by("row"), "raw")


class EncodedFeature(NamedTuple):
    """A feature and its :class:`Column` in files, of all rows of a log for requests and events."""

    feature: Feature
    values: ArrayFile
    offsets: ArrayFile | None = None
    vocabulary: Vocabulary | None = None  # None for numbers

    def read(self, start: int = 0, stop: int | None = None) -> Column:
        """Return the rows from ``start`` to ``stop``, all of them by default."""
        if self.offsets is None:
            return Column(self.values.read(start, stop), None)
        offsets = self.offsets.read(start, None if stop is None else stop + 1)
        return Column(self.values.read(int(offsets[0]), int(offsets[-1])), offsets - offsets[0])


class Encoder:
    """Encoder of the raw ids and feature values of a log as rows of vocabularies.

    Values with fewer occurrences in training than ``options.min_count`` share the unknown row.
    Features of rows count once for each row that training sees. A split without training rows, or
    ``min_count`` without items, is a ``UserError``. ``counts`` is of :func:`count_events`;
    ``notes`` are lines for the user.
    """

    def __init__(
        self, events: Events, options: LogOptions, split: Split, extended: Dataset | None
    ) -> None:
        self.workspace, self.events, self.extended = events.workspace, events, extended
        self.min_count, self._split = options.min_count, split
        self.counts = count_events(events, split)
        seen = self.counts.seen
        if not seen["item"].any():
            left = f"none of the {events.num_users:,} users' {len(events.item):,} rows to training"
            raise UserError(f"no training examples: --split {options.split} leaves {left}")
        self.notes, self._warnings = list[str](), list[str]()
        self._before = {f.name: f for f in extended.schema.features} if extended else {}
        self.items = self.vocabulary("item", events.items, seen["item"])
        if self.items.size == 1:
            most = f"the most frequent one occurs {seen['item'].max():,} times in training"
            raise UserError(f"--min-count {self.min_count:,} leaves no item: {most}")
        self.users = self.vocabulary("user", events.users, seen["user"])

    def features(self) -> dict[str, list[EncodedFeature]]:
        """Encode all features, by group.

        A value counts each time that a row of a training event (impression) has it. Numbers are
        standardised by mean and deviation of the rows that training sees, each counted once, or by
        those of the extended folder. Truncated lists are noted; categorical columns that look like
        lists are reported on standard error.
        """
        events = self.events
        encoded: dict[str, list[EncodedFeature]] = {}
        for group, columns in events.features.groups.items():
            encoded[group] = []
            if not columns:
                continue
            with stage(f"encoding {group} features"):
                if GROUPS[group].source == "given":
                    table = events.rows
                    counts = np.concatenate([self._split.marks(p).seen for p in events.parts()])
                else:
                    table = training_values(events, group, self._split)
                    counts = self.counts.seen[group]
                for column in columns:
                    values = table.select("position", raw=table[column.alias])
                    encode = self._numeric if column.kind == "numeric" else self._values
                    encoded[group].append(encode(column, values, counts))
        for warning in self._warnings:
            say(warning)
        return encoded

    def vocabulary(self, name: str, values: Table, counts: np.ndarray) -> Vocabulary:
        """Assign a row to every new value that is frequent enough; ties keep their order.

        ``values`` has ``position`` and ``raw``; ``counts`` has their occurrences in training.
        """
        known, row_of = list[str](), np.zeros(len(counts), np.int32)
        if self.extended is not None:
            _, *known = self.extended.vocabulary(name)
            rows = pa.table({"raw": known, "row": np.arange(1, len(known) + 1)})
            stored = self.workspace.store(f"known values of {name}", rows)
            joined = values.left_join(stored, "raw").select("position", row=stored.row.fill_null(0))
            ordered = joined.order_by("position")
            row_of = self.workspace.array_files(ordered, {"row": np.int32})["row"].read()
        is_admitted = counts >= self.min_count
        if self.extended is not None and name in self.counts.past:
            # An id may have been too rare before this extension, so earlier events count too.
            is_admitted = (counts > 0) & (self.counts.past[name] >= self.min_count)
        order = np.argsort(-counts, kind="stable")
        new = order[(is_admitted & (row_of == 0))[order]]
        here = np.flatnonzero(row_of)
        value_of = np.concatenate([np.full(len(known), -1, np.int64), new])
        value_of[row_of[here] - 1] = here
        row_of = np.append(row_of, np.int32(0))
        row_of[new] = np.arange(len(known) + 1, len(value_of) + 1)
        return Vocabulary(values, value_of, row_of, known)

    def _numeric(self, column: LogColumn, values: Table, counts: np.ndarray) -> EncodedFeature:
        ordered = values.order_by("position")
        numbers = self.workspace.array_files(ordered, {"raw": np.float64})["raw"]
        feature = self._before.get(column.name) or _standard(column, numbers, counts)
        mean, deviation = cast(float, feature.mean), cast(float, feature.deviation)
        encoded = self.workspace.array_file(np.float32)
        for block in numbers.blocks():
            standard = (block - mean) / deviation
            beyond = np.flatnonzero(np.abs(standard) > LARGEST_NUMBER)
            if len(beyond):
                problem = f"{block[beyond[0]]:g} {too_far(mean, deviation)}"
                raise UserError(f"{column.flag} {column.name}: {problem}")
            encoded.append(np.nan_to_num(standard, nan=0.0))
        return EncodedFeature(feature, encoded)

    def _values(self, column: LogColumn, values: Table, counts: np.ndarray) -> EncodedFeature:
        """Encode a multi-valued column, or a categorical one, whose cells are single pieces."""
        name, is_list, settings = column.name, column.kind == "multivalued", self.events.features
        cells = values.filter(values.raw.notnull())
        if is_list:
            pieces = self.workspace.pieces(cells, settings.separator)
            pieces = self.workspace.store(f"pieces of {name}", pieces)
            every = values.select("position").left_join(pieces, "position")
        else:
            pieces, every = cells.mutate(rank=0), values.mutate(rank=0)
        first = pieces.position.cast("int64") * (1 << 20) + pieces["rank"]
        raws = pieces.group_by("raw").aggregate(first=first.min())
        raws = self.workspace.store_ordered(f"values of {name}", raws, ["first"])
        self._warnings += _separator_warnings(self.workspace, column, raws)
        coded = every.left_join(raws.select(raw="raw", code="position"), "raw")
        ordered = coded.select("position", "rank", "code").order_by("position", "rank")
        dtypes: dict[str, type[np.generic]] = {"position": np.int64, "code": np.int32}
        files = self.workspace.array_files(ordered, dtypes)  # code -1: no value
        occurrences = np.zeros(1 + self.workspace.count(raws))
        for position, codes in _whole_cells(files["position"], files["code"]):
            occurrences += np.bincount(codes + 1, counts[position], len(occurrences))
        vocabulary = self.vocabulary(name, raws, occurrences[1:])
        kept = self.workspace.array_file(np.int32)
        if not is_list:
            for block in files["code"].blocks():
                kept.append(vocabulary.row_of[block])
            feature = Feature(name, "categorical", size=vocabulary.size)
            return EncodedFeature(feature, kept, vocabulary=vocabulary)
        before = self._before.get(name)
        most, long = (before.max_values if before else None) or 1, 0
        offsets = self.workspace.array_file(np.int64)
        offsets.append([0])
        for position, codes in _whole_cells(files["position"], files["code"]):
            cell, is_there = position - position[0], codes >= 0
            rows = vocabulary.row_of[codes[is_there]]
            cells_of_rows, rows, cut = _distinct(cell[is_there], rows, settings.max_values)
            lengths = np.bincount(cells_of_rows, minlength=cell[-1] + 1)
            long, most = long + cut, max(most, int(lengths.max()))
            offsets.append(len(kept) + np.cumsum(lengths))
            kept.append(rows)
        if long:
            cells_of = f"{long:,} of {self.workspace.count(cells):,} cells"
            more = f"hold more than {settings.max_values:,} values and keep the first ones"
            self.notes.append(f"{name}: {cells_of} {more} (--max-values)")
        feature = Feature(name, "multivalued", size=vocabulary.size, max_values=most)
        return EncodedFeature(feature, kept, offsets, vocabulary)


def _standard(column: LogColumn, numbers: ArrayFile, counts: np.ndarray) -> Feature:
    """Return a numeric feature with the mean and standard deviation of training rows."""

    def present() -> Iterator[np.ndarray]:
        for part in chunks(len(numbers)):
            block = numbers.read(part.start, part.stop)
            yield block[(counts[part] > 0) & ~np.isnan(block)]

    def average(measure: Callable[[np.ndarray], np.ndarray]) -> float:
        """Return an average that does not depend on the order of the numbers."""
        measured = (measure(block).tolist() for block in present())
        return math.fsum(itertools.chain.from_iterable(measured)) / max(total, 1)

    total = sum(map(len, present()))
    mean = average(np.asarray)
    deviation = math.sqrt(average(lambda block: np.square(block - mean)))
    deviation = deviation if deviation > 1e-9 * abs(mean) else 1.0
    return Feature(column.name, "numeric", mean=mean, deviation=deviation)


def _whole_cells(position: ArrayFile, code: ArrayFile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions and codes, about ``CHUNK_ROWS`` at a time, without splitting a position."""
    start, size = 0, CHUNK_ROWS
    while start < len(position):
        block = position.read(start, start + size)
        if start + size < len(position):
            block = block[: np.searchsorted(block, block[-1])]  # the last one may continue
        if not len(block):
            size *= 2
            continue
        yield block, code.read(start, start + len(block))
        start, size = start + len(block), CHUNK_ROWS


def _distinct(
    cell: np.ndarray, rows: np.ndarray, max_values: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the first ``max_values`` distinct rows of each cell; count cells with more."""
    keys = cell * (int(rows.max(initial=0)) + 1) + rows
    kept = np.sort(np.unique(keys, return_index=True)[1])
    cell, rows = cell[kept], rows[kept]
    rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
    is_first = rank < max_values
    return cell[is_first], rows[is_first], int(np.count_nonzero(rank == max_values))


def _separator_warnings(workspace: Workspace, column: LogColumn, raws: Table) -> list[str]:
    """Return a warning if many values of a column look like lists, or nothing.

    ``raws`` has every distinct value once, as ``position`` and ``raw``: the cells of a categorical
    column, the pieces of a multi-valued one.
    """
    if not column.flag.endswith("-features"):
        return []  # columns of published data sets have no flag for their kind
    likely = r"[|;]|^\[.*\]$"  # separators, rare in single values; the text of a Python list
    lists = raws.filter(raws.raw.re_search(likely))
    count, total = workspace.count(lists), workspace.count(raws)
    if not count or count < MANY * total:
        return []
    (example,) = workspace.strings(lists.order_by("position").limit(1), "raw")
    named, shown = f"{column.flag} {column.name}", repr(example[:LONGEST_EXAMPLE])
    problem = f"{count:,} of {total:,} different values look like lists, for example {shown}"
    remedy = f"lists need {named}:multivalued and their --separator"
    return [f"warning: {named}: {problem}, and each is one value; {remedy}"]
