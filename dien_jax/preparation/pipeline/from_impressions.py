"""Logs of impressions: split the rows, write the folder.

Every row is an example with its own label. Its history is the user's clicks of strictly smaller
times. Rows of one user and one time (a request) always fall into one split. Rows before
``--train-from`` are in none: their clicks appear in histories and in popularity. Popularity counts
clicks of the training rows; vocabularies and rows of users come from all training rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import EventPart, Events, Sides, count_events, read_times
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.splits import split_metadata
from dien_jax.preparation.pipeline.write import FolderPart, SplitExamples, write_folder
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage


def write_impressions(
    workspace: Workspace,
    options: LogOptions,
    events: Events,
    source: dict[str, Any],
    extended: Dataset | None = None,
) -> list[str]:
    """Write the dataset folder of a log that ``source`` describes; return lines about it."""
    events = events.within(workspace, options.memory, 1)
    with stage("splitting rows"):
        sides, split = _sides(workspace, options, events)

        def is_seen(part: EventPart) -> np.ndarray:
            return np.asarray(sides(part) == splits.TRAIN)

        def is_past(part: EventPart) -> np.ndarray:
            return np.asarray(sides(part) <= splits.TRAIN)

        def is_click(part: EventPart) -> np.ndarray:
            return is_past(part) & (part.label == 1)

        encoder = Encoder(workspace, events, options, is_seen, is_past, extended)
        (clicks,) = count_events(events, is_click)
    items = encoder.items
    popularity = np.bincount(items.row_of[:-1], clicks["item"], items.size).astype(np.int64)

    def parts() -> Iterator[FolderPart]:
        first_click = 0
        for part in events.parts():
            history, examples = _histories(part, sides(part))
            yield history._replace(first_event=first_click), examples
            first_click += len(history.item)

    report = write_folder(options.out, encoder, popularity, parts(), source=source, split=split)
    return [*events.report, *report]


def _histories(part: EventPart, sides: np.ndarray) -> FolderPart:
    """Return the clicks of a part, and its examples."""
    assert part.label is not None
    label, offsets, sequence = part.label, part.offsets, part.sequence
    click = np.flatnonzero(label)
    clicks_before = np.concatenate([[0], np.cumsum(label, dtype=np.int64)])
    history = part._replace(
        item=part.item[click], timestamp=part.timestamp[click], offsets=clicks_before[offsets]
    )
    history_end = splits.click_histories(part.timestamp, label, offsets)
    examples = {}
    for side, name in enumerate(SPLITS):
        row = np.flatnonzero(sides == side)
        columns = sequence[row], history_end[row], part.item[row], label[row]
        examples[name] = SplitExamples(*columns, row + part.first_event)
    return history, examples


def _sides(
    workspace: Workspace, options: LogOptions, events: Events
) -> tuple[Sides, dict[str, Any]]:
    """Return the side of every row, and the description of the split for ``meta.json``."""
    about = split_metadata(options)
    if options.split == "last-event":
        return lambda part: splits.last_time_sides(part.timestamp, part.offsets), about
    if options.split == "by-user":
        users = splits.user_sides(events.num_users, seed=options.seed, **options.shares)
        return lambda part: users[part.sequences][part.sequence], about
    borders, begin = read_times(workspace, options, events)

    def by_time(part: EventPart) -> np.ndarray:
        sides = splits.time_sides(part.timestamp, borders)
        if begin is not None:
            sides[part.timestamp < begin] = splits.EARLIER
        return sides

    return by_time, split_metadata(options, borders, begin)
