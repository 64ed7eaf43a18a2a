"""The last step of every log: write vocabularies, features, events and examples to the folder.

Dimensions: E events that histories are made of, S users (sequences), V items with the unknown
one, n examples of a split.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.clock import TIME_UNIT
from dien_jax.data.dataset import Column, Examples
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.writer import DatasetWriter
from dien_jax.preparation.pipeline.baselines import Candidates, describe_baselines, in_history
from dien_jax.preparation.pipeline.extending import concatenated
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.splits import class_warnings
from dien_jax.utils.console import stage


class SplitExamples(NamedTuple):
    """Examples of one split."""

    sequence: np.ndarray  # int32 [n], the user's sequence
    history_end: np.ndarray  # int64 [n], where the history ends among the events
    item: np.ndarray  # int32 [n], number of the candidate in the log
    label: np.ndarray  # int8 [n]
    row: np.ndarray | None = None  # int64 [n], row of the log with the context; None without one


class History(NamedTuple):
    """Events that histories are made of."""

    item: np.ndarray  # int32 [E], number of the item in the log
    timestamp: np.ndarray  # int64 [E]
    offsets: np.ndarray  # int64 [S + 1]
    popularity: np.ndarray  # int64 [V], training events of each row
    negatives: Column | None = None  # items shown at each event and not clicked, if known


def write_folder(
    out: Path,
    encoder: Encoder,
    history: History,
    examples: dict[str, SplitExamples],
    *,
    source: dict[str, Any],
    split: dict[str, Any],
    drawn: str = "",
) -> list[str]:
    """Write the dataset folder, and return lines that summarise it.

    ``source`` and ``split`` describe the log and its split in ``meta.json``; ``drawn`` says how
    negatives were drawn, empty where they were not.
    """
    events, workspace, extended = encoder.events, encoder.workspace, encoder.extended
    row_of = encoder.items.row_of
    warnings = class_warnings({name: rows.label for name, rows in examples.items()})
    ids = {"item": encoder.items, "user": encoder.users}
    encoded = encoder.features()
    features = {group: [entry.feature for entry in encoded[group]] for group in encoded}
    for group in ids:
        features[group].insert(0, Feature(group, "categorical", size=ids[group].size))
    schema = Schema(**{group: tuple(listed) for group, listed in features.items()})
    source = source | {TIME_UNIT: events.clock.unit}
    writer = DatasetWriter(out, schema=schema, source=source, split=split)
    with stage(f"writing {out}"), writer:
        vocabularies = ids | {e.feature.name: e.vocabulary for g in encoded.values() for e in g}
        for name, vocabulary in vocabularies.items():
            if vocabulary is not None:
                writer.vocabulary(name, vocabulary.raw_values(workspace))
        for group, write in (("item", writer.items), ("user", writer.users)):
            for feature, column, _ in encoded[group]:
                before = getattr(extended, f"{group}s")[feature.name] if extended else None
                write(feature.name, *concatenated(column, before).take(ids[group].positions()))
        writer.groups(workspace.strings(events.users.order_by("position"), "raw"))
        writer.events(row_of[history.item], history.timestamp, history.offsets, history.negatives)
        writer.popularity(history.popularity)
        for name, (sequence, end, item, label, row) in examples.items():
            contexts = encoded["context"]
            context = {f.name: c.take(row) for f, c, _ in contexts if row is not None}
            user = encoder.users.row_of[sequence]
            columns = (sequence, end, user, sequence, row_of[item], label, context)
            writer.examples(name, Examples(*columns))
    with stage("scoring simple rules"):
        held_out = {name: _candidates(examples[name], history, row_of) for name in SPLITS[1:]}
        baselines = describe_baselines(held_out, history.popularity, drawn)
    return [
        f"{len(events.item):,} rows of {events.num_users:,} users and {events.num_items:,} items, "
        f"times {events.timestamp.min()} to {events.timestamp.max()} ({events.clock.unit})",
        *_describe_vocabularies(encoder),
        *encoder.notes,
        *(_describe_split(name, examples[name], history.offsets, row_of) for name in SPLITS),
        *baselines,
        *warnings,
    ]


def _candidates(rows: SplitExamples, history: History, row_of: np.ndarray) -> Candidates:
    repeated = in_history(rows.sequence, rows.history_end, rows.item, history.item, history.offsets)
    return Candidates(rows.label, row_of[rows.item], repeated)


def _describe_vocabularies(encoder: Encoder) -> list[str]:
    items, users = encoder.items, encoder.users
    new = [f"{len(ids.values) - len(ids.known):,}" for ids in (items, users)]
    training = f"in training ({encoder.min_count} times or more)"
    if encoder.extended is None:
        return [f"{new[0]} items and {new[1]} users occur {training} and have a row of their own"]
    absent = [np.count_nonzero(ids.values < 0) for ids in (items, users)]
    sizes = (encoder.extended.schema.num_items, encoder.extended.schema.num_users)
    forgotten = [size - 1 - len(ids.known) for size, ids in zip(sizes, (items, users), strict=True)]
    lost = f"{forgotten[0]:,} items and {forgotten[1]:,} users are forgotten and lose their rows"
    return [
        *([lost] if any(forgotten) else []),
        f"{len(items.known):,} items and {len(users.known):,} users keep their rows of "
        f"{encoder.extended.path}, {absent[0]:,} and {absent[1]:,} of them without an event here",
        f"{new[0]} items and {new[1]} users are new {training} and get rows after those",
    ]


def _describe_split(name: str, rows: SplitExamples, offsets: np.ndarray, row_of: np.ndarray) -> str:
    if not len(rows.label):
        return f"{name}: no examples"
    users = 1 + np.count_nonzero(np.diff(rows.sequence))
    lengths = rows.history_end - offsets[rows.sequence]
    return (
        f"{name}: {len(rows.label):,} examples of {users:,} users, "
        f"{int(rows.label.sum(dtype=np.int64)):,} positive; histories of {lengths.min()} to "
        f"{lengths.max()} events, median {np.median(lengths):g}, "
        f"{np.count_nonzero(lengths == 0):,} empty; "
        f"{np.count_nonzero(row_of[rows.item] == 0):,} candidates unknown in training"
    )
