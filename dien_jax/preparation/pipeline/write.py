"""The last step of every log: vocabularies, features, events and examples into the folder.

Dimensions: E events that histories are made of, S users (sequences), V items with the unknown
one, n examples of a split.
"""

from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.dataset import Column, Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.writer import DatasetWriter
from dien_jax.preparation.options import FeatureColumn, LogOptions
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.extending import chained
from dien_jax.preparation.pipeline.features import Encoded, Kept, encode, raw_values, take
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage


class Rows(NamedTuple):
    """The examples of one split.

    Attributes:
      sequence: int32 ``[n]``, the user's sequence.
      history_end: int64 ``[n]``, where the history ends among the events.
      item: int32 ``[n]``, row of the candidate.
      label: int8 ``[n]``.
      row: int64 ``[n]``, row of the log that the context comes from, or None without one.
    """

    sequence: np.ndarray
    history_end: np.ndarray
    item: np.ndarray
    label: np.ndarray
    row: np.ndarray | None = None


class History(NamedTuple):
    """The events that histories are made of.

    Attributes:
      item: int32 ``[E]``, row of the item.
      timestamp: int64 ``[E]``.
      offsets: int64 ``[S + 1]``.
      popularity: int64 ``[V]``, training events of each item.
      negatives: rows of the items that were shown at each event and not clicked, or None.
    """

    item: np.ndarray
    timestamp: np.ndarray
    offsets: np.ndarray
    popularity: np.ndarray
    negatives: Column | None = None


class Trained(NamedTuple):
    """How often training sees things: what vocabularies are counted from.

    Attributes:
      items: int64, by number of the item.
      users: int64, by sequence.
      rows: int64, by row of the log: 1 for a training impression; None without context.
    """

    items: np.ndarray
    users: np.ndarray
    rows: np.ndarray | None = None


def write_folder(
    workspace: Workspace,
    options: LogOptions,
    events: Events,
    features: dict[str, list[FeatureColumn]],
    *,
    separator: str,
    max_values: int,
    trained: Trained,
    items: Kept,
    users: Kept,
    history: History,
    examples: dict[str, Rows],
    source: dict[str, Any],
    split: dict[str, Any],
    extended: Dataset | None,
) -> list[str]:
    """Writes the dataset folder.

    Args:
      workspace: holds the tables of ``events``.
      options: where to write, and the smallest count of a value.
      events: the log.
      features: the ``item``, ``user`` and ``context`` features.
      separator: between the values of a multi-valued cell.
      max_values: the number of them that are kept.
      trained: what training sees.
      items: which items have a row.
      users: which users have a row.
      history: the events of the folder.
      examples: by split.
      source: what ``meta.json`` says of the log.
      split: what it says of the splits.
      extended: the folder that this one extends, if any.

    Returns:
      lines that say what was written.
    """
    counts = {"item": trained.items, "user": trained.users, "context": trained.rows}
    tables = {"item": events.items, "user": events.users, "context": events.contexts}
    encoded: dict[str, list[Encoded]] = {}
    for group, columns in features.items():
        count = counts[group]
        if count is None:
            encoded[group] = []
            continue
        with stage(f"encoding {group} features"):
            encoded[group] = encode(
                workspace,
                tables[group],
                len(count),
                columns,
                trained=count,
                min_count=options.min_count,
                separator=separator,
                max_values=max_values,
                extended=extended,
            )
    schema = Schema(
        item=(_id("item", items), *(entry.feature for entry in encoded["item"])),
        user=(_id("user", users), *(entry.feature for entry in encoded["user"])),
        context=tuple(entry.feature for entry in encoded["context"]),
    )
    with (
        stage(f"writing {options.out}"),
        DatasetWriter(options.out, schema=schema, source=source, split=split) as writer,
    ):
        writer.vocabulary("item", raw_values(workspace, events.items, items))
        writer.vocabulary("user", raw_values(workspace, events.users, users))
        for entry in (*encoded["item"], *encoded["user"], *encoded["context"]):
            if entry.values is not None and entry.kept is not None:
                values = raw_values(workspace, entry.values, entry.kept)
                writer.vocabulary(entry.feature.name, values)
        for entry in encoded["item"]:
            name = entry.feature.name
            column = chained(entry.column, None if extended is None else extended.items[name])
            writer.items(name, *take(column, items.sources(events.num_items)))
        for entry in encoded["user"]:
            name = entry.feature.name
            column = chained(entry.column, None if extended is None else extended.users[name])
            writer.users(name, *take(column, users.sources(len(events.offsets) - 1)))
        writer.groups(workspace.strings(events.users.order_by("position"), "raw"))
        writer.events(history.item, history.timestamp, history.offsets, history.negatives)
        writer.popularity(history.popularity)
        for name, rows in examples.items():
            writer.examples(
                name,
                sequence=rows.sequence,
                history_end=rows.history_end,
                user=users.row_of[rows.sequence],
                group=rows.sequence,
                item=rows.item,
                label=rows.label,
                context={
                    entry.feature.name: take(entry.column, rows.row)
                    for entry in encoded["context"]
                    if rows.row is not None
                },
            )
    return [
        f"{len(events.item):,} rows of {len(events.offsets) - 1:,} users and "
        f"{events.num_items:,} items, times {events.timestamp.min()} to {events.timestamp.max()} "
        f"({events.clock.unit})",
        *_describe_rows(options.min_count, items, users, extended),
        *(_describe(name, examples[name], history.offsets) for name in SPLITS),
    ]


def _id(name: str, kept: Kept) -> Feature:
    return Feature(name, "categorical", size=len(kept.values) + 1)


def _describe_rows(min_count: int, items: Kept, users: Kept, extended: Dataset | None) -> list[str]:
    """How many items and users have rows, and since when."""
    new = [len(kept.values) - len(kept.known) for kept in (items, users)]
    if extended is None:
        return [
            f"{new[0]:,} items and {new[1]:,} users occur in training ({min_count} times or more) "
            f"and have a row of their own"
        ]
    away = [np.count_nonzero(kept.values < 0) for kept in (items, users)]
    return [
        f"{len(items.known):,} items and {len(users.known):,} users keep their rows of "
        f"{extended.path}, {away[0]:,} and {away[1]:,} of them without an event here",
        f"{new[0]:,} items and {new[1]:,} users are new in training ({min_count} times or more) "
        f"and get rows after those",
    ]


def _describe(name: str, rows: Rows, offsets: np.ndarray) -> str:
    if not len(rows.label):
        return f"{name}: no examples"
    users = 1 + np.count_nonzero(np.diff(rows.sequence))
    lengths = rows.history_end - offsets[rows.sequence]
    return (
        f"{name}: {len(rows.label):,} examples of {users:,} users, "
        f"{int(rows.label.sum(dtype=np.int64)):,} positive; histories of {lengths.min()} to "
        f"{lengths.max()} events, {np.median(lengths):g} in the median, "
        f"{np.count_nonzero(lengths == 0):,} empty; "
        f"{np.count_nonzero(rows.item == 0):,} candidates unknown in training"
    )
