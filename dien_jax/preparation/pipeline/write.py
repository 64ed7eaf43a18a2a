"""The last step of every log: write vocabularies, features, events and examples to the folder.

Dimensions: E events that histories are made of, S users (sequences), V items with the unknown
one, n examples of a split.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.dataset import Column, Dataset, Examples
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.writer import DatasetWriter
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.extending import concatenated
from dien_jax.preparation.pipeline.features import EncodedFeature, Encoder, Vocabulary
from dien_jax.utils.console import stage


class SplitExamples(NamedTuple):
    """Examples of one split."""

    sequence: np.ndarray  # int32 [n], the user's sequence
    history_end: np.ndarray  # int64 [n], where the history ends among the events
    item: np.ndarray  # int32 [n], row of the candidate
    label: np.ndarray  # int8 [n]
    # int64 [n], row of the log that the context comes from, or None without one
    row: np.ndarray | None = None


class History(NamedTuple):
    """Events that histories are made of."""

    item: np.ndarray  # int32 [E], row of the item
    timestamp: np.ndarray  # int64 [E]
    offsets: np.ndarray  # int64 [S + 1]
    popularity: np.ndarray  # int64 [V], training events of each item
    # rows of the items that were shown at each event and not clicked, or None
    negatives: Column | None = None


class TrainingCounts(NamedTuple):
    """Occurrences in training, from which vocabularies are made."""

    item: np.ndarray  # int64, by number of the item
    user: np.ndarray  # int64, by sequence
    # int64, by row of the log: 1 for a training impression; None without context
    context: np.ndarray | None = None


class PreparedLog(NamedTuple):
    """A log that is split and ready to be written."""

    events: Events  # the log as it was read
    counts: TrainingCounts  # what training sees
    items: Vocabulary  # the items that have a row
    users: Vocabulary  # the users that have a row
    history: History  # the events of the folder
    examples: dict[str, SplitExamples]  # the examples by split
    source: dict[str, Any]  # description of the log for meta.json
    split: dict[str, Any]  # description of the split for meta.json


def write_folder(out: Path, encoder: Encoder, log: PreparedLog) -> list[str]:
    """Write the dataset folder, and return lines that summarise it."""
    events, extended = log.events, encoder.extended
    tables = {"item": events.items, "user": events.users, "context": events.contexts}
    encoded: dict[str, list[EncodedFeature]] = {"item": [], "user": [], "context": []}
    for group, columns in events.features.groups.items():
        counts = getattr(log.counts, group)
        if counts is not None:
            with stage(f"encoding {group} features"):
                encoded[group] = [encoder.encode(c, tables[group], counts) for c in columns]
    item = Feature("item", "categorical", size=log.items.size)
    user = Feature("user", "categorical", size=log.users.size)
    schema = Schema(
        item=(item, *(entry.feature for entry in encoded["item"])),
        user=(user, *(entry.feature for entry in encoded["user"])),
        context=tuple(entry.feature for entry in encoded["context"]),
    )
    workspace = encoder.workspace
    with (
        stage(f"writing {out}"),
        DatasetWriter(out, schema=schema, source=log.source, split=log.split) as writer,
    ):
        writer.vocabulary("item", log.items.raw_values(workspace))
        writer.vocabulary("user", log.users.raw_values(workspace))
        for entry in (*encoded["item"], *encoded["user"], *encoded["context"]):
            if entry.vocabulary is not None:
                writer.vocabulary(entry.feature.name, entry.vocabulary.raw_values(workspace))
        for entry in encoded["item"]:
            before = None if extended is None else extended.items[entry.feature.name]
            column = concatenated(entry.column, before).take(log.items.positions())
            writer.items(entry.feature.name, *column)
        for entry in encoded["user"]:
            before = None if extended is None else extended.users[entry.feature.name]
            column = concatenated(entry.column, before).take(log.users.positions())
            writer.users(entry.feature.name, *column)
        writer.groups(workspace.strings(events.users.order_by("position"), "raw"))
        history = log.history
        writer.events(history.item, history.timestamp, history.offsets, history.negatives)
        writer.popularity(history.popularity)
        for name, rows in log.examples.items():
            context = {
                entry.feature.name: entry.column.take(rows.row)
                for entry in encoded["context"]
                if rows.row is not None
            }
            examples = Examples(
                sequence=rows.sequence,
                history_end=rows.history_end,
                user=log.users.row_of[rows.sequence],
                group=rows.sequence,
                item=rows.item,
                label=rows.label,
                context=context,
            )
            writer.examples(name, examples)
    return [
        f"{len(events.item):,} rows of {events.num_users:,} users and {events.num_items:,} items, "
        f"times {events.timestamp.min()} to {events.timestamp.max()} ({events.clock.unit})",
        *_describe_vocabularies(encoder.min_count, log.items, log.users, extended),
        *(_describe_split(name, log.examples[name], history.offsets) for name in SPLITS),
    ]


def _describe_vocabularies(
    min_count: int, items: Vocabulary, users: Vocabulary, extended: Dataset | None
) -> list[str]:
    new = [len(ids.values) - len(ids.known) for ids in (items, users)]
    if extended is None:
        return [
            f"{new[0]:,} items and {new[1]:,} users occur in training ({min_count} times or more) "
            f"and have a row of their own"
        ]
    absent = [np.count_nonzero(ids.values < 0) for ids in (items, users)]
    return [
        f"{len(items.known):,} items and {len(users.known):,} users keep their rows of "
        f"{extended.path}, {absent[0]:,} and {absent[1]:,} of them without an event here",
        f"{new[0]:,} items and {new[1]:,} users are new in training ({min_count} times or more) "
        f"and get rows after those",
    ]


def _describe_split(name: str, rows: SplitExamples, offsets: np.ndarray) -> str:
    if not len(rows.label):
        return f"{name}: no examples"
    users = 1 + np.count_nonzero(np.diff(rows.sequence))
    lengths = rows.history_end - offsets[rows.sequence]
    return (
        f"{name}: {len(rows.label):,} examples of {users:,} users, "
        f"{int(rows.label.sum(dtype=np.int64)):,} positive; histories of {lengths.min()} to "
        f"{lengths.max()} events, median {np.median(lengths):g}, "
        f"{np.count_nonzero(lengths == 0):,} empty; "
        f"{np.count_nonzero(rows.item == 0):,} candidates unknown in training"
    )
