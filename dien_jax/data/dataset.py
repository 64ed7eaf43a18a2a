"""The dataset folder: its files, and opening it.

    DATA/meta.json                    format version, schema, counts, source files, split policy
    DATA/vocab/<feature>.txt          line k is the raw value of index k; line 0 is the unknown one
    DATA/{items,users}/<feature>/     values.npy, and offsets.npy when multi-valued
    DATA/events/{item,timestamp}/     values.npy, grouped by sequence, oldest first
    DATA/events/negatives/            optional: values.npy and offsets.npy, items that were shown
                                      with an event and not clicked
    DATA/events/offsets.npy           int64 [sequences + 1]
    DATA/popularity.npy               int64 [items], training events of each item
    DATA/statistics/<feature>/        optional: counts of training events, see
                                      :mod:`dien_jax.data.statistics`
    DATA/examples/<split>/<column>/   values.npy, and offsets.npy when multi-valued
    DATA/groups.txt                   raw user ids

The history of an example is ``events[offsets[sequence] : history_end]``, so examples share their
histories. Lines of text files are escaped by :func:`dien_jax.data.metadata.escape`. Arrays are
memory-mapped. Opening checks, in bounded memory, everything that would fail silently later: a
gather on an accelerator clamps an id out of range instead of refusing it.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data import metadata
from dien_jax.data.arrays import (
    chunks,
    first_bad,
    read_array,
    read_ids,
    read_offsets,
    read_probabilities,
)
from dien_jax.data.counting import TrainingEvents
from dien_jax.data.factors import has_transitions, without_transitions
from dien_jax.data.metadata import EXAMPLE_COLUMNS, PROBABILITY, SPLITS, read_values
from dien_jax.data.schema import (
    Feature,
    FeatureTables,
    FeatureValues,
    MultiValued,
    Schema,
    ValueFactors,
)
from dien_jax.data.statistics import (
    STATISTICS,
    Statistics,
    count_training_events,
    factorise_training_events,
    read_factors,
    read_statistics,
)
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


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; its arrays are read-only memory maps.

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
      stored_statistics: counts of training events, if the folder has them.
      stored_factors: factors of who chose what in training, if the folder has them.
    """

    path: Path
    schema: Schema
    meta: dict[str, Any]
    items: dict[str, Column]
    users: dict[str, Column]
    event_item: np.ndarray
    event_timestamp: np.ndarray
    event_offsets: np.ndarray
    popularity: np.ndarray
    splits: dict[str, Examples]
    event_negatives: Column | None = None
    stored_statistics: Statistics | None = None
    stored_factors: dict[str, ValueFactors] | None = None

    def __repr__(self) -> str:
        """Sizes, as the arrays would fill the screen."""
        sizes = ", ".join(f"{len(part.label)} {name}" for name, part in self.splits.items())
        return f"Dataset({str(self.path)!r}, {self.schema.num_items} items, examples: {sizes})"

    def vocabulary(self, feature: str) -> list[str]:
        """Return the raw values of a categorical or multi-valued feature, by index."""
        return read_values(self.path / "vocab" / f"{feature}.txt")

    def groups(self) -> list[str]:
        """Return the raw user ids, by group."""
        return read_values(self.path / "groups.txt")

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Counts of training events; computed if the folder does not have them."""
        if self.stored_statistics is not None:
            return self.stored_statistics
        return count_training_events(self.schema, *self._training_events())

    @functools.cached_property
    def factors(self) -> dict[str, ValueFactors]:
        """Factors of training events; computed if the folder has none, or none of transitions."""
        stored = self.stored_factors
        if stored is not None:
            item = stored.get(self.schema.item[0].name)
            if item is None or has_transitions(item):
                return stored
        return factorise_training_events(self.schema, *self._training_events())

    def read_factors(self, *, transitions: bool) -> dict[str, ValueFactors]:
        """Return the factors that a model with or without ``transitions`` reads."""
        if transitions:
            return self.factors
        stored = self.factors if self.stored_factors is None else self.stored_factors
        return {name: without_transitions(factors) for name, factors in stored.items()}

    def _training_events(self) -> tuple[dict[str, np.ndarray], TrainingEvents]:
        train = self.splits["train"]
        columns = (train.sequence, train.history_end, train.item, train.label)
        events = TrainingEvents(self.event_item, self.event_offsets, *columns, self._counted_end())
        return {name: column.values for name, column in self.items.items()}, events

    def _counted_end(self) -> np.ndarray | None:
        """Return where each sequence's events before validation end, int64 ``[sequences]``.

        None unless training examples begin at some time. A sequence of one such event has none, as
        it would have no example.
        """
        split = self.meta.get("split", {})
        end = split.get("valid_from") if isinstance(split, dict) and "train_from" in split else None
        if not isinstance(end, int):
            return None
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.event_timestamp < end)])
        start, stop = self.event_offsets[:-1], self.event_offsets[1:]
        events = before[stop] - before[start]
        return np.asarray(start + np.where(events > 1, events, 0), np.int64)

    def feature_tables(
        self,
        *,
        statistics: bool = False,
        factors: bool = False,
        transitions: bool = False,
        folds: bool = False,
    ) -> FeatureTables:
        """Return the features after the id of all items and users, multi-valued ones padded.

        With ``statistics`` they have the counts of training events too, and with ``factors`` the
        vectors of values, and those of ``transitions``: the first table, or with ``folds`` those
        that training needs.
        """
        items = padded_columns(self.schema.item[1:], self.items, None)
        users = padded_columns(self.schema.user[1:], self.users, None)
        vectors = self.read_factors(transitions=transitions) if factors else {}
        if not folds:
            vectors = {
                name: ValueFactors(row, table[:1], scale[:1])
                for name, (row, table, scale) in vectors.items()
            }
        return FeatureTables(items, users, self.statistics.values if statistics else {}, vectors)

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
    path = Path(path)
    meta = metadata.read_meta(path)
    schema, counts = metadata.read_schema(path / "meta.json", meta)
    for feature in schema.features:
        if feature.size is not None:
            metadata.check_vocabulary(path / "vocab" / f"{feature.name}.txt", feature.size)
    metadata.check_lines(path / "groups.txt", counts["groups"])
    events, num_events = path / "events", counts["events"]
    offsets = read_offsets(events / "offsets.npy", counts["sequences"], num_events)
    timestamp = read_array(events / "timestamp" / "values.npy", np.int64, num_events)
    _check_order(events / "timestamp" / "values.npy", timestamp, offsets)
    negatives = None
    if (events / "negatives").exists():
        negatives = _multivalued(events / "negatives", schema.num_items, num_events)
    counted = (lambda part: part >= 0, "a count of 0 or more")
    return Dataset(
        path=path,
        schema=schema,
        meta=meta,
        items=_columns(path / "items", schema.item[1:], schema.num_items),
        users=_columns(path / "users", schema.user[1:], schema.num_users),
        event_item=read_ids(events / "item" / "values.npy", np.int32, num_events, schema.num_items),
        event_timestamp=timestamp,
        event_offsets=offsets,
        popularity=read_array(path / "popularity.npy", np.int64, schema.num_items, counted),
        splits=Splits({n: _examples(path, n, schema, counts, offsets) for n in SPLITS}),
        event_negatives=negatives,
        stored_statistics=read_statistics(
            path / STATISTICS, schema, counts["train"], counts["sequences"]
        ),
        stored_factors=read_factors(path / STATISTICS, schema),
    )


def _columns(folder: Path, features: tuple[Feature, ...], rows: int) -> dict[str, Column]:
    return {feature.name: _column(folder / feature.name, feature, rows) for feature in features}


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


def _examples(
    path: Path, split: str, schema: Schema, counts: dict[str, int], offsets: np.ndarray
) -> Examples:
    folder, rows = path / "examples" / split, counts[split]
    ids = (counts["sequences"], counts["events"] + 1, schema.num_users, counts["groups"])
    sizes = dict(zip(EXAMPLE_COLUMNS, (*ids, schema.num_items, 2), strict=True))
    columns = {
        name: read_ids(folder / name / "values.npy", dtype, rows, sizes[name])
        for name, dtype in EXAMPLE_COLUMNS.items()
    }
    sequence, end = columns["sequence"], columns["history_end"]

    def is_within(part: slice) -> np.ndarray:
        start, stop = offsets[sequence[part]], offsets[sequence[part] + 1]
        return (start <= end[part]) & (end[part] <= stop)

    if (row := first_bad(rows, is_within)) is not None:
        start, stop = offsets[sequence[row]], offsets[sequence[row] + 1]
        expected = f"within its sequence, {start} to {stop}, found {end[row]}"
        raise UserError(f"{folder}/history_end/values.npy: entry {row} should be {expected}")
    probability, file = None, folder / PROBABILITY / "values.npy"
    if file.exists():
        probability = read_probabilities(file, rows)
    context = _columns(folder, schema.context, rows)
    return Examples(**columns, context=context, probability=probability)


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
