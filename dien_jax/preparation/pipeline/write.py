"""The last step of every log: write vocabularies, features, events and examples to the folder.

Dimensions: E events that histories are made of, V items with the unknown one, n examples of a
split; e events and s sequences of a part.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.arrays import Examples, joined_columns
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.data.value_text import TIME_UNIT
from dien_jax.preparation.memory import IDLE
from dien_jax.preparation.pipeline.events import EventPart
from dien_jax.preparation.pipeline.features import EncodedFeature, Encoder
from dien_jax.preparation.writer import DatasetWriter
from dien_jax.utils.console import stage


class SplitExamples(NamedTuple):
    """Examples of one split, of a part."""

    sequence: np.ndarray  # int32 [n], the user's sequence, from 0
    history_end: np.ndarray  # int64 [n], where the history ends among the part's events
    item: np.ndarray  # int32 [n], number of the candidate in the log
    label: np.ndarray  # int8 [n]
    row: np.ndarray | None = None  # int64 [n], row of the log with the context; None without one


FolderPart = tuple[EventPart, dict[str, SplitExamples]]
"""Events of consecutive sequences that histories are made of, and examples by split."""


class _SplitSummary:
    """Numbers about the examples of a split."""

    def __init__(self) -> None:
        self.examples = self.positives = self.users = self.empty = self.longest = self.unknown = 0

    def add(self, rows: SplitExamples, history: EventPart, row_of: np.ndarray) -> None:
        """Count the examples of a part."""
        if not len(rows.label):
            return
        self.examples += len(rows.label)
        self.positives += int(np.count_nonzero(rows.label))
        self.unknown += int(np.count_nonzero(row_of[rows.item] == UNKNOWN))
        self.users += 1 + int(np.count_nonzero(np.diff(rows.sequence)))
        lengths = rows.history_end - history.offsets[rows.sequence]
        self.longest = max(self.longest, int(lengths.max()))
        self.empty += int(np.count_nonzero(lengths == 0))

    def describe(self, name: str) -> str:
        """Return a line about the split."""
        if not self.examples:
            return f"{name}: no examples"
        return (
            f"{name}: {self.examples:,} examples of {self.users:,} users, "
            f"{self.positives:,} positive; "
            f"histories of up to {self.longest:,} events, {self.empty:,} empty; "
            f"{self.unknown:,} candidates unknown in training"
        )


def write_folder(
    out: Path,
    encoder: Encoder,
    popularity: np.ndarray,
    parts: Iterable[FolderPart],
    *,
    source: dict[str, Any],
    split: dict[str, Any],
) -> list[str]:
    """Write the dataset folder; return lines that summarise it.

    ``popularity``, int64 ``[V]``, has the training events of each row. ``source`` and ``split``
    describe the log and its split in ``meta.json``.
    """
    events, workspace, extended = encoder.events, encoder.workspace, encoder.extended
    ids = {"item": encoder.items, "user": encoder.users}
    encoded = encoder.features()
    features = {group: [entry.feature for entry in encoded[group]] for group in encoded}
    for group in ids:
        features[group].insert(0, Feature(group, "categorical", size=ids[group].size))
    schema = Schema(**{group: tuple(listed) for group, listed in features.items()})
    source = source | {TIME_UNIT: events.clock.unit} | dict(workspace.metadata)
    summaries = {name: _SplitSummary() for name in SPLITS}
    with (
        stage(f"writing {out}") as current,
        DatasetWriter(
            out, schema=schema, source=source, split=split, progress=current.now
        ) as writer,
    ):
        vocabularies = ids | {e.feature.name: e.vocabulary for g in encoded.values() for e in g}
        for name, vocabulary in vocabularies.items():
            if vocabulary is not None:
                writer.vocabulary(name, vocabulary.raw_values(workspace))
        for group, write in (("item", writer.items), ("user", writer.users)):
            for feature, column, _ in encoded[group]:
                known = [getattr(extended, f"{group}s")[feature.name]] if extended else []
                whole = joined_columns([column.whole(), *known])
                write(feature.name, *whole.take(ids[group].positions()))
        writer.popularity(popularity)
        workspace.limit(IDLE)  # the parts, and what is counted of them, need the rest
        raw_users = workspace.strings(events.users, "raw")
        for history, examples in parts:
            users = history.sequences.stop
            writer.groups(itertools.islice(raw_users, users - history.first_sequence))
            _write_part(writer, encoder, (history, examples), encoded["context"])
            current.note = f"{users:,} of {events.num_users:,} users"
            current.share = int(events.offsets[users]) / len(events.item)
            for name, rows in examples.items():
                summaries[name].add(rows, history, encoder.items.row_of)
    times = events.times()
    dates = [events.clock.date(time) for time in times]
    by_time = {name: split[f"{name}_from"] for name in SPLITS[1:] if f"{name}_from" in split}
    borders = ", ".join(f"{name} from {events.clock.date(t)}" for name, t in by_time.items())
    return [
        f"{len(events.item):,} rows of {events.num_users:,} users and {events.num_items:,} items, "
        f"times {times[0]} to {times[1]} ({events.clock.unit}), {dates[0]} to {dates[1]} UTC",
        *([f"{borders} UTC"] if by_time else []),
        *_describe_vocabularies(encoder),
        *encoder.notes,
        *(summary.describe(name) for name, summary in summaries.items()),
    ]


def _write_part(
    writer: DatasetWriter, encoder: Encoder, part: FolderPart, contexts: list[EncodedFeature]
) -> None:
    history, examples = part
    row_of, user_of = encoder.items.row_of, encoder.users.row_of
    writer.events(row_of[history.item], history.timestamp, history.offsets + history.first_event)
    for name, (local, end, item, label, row) in examples.items():
        context = {f.name: c.take(row) for f, c, _ in contexts if row is not None}
        sequence = local + np.int32(history.first_sequence)
        user = user_of[sequence]
        columns = (
            sequence,
            end + history.first_event,
            user,
            sequence,
            row_of[item],
            label,
            context,
        )
        writer.examples(name, Examples(*columns))


def _describe_vocabularies(encoder: Encoder) -> list[str]:
    items, users = encoder.items, encoder.users
    new = [f"{len(ids.values) - len(ids.known):,}" for ids in (items, users)]
    training = f"in training ({encoder.min_count} times or more)"
    if encoder.extended is None:
        return [f"{new[0]} items and {new[1]} users occur {training} and have a row of their own"]
    absent = [np.count_nonzero(ids.values < 0) for ids in (items, users)]
    return [
        f"{len(items.known):,} items and {len(users.known):,} users keep their rows of "
        f"{encoder.extended.path}, {absent[0]:,} and {absent[1]:,} of them without an event here",
        f"{new[0]} items and {new[1]} users are new {training} and get rows after those",
    ]
