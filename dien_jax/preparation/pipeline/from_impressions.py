"""Logs of impressions: split the rows, collect items passed over, write the folder.

Every row is an example with its own label. Its history is the user's clicks of strictly smaller
times; it may be empty. Rows of one user and one time (a request) always fall into one split:

- ``by-time``: rows before, between and after two times. Rows before ``--train-from`` are in no
  split: their clicks appear in histories and in popularity.
- ``by-user``: all rows of a user go to the user's split.
- ``last-event``: per user, the rows of the last time test, those of the time before it validate
  and earlier ones train.

Popularity counts clicks of the training rows. Vocabularies and rows of users come from all
training rows. The items that a request showed and nobody clicked are stored with each of its
clicks, as auxiliary negatives.
"""

from typing import Any

import numpy as np

from dien_jax.data.dataset import Column, Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.shown_negatives import passed_over_items
from dien_jax.preparation.pipeline.split_times import resolve_times, split_metadata
from dien_jax.preparation.pipeline.write import (
    History,
    PreparedLog,
    SplitExamples,
    TrainingCounts,
    write_folder,
)
from dien_jax.preparation.reading.workspace import Workspace


def write_impressions(
    workspace: Workspace,
    options: LogOptions,
    events: Events,
    source: dict[str, Any],
    extended: Dataset | None = None,
) -> list[str]:
    """Write the dataset folder of a log of impressions, and return lines that summarise it.

    ``source`` describes the log in ``meta.json``. Nothing left to train on is a ``UserError``.
    """
    assert events.label is not None
    offsets, label, sequence = events.offsets, events.label, events.sequence
    sides, split = _sides(options, events)
    training = sides == splits.TRAIN
    if not training.any():
        raise UserError(
            f"no training examples: --split {options.split} leaves none of the "
            f"{events.num_users:,} users' {len(label):,} impressions to training"
        )
    counts = TrainingCounts(
        item=np.bincount(events.item[training], minlength=events.num_items),
        user=np.bincount(sequence[training], minlength=events.num_users),
        context=training.astype(np.int64),
    )
    encoder = Encoder(workspace, events.features, options.min_count, extended)
    items = encoder.vocabulary("item", events.items, counts.item)
    users = encoder.vocabulary("user", events.users, counts.user)
    item, click = items.row_of[events.item], np.flatnonzero(label)
    clicks_before = np.concatenate([[0], np.cumsum(label, dtype=np.int64)])
    past_clicks = click[sides[click] <= splits.TRAIN]
    starts = splits.request_starts(events.timestamp, offsets)
    negatives = passed_over_items(item, label, starts, items.size)
    history_end = splits.click_histories(events.timestamp, label, offsets)
    examples = {}
    for side, name in enumerate(SPLITS):
        row = np.flatnonzero(sides == side)
        examples[name] = SplitExamples(sequence[row], history_end[row], item[row], label[row], row)
    log = PreparedLog(
        events=events,
        counts=counts,
        items=items,
        users=users,
        history=History(
            item[click],
            events.timestamp[click],
            clicks_before[offsets],
            np.bincount(item[past_clicks], minlength=items.size),
            negatives if len(negatives.values) else None,
        ),
        examples=examples,
        source=source,
        split=split,
    )
    report = write_folder(options.out, encoder, log)
    return [*events.report, *report, _describe_negatives(negatives)]


def _sides(options: LogOptions, events: Events) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the side of every row, int8, and the description of the split for ``meta.json``."""
    if options.split == "last-event":
        sides = splits.last_time_sides(events.timestamp, events.offsets)
        return sides, split_metadata(options)
    if options.split == "by-user":
        shares = {"valid_share": options.valid_share, "test_share": options.test_share}
        sides = splits.user_sides(events.num_users, seed=options.seed, **shares)
        return sides[events.sequence], split_metadata(options)
    borders, begin = resolve_times(options, events.timestamp, events.clock)
    sides = splits.time_sides(events.timestamp, borders)
    if begin is not None:
        sides[events.timestamp < begin] = splits.NO_SIDE
    return sides, split_metadata(options, borders, begin)


def _describe_negatives(negatives: Column) -> str:
    """Return a line about the clicks that have auxiliary negatives."""
    assert negatives.offsets is not None
    clicks = int(np.count_nonzero(np.diff(negatives.offsets)))
    if not clicks:
        return "no click has an item that was shown at the same time and not clicked"
    return (
        f"{clicks:,} of {len(negatives.offsets) - 1:,} clicks have items that were shown at the "
        f"same time and not clicked, {len(negatives.values) / clicks:.3g} on average "
        f"(auxiliary negatives for --model.auxiliary-distribution shown)"
    )
