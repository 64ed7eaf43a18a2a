"""Opening the folder of one part of a dataset, and the numbers where parts begin.

Every check needs the part alone: see :mod:`dien_jax.data.dataset` for the files and for what counts
from the start of the dataset.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dien_jax.data.arrays import (
    chunks,
    first_bad,
    read_array,
    read_ids,
    read_offsets,
    read_probabilities,
    release,
)
from dien_jax.data.columns import Column, Examples
from dien_jax.data.metadata import EXAMPLE_COLUMNS, PROBABILITY, SPLITS, Counts, check_lines
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError

NEGATIVES = "events/negatives"
"""Folder of the items that were shown with an event and not clicked."""


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
