"""Splitting events, drawing negatives and writing the folder, for all logs of interactions."""

from typing import Any

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import FeatureColumn, ImplicitOptions, LogOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.extending import known
from dien_jax.preparation.pipeline.features import keep
from dien_jax.preparation.pipeline.split_times import time_borders, train_from
from dien_jax.preparation.pipeline.target_negatives import draw_negatives
from dien_jax.preparation.pipeline.write import History, Rows, Trained, write_folder
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage


def write_interactions(
    workspace: Workspace,
    options: ImplicitOptions,
    events: Events,
    features: dict[str, list[FeatureColumn]],
    *,
    separator: str,
    max_values: int,
    source: dict[str, Any],
    extended: Dataset | None = None,
) -> list[str]:
    """Splits events, draws negatives and writes the dataset folder; see its ``prepare``."""
    offsets = events.offsets
    targets, split, past = _split(options, events)
    if not len(targets["train"]):
        raise UserError(
            f"no training examples: --split {options.split} leaves none of the "
            f"{len(offsets) - 1:,} users' {len(events.item):,} events to training"
        )
    seen = splits.training_events(targets["train"], offsets)
    sequence = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    trained = Trained(
        items=np.bincount(events.item[seen], minlength=events.num_items),
        users=np.bincount(sequence[targets["train"]], minlength=len(offsets) - 1),
    )
    num_items, num_users = events.num_items, len(offsets) - 1
    known_items = known(workspace, extended, "item", events.items, num_items)
    known_users = known(workspace, extended, "user", events.users, num_users)
    items = keep(trained.items, options.min_count, known_items)
    users = keep(trained.users, options.min_count, known_users)
    item = items.row_of[events.item]
    before = splits.training_events(past, offsets)
    popularity = np.bincount(item[before], minlength=len(items.values) + 1)
    examples, missing = {}, 0
    with stage("drawing negatives"):
        for number, name in enumerate(SPLITS):
            target = targets[name]
            drawn = draw_negatives(
                sequence[target],
                item[target],
                event_item=item,
                offsets=offsets,
                popularity=popularity,
                count=options.negatives,
                distribution=options.negative_distribution,
                allow_own=options.allow_own_negatives,
                seed=(options.seed, 1, number),
            )
            missing += drawn.missing
            positive = np.concatenate([np.arange(len(target)), drawn.positive])
            order = np.argsort(positive, kind="stable")  # a positive, then its negatives
            event = target[positive[order]]
            label = np.zeros(len(order), np.int8)
            label[order < len(target)] = 1
            candidate = np.concatenate([item[target], drawn.item])[order]
            examples[name] = Rows(sequence[event], event, candidate, label)
    report = write_folder(
        workspace,
        options,
        events,
        features,
        separator=separator,
        max_values=max_values,
        trained=trained,
        items=items,
        users=users,
        history=History(item, events.timestamp, offsets, popularity),
        examples=examples,
        source=source,
        split={
            **split,
            "negatives": options.negatives,
            "negative_distribution": options.negative_distribution,
            "allow_own_negatives": options.allow_own_negatives,
        },
        extended=extended,
    )
    return [
        *events.report,
        *report,
        *_notes(options, events, targets),
        *([f"{missing:,} negatives left out: their users chose nearly every item"] * bool(missing)),
    ]


def _split(
    options: ImplicitOptions, events: Events
) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """The target events of every split, and what ``meta.json`` says about them.

    The third are the training targets as they were without ``--train-from``: popularity is that of
    the whole past, or negatives would be drawn from the few items of whoever was there lately.
    """
    split: dict[str, Any] = {"policy": options.split, "seed": options.seed}
    if options.split == "last-event":
        targets = splits.last_event(events.offsets)
        return targets, split, targets["train"]
    if options.split == "by-user":
        shares = {"valid_share": options.valid_share, "test_share": options.test_share}
        targets = splits.by_user(events.offsets, seed=options.seed, **shares)
        return targets, {**split, **shares}, targets["train"]
    borders = time_borders(options, events.timestamp, events.clock)
    split |= {"valid_from": borders.valid, "test_from": borders.test}
    targets = splits.by_time(events.timestamp, events.offsets, borders)
    past, begin = targets["train"], train_from(options, borders, events.clock)
    if begin is not None:
        split["train_from"] = begin
        targets["train"] = past[events.timestamp[past] >= begin]
    return targets, split, past


def _notes(options: LogOptions, events: Events, targets: dict[str, np.ndarray]) -> list[str]:
    """What a reader should know about users without examples and about ties."""
    notes = []
    single = np.count_nonzero(np.diff(events.offsets) == 1)
    if single:
        notes.append(f"{single:,} users have one event, hence no history and no example")
    if options.split != "by-time":
        last = [targets[name] for name in SPLITS if options.split == "by-user" or name != "train"]
        tied = splits.tied_targets(np.sort(np.concatenate(last)), events.timestamp, events.offsets)
        if len(tied):
            notes.append(
                f"{len(tied):,} users' last events tie in time with the event before; the order "
                "of the log decided which came last"
            )
    return notes
