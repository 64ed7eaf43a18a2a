"""The dataset folder: its files, and opening it.

    DATA/meta.json                    format version, schema, counts of the whole and of each
                                      part, source files, split policy
    DATA/vocab/<feature>.txt          line k is the raw value of index k; line 0 is the unknown one
    DATA/{items,users}/<feature>/     values.npy, and offsets.npy when multi-valued
    DATA/popularity.npy               int64 [items], training events of each item
    DATA/statistics/<feature>/        counts of training events and vectors of values, see
                                      :mod:`dien_jax.data.statistics_files`
    DATA/parts/<part>/                numbered 00000, 00001, ...; PART below

    PART/events/{item,timestamp}/     values.npy, grouped by sequence, oldest first
    PART/events/negatives/            optional: values.npy and offsets.npy, items that were shown
                                      with an event and not clicked
    PART/events/offsets.npy           int64 [sequences of the part + 1]
    PART/examples/<split>/<column>/   values.npy, and offsets.npy when multi-valued
    PART/groups.txt                   raw user ids
    PART/statistics/<feature>/own.npy of the training examples of the part

A part has consecutive sequences, their events and examples, and consecutive groups; the data set is
what the parts hold, in their order, and does not depend on how it is divided. The event offsets,
``sequence``, ``history_end`` and ``group`` count from the start of the data set; the offsets of
multi-valued columns from that of their own file. Memory for making a folder is bounded
by its largest part, and for opening it by ``READERS`` parts.

The history of an example is ``events[offsets[sequence] : history_end]``, so examples share their
histories. Lines of text files are escaped by :func:`dien_jax.data.metadata.escape`. Arrays are
memory-mapped; those of several parts are chained, see :mod:`dien_jax.data.columns`. Opening checks,
in bounded memory, everything that would fail silently later: a gather on an accelerator clamps an
id out of range instead of refusing it.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.data import metadata
from dien_jax.data.arrays import (
    MappedFiles,
    chunks,
    first_bad,
    read_array,
    read_ids,
    read_offsets,
    read_probabilities,
    release,
)
from dien_jax.data.columns import (
    Column,
    Examples,
    Rows,
    Splits,
    chained,
    joined_columns,
    joined_examples,
    padded_columns,
    without_borders,
)
from dien_jax.data.metadata import (
    EXAMPLE_COLUMNS,
    PROBABILITY,
    SPLITS,
    Counts,
    check_lines,
    read_values,
)
from dien_jax.data.schema import Feature, FeatureValues, Schema
from dien_jax.data.statistics_files import (
    STATISTICS,
    Statistics,
    read_factors,
    read_statistics,
)
from dien_jax.data.tables import FeatureTables, ValueFactors
from dien_jax.errors import UserError

READERS = 8  # threads that open and check parts
NEGATIVES = "events/negatives"
"""Folder of the items that were shown with an event and not clicked."""


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; its arrays are read-only memory maps.

    Those of a folder in several parts are a :class:`dien_jax.data.columns.ChainedArray` each.

    >>> from dien_jax.data import open_dataset
    >>> dataset = open_dataset("data")
    >>> sorted(dataset.splits)
    ['test', 'train', 'valid']
    >>> len(dataset.vocabulary("item")) == dataset.schema.num_items
    True

    Attributes:
      path: the folder.
      schema: features of items, users and requests.
      meta: ``meta.json`` as parsed.
      items: item features after the id; row k describes item k.
      users: user features after the id; row k describes user k.
      event_item: int32 ``[events]``.
      event_timestamp: int64 ``[events]``, non-decreasing within a sequence.
      event_offsets: int64 ``[sequences + 1]``.
      popularity: int64 ``[items]``, training events of each item.
      splits: the examples of ``train``, ``valid`` and ``test``; a split can be empty.
      event_negatives: items that were shown with each event and not clicked, over all events;
        None where the log does not record them.
      statistics: counts of training events.
      factors: vectors of who chose what in training, by feature.
      files: the files that are mapped; its ``check`` refuses those that have changed.
    """

    path: Path
    schema: Schema
    meta: dict[str, Any]
    items: dict[str, Column]
    users: dict[str, Column]
    event_item: Rows
    event_timestamp: Rows
    event_offsets: Rows
    popularity: np.ndarray
    splits: dict[str, Examples]
    event_negatives: Column | None = None
    statistics: Statistics = field(default_factory=lambda: Statistics({}, ()))
    factors: dict[str, ValueFactors] = field(default_factory=dict)
    files: MappedFiles | None = None

    def __repr__(self) -> str:
        """Sizes, as the arrays would fill the screen."""
        sizes = ", ".join(f"{len(part.label)} {name}" for name, part in self.splits.items())
        return f"Dataset({str(self.path)!r}, {self.schema.num_items} items, examples: {sizes})"

    def vocabulary(self, feature: str) -> list[str]:
        """Return the raw values of a categorical or multi-valued feature, by index."""
        return read_values(self.path / "vocab" / f"{feature}.txt")

    def groups(self) -> list[str]:
        """Return the raw user ids, by group."""
        folders = metadata.part_folders(self.path, self.meta)
        return [raw for folder in folders for raw in read_values(folder / "groups.txt")]

    def feature_tables(self, *, statistics: bool = False, folds: bool = False) -> FeatureTables:
        """Return the features after the id of all items and users, multi-valued ones padded.

        They are copies in memory, which no change of a file reaches. With ``statistics`` they have
        the counts of training events too, and the vectors of values: the first table, or with
        ``folds`` those that training needs.
        """
        items = padded_columns(self.schema.item[1:], self.items, None)
        users = padded_columns(self.schema.user[1:], self.users, None)
        vectors = self.factors if statistics else {}
        if not folds:
            vectors = {
                name: ValueFactors(row, table[:1], scale[:1])
                for name, (row, table, scale) in vectors.items()
            }
        groups = items, users, self.statistics.values if statistics else {}, vectors
        copied = [{k: jax.tree.map(np.array, v) for k, v in group.items()} for group in groups]
        self.check_files()
        return FeatureTables(*copied)

    def check_files(self) -> None:
        """Raise a ``UserError`` if a mapped file has changed since the folder was opened."""
        if self.files is not None:
            self.files.check()

    def context_rows(self, split: str, rows: np.ndarray) -> dict[str, FeatureValues]:
        """Return the context features of some examples of a split, integers ``[B]``."""
        return padded_columns(self.schema.context, self.splits[split].context, rows)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset folder, memory-mapped, and check all of it.

    >>> from dien_jax.data import open_dataset
    >>> open_dataset("data").path.name
    'data'

    Raises:
      UserError: when the folder is missing, is not a dataset folder or has another format version,
        or a file is missing, damaged or holds invalid values. The message names the file.
    """
    return open_folder(Path(path))


def open_folder(path: Path, *, is_counted: bool = True) -> Dataset:
    """Open a dataset folder, without statistics unless ``is_counted``; see :func:`open_dataset`."""
    files = MappedFiles(path)
    meta = metadata.read_meta(path)
    schema = metadata.read_schema(path / "meta.json", meta)
    for feature in schema.features:
        if feature.size is not None:
            metadata.check_vocabulary(path / "vocab" / f"{feature.name}.txt", feature.size)
    folders, counts = metadata.part_folders(path, meta), meta["parts"]
    has_negatives = any((folder / NEGATIVES).exists() for folder in folders)
    has_probability = frozenset(
        split for split in SPLITS if any(probability_file(f, split).exists() for f in folders)
    )
    read = functools.partial(
        read_part, schema=schema, negatives=has_negatives, probabilities=has_probability
    )
    with ThreadPoolExecutor(READERS) as pool:
        factors = pool.submit(read_factors, path / STATISTICS, schema) if is_counted else None
        parts = list(pool.map(read, parts_in_turn(folders, counts)))
    counted = (lambda part: part >= 0, "a count of 0 or more")
    negatives = [part.event_negatives for part in parts if part.event_negatives is not None]
    dataset = Dataset(
        path=path,
        schema=schema,
        meta=meta,
        items=read_columns(path / "items", schema.item[1:], schema.num_items),
        users=read_columns(path / "users", schema.user[1:], schema.num_users),
        event_item=chained([part.event_item for part in parts]),
        event_timestamp=chained([part.event_timestamp for part in parts]),
        event_offsets=chained(without_borders([part.event_offsets for part in parts])),
        popularity=read_array(path / "popularity.npy", np.int64, schema.num_items, counted),
        splits=Splits({n: joined_examples([part.splits[n] for part in parts]) for n in SPLITS}),
        event_negatives=joined_columns(negatives) if negatives else None,
        statistics=(
            read_statistics(path / STATISTICS, schema, folders, counts)
            if is_counted
            else Statistics({}, ())
        ),
        factors=factors.result() if factors else {},
        files=files,
    )
    dataset.check_files()
    return dataset


class PartFolder(NamedTuple):
    """The folder of a part, and what its numbers count from."""

    path: Path
    counts: Counts
    first_sequence: int
    first_event: int
    first_group: int


class Part(NamedTuple):
    """The arrays of a part, mapped; see :class:`dien_jax.data.Dataset`."""

    event_item: np.ndarray
    event_timestamp: np.ndarray
    event_offsets: np.ndarray
    event_negatives: Column | None
    splits: dict[str, Examples]


def parts_in_turn(folders: Sequence[Path], counts: Sequence[Counts]) -> list[PartFolder]:
    """Return the folders of the parts, with the numbers that each begins at."""
    parts, sequences, events, groups = [], 0, 0, 0
    for folder, count in zip(folders, counts, strict=True):
        parts.append(PartFolder(folder, count, sequences, events, groups))
        sequences += count["sequences"]
        events += count["events"]
        groups += count["groups"]
    return parts


def read_part(
    part: PartFolder, schema: Schema, *, negatives: bool, probabilities: frozenset[str]
) -> Part:
    """Map the arrays of a part, and check them.

    Args:
      part: the folder.
      schema: the features.
      negatives: whether the dataset has ``NEGATIVES``.
      probabilities: splits that have true probabilities.

    Raises:
      UserError: when a file is missing, damaged or holds invalid values; it names the file.
    """
    path, counts = part.path, part.counts
    check_lines(path / "groups.txt", counts["groups"])
    events, num_events = path / "events", counts["events"]
    offsets = read_offsets(
        events / "offsets.npy", counts["sequences"], num_events, part.first_event
    )
    timestamp = read_array(events / "timestamp" / "values.npy", np.int64, num_events)
    _check_order(events / "timestamp" / "values.npy", timestamp, offsets - part.first_event)
    return Part(
        event_item=read_ids(events / "item" / "values.npy", np.int32, num_events, schema.num_items),
        event_timestamp=timestamp,
        event_offsets=offsets,
        event_negatives=(
            _multivalued(path / NEGATIVES, schema.num_items, num_events) if negatives else None
        ),
        splits={
            name: _examples(part, name, schema, offsets, name in probabilities) for name in SPLITS
        },
    )


def read_columns(folder: Path, features: tuple[Feature, ...], rows: int) -> dict[str, Column]:
    """Map the columns of features, and check them."""
    return {feature.name: _column(folder / feature.name, feature, rows) for feature in features}


def probability_file(part: Path, split: str) -> Path:
    """Return the file of the true click probabilities of a split."""
    return part / "examples" / split / PROBABILITY / "values.npy"


def _column(folder: Path, feature: Feature, rows: int) -> Column:
    if feature.kind == "numeric":
        finite = (np.isfinite, "a finite number")
        return Column(read_array(folder / "values.npy", np.float32, rows, finite), None)
    assert feature.size is not None
    if feature.kind == "categorical":
        return Column(read_ids(folder / "values.npy", np.int32, rows, feature.size), None)
    return _multivalued(folder, feature.size, rows)


def _multivalued(folder: Path, size: int, rows: int) -> Column:
    values = read_ids(folder / "values.npy", np.int32, None, size)
    return Column(values, read_offsets(folder / "offsets.npy", rows, len(values)))


def _check_order(file: Path, timestamp: np.ndarray, offsets: np.ndarray) -> None:
    for part in chunks(len(timestamp)):
        times = timestamp[part.start : part.stop + 1]
        falls = part.start + 1 + np.flatnonzero(times[1:] < times[:-1])
        starts = offsets[np.searchsorted(offsets, falls)] == falls
        if not starts.all():
            row = int(falls[np.argmin(starts)])
            fall = f"{timestamp[row - 1]} then {timestamp[row]} at entry {row}"
            raise UserError(f"{file}: events of a sequence must be oldest first, found {fall}")
    release(timestamp)


def _examples(
    part: PartFolder, split: str, schema: Schema, offsets: np.ndarray, has_probability: bool
) -> Examples:
    counts, rows = part.counts, part.counts[split]  # type: ignore[literal-required]
    folder = part.path / "examples" / split
    first = {"sequence": part.first_sequence, "group": part.first_group}
    ends = {
        "sequence": part.first_sequence + counts["sequences"],
        "history_end": part.first_event + counts["events"] + 1,
        "user": schema.num_users,
        "group": part.first_group + counts["groups"],
        "item": schema.num_items,
        "label": 2,
    }
    columns = {
        name: read_ids(folder / name / "values.npy", dtype, rows, ends[name], first.get(name, 0))
        for name, dtype in EXAMPLE_COLUMNS.items()
    }
    sequence, end = columns["sequence"], columns["history_end"]

    def is_within(rows: slice) -> np.ndarray:
        own = sequence[rows] - np.int32(part.first_sequence)
        return (offsets[own] <= end[rows]) & (end[rows] <= offsets[own + 1])

    if (row := first_bad(rows, is_within)) is not None:
        own = sequence[row] - part.first_sequence
        expected = f"within its sequence, {offsets[own]} to {offsets[own + 1]}, found {end[row]}"
        raise UserError(f"{folder}/history_end/values.npy: entry {row} should be {expected}")
    probability = None
    file = probability_file(part.path, split)
    if has_probability:  # a part without an example of the split need not have the file
        is_there = rows or file.exists()
        probability = read_probabilities(file, rows) if is_there else np.zeros(0, np.float32)
    context = read_columns(folder, schema.context, rows)
    for array in (sequence, end, offsets):
        release(array)
    return Examples(**columns, context=context, probability=probability)
