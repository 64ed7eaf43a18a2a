"""Logs of impressions: split the rows, collect items passed over, write the folder.

Every row is an example with its own label. Its history is the user's clicks of strictly smaller
times. Rows of one user and one time (a request) always fall into one split. Rows before
``--train-from`` are in none: their clicks appear in histories and in popularity. Popularity counts
clicks of the training rows; vocabularies and rows of users come from all training rows. The items
that a request showed and nobody clicked are stored with each of its clicks, as auxiliary negatives.
"""

from typing import Any

import numpy as np

from dien_jax.data.dataset import Column, Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.extending import growth_of
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.split_times import resolve_times, split_metadata
from dien_jax.preparation.pipeline.write import History, SplitExamples, write_folder
from dien_jax.preparation.reading.workspace import Workspace


def write_impressions(
    workspace: Workspace,
    options: LogOptions,
    events: Events,
    source: dict[str, Any],
    extended: Dataset | None = None,
) -> list[str]:
    """Write the dataset folder of a log that ``source`` describes; return lines about it."""
    assert events.label is not None
    offsets, label, sequence = events.offsets, events.label, events.sequence
    sides, split = _sides(options, events)
    training = sides == splits.TRAIN
    if not training.any():
        left = f"none of the {events.num_users:,} users' {len(label):,} impressions to training"
        raise UserError(f"no training examples: --split {options.split} leaves {left}")
    counts = {
        "item": np.bincount(events.item[training], minlength=events.num_items),
        "user": np.bincount(sequence[training], minlength=events.num_users),
        "context": training.astype(np.int64),
    }
    past = sides <= splits.TRAIN
    earlier = {
        "item": np.bincount(events.item[past], minlength=events.num_items),
        "user": np.bincount(sequence[past], minlength=events.num_users),
    }
    growth = growth_of(options, extended, events, earlier, int(events.timestamp[past].max()))
    encoder = Encoder(workspace, events, training, counts, options.min_count, growth)
    size = encoder.items.size
    item, click = encoder.items.row_of[events.item], np.flatnonzero(label)
    clicks_before = np.concatenate([[0], np.cumsum(label, dtype=np.int64)])
    past_clicks = click[sides[click] <= splits.TRAIN]
    starts = splits.request_starts(events.timestamp, offsets)
    negatives = passed_over_items(item, label, starts, size)
    history = History(
        events.item[click],
        events.timestamp[click],
        clicks_before[offsets],
        np.bincount(item[past_clicks], minlength=size),
        negatives if len(negatives.values) else None,
    )
    history_end = splits.click_histories(events.timestamp, label, offsets)
    examples = {}
    for side, name in enumerate(SPLITS):
        row = np.flatnonzero(sides == side)
        examples[name] = SplitExamples(
            sequence[row], history_end[row], events.item[row], label[row], row
        )
    report = write_folder(options.out, encoder, history, examples, source=source, split=split)
    return [*events.report, *report, _describe_negatives(negatives)]


def _sides(options: LogOptions, events: Events) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the side of every row, int8, and the description of the split for ``meta.json``."""
    if options.split == "last-event":
        sides = splits.last_time_sides(events.timestamp, events.offsets)
        return sides, split_metadata(options)
    if options.split == "by-user":
        sides = splits.user_sides(events.num_users, seed=options.seed, **options.shares)
        return sides[events.sequence], split_metadata(options)
    borders, begin = resolve_times(options, events.timestamp, events.clock)
    sides = splits.time_sides(events.timestamp, borders)
    if begin is not None:
        sides[events.timestamp < begin] = splits.NO_SIDE
    return sides, split_metadata(options, borders, begin)


def _describe_negatives(negatives: Column) -> str:
    assert negatives.offsets is not None
    clicks = int(np.count_nonzero(np.diff(negatives.offsets)))
    if not clicks:
        return "no click has an item that was shown at the same time and not clicked"
    return (
        f"{clicks:,} of {len(negatives.offsets) - 1:,} clicks have items that were shown at the "
        f"same time and not clicked, {len(negatives.values) / clicks:.3g} on average "
        f"(auxiliary negatives for --model.auxiliary-distribution shown)"
    )


def passed_over_items(
    item: np.ndarray, label: np.ndarray, starts: np.ndarray, num_items: int
) -> Column:
    """Return the items that the request of each click showed and of which no row was clicked.

    Each item appears once, in rising order, and the unknown one never. ``starts``, bool ``[R]``,
    comes from ``request_starts``; ``num_items`` counts the unknown item. The column is over the
    clicks, in order.
    """
    request = np.cumsum(starts) - 1
    clicked = label == 1
    keys = request * num_items + item
    has_click = np.zeros(int(starts.sum()), bool)
    has_click[request[clicked]] = True
    passed = np.unique(keys[has_click[request] & ~clicked & (item > 0)])
    passed = np.setdiff1d(passed, np.unique(keys[clicked]), assume_unique=True)
    owner, values = np.divmod(passed, num_items)
    offsets = np.searchsorted(owner, np.arange(len(has_click) + 1))
    return Column(values.astype(np.int32), offsets).take(request[clicked])
