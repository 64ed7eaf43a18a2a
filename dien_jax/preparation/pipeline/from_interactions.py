"""Logs of interactions: split the events, draw negatives, write the folder.

An example is an event, and its history is everything before it in time, ties in the log's order.
A user's first event has no history and is no example. Every other event of training is one, unless
``--max-examples`` keeps the latest of each user. Popularity, vocabularies and rows of users
come from training events: those that a training example has as its target or in its history. With
``--train-from`` popularity counts earlier events too.

Negatives of training are drawn from the events that popularity counts, so each is an item that
training knows. Those of validation and test are drawn from all events up to their time: there,
items unknown in training are among the negatives as they are among the positives.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.preparation.options import EXAMPLE_SETTINGS, ImplicitOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import EventPart, Events, Marks, Sides, read_times
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.splits import split_metadata
from dien_jax.preparation.pipeline.target_negatives import NegativeSampler, Pool
from dien_jax.preparation.pipeline.write import FolderPart, SplitExamples, write_folder
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage

MEANING = {
    "popularity": "by popularity, so AUC does not reward popular items; recommend does",
    "uniform": "uniformly, so AUC rewards popular items; so does recommend",
}
"""What each ``--negative-distribution`` means, as the summary says it."""


def write_interactions(
    workspace: Workspace,
    options: ImplicitOptions,
    events: Events,
    source: dict[str, Any],
    extended: Dataset | None = None,
) -> list[str]:
    """Write the dataset folder of a log that ``source`` describes; return lines about it."""
    events = events.within(workspace, options.memory, 1 + options.negatives)
    with stage("splitting events"):
        sides, split = _sides(workspace, options, events)

        def is_seen(part: EventPart) -> np.ndarray:
            return splits.training_events(sides(part) == splits.TRAIN, part.offsets)

        def is_past(part: EventPart) -> np.ndarray:
            return splits.training_events(sides(part) <= splits.TRAIN, part.offsets)

        encoder = Encoder(workspace, events, options, is_seen, is_past, extended)
    row_of, seen = encoder.items.row_of, encoder.seen
    popularity = np.bincount(row_of[:-1], encoder.past["item"], encoder.items.size)
    # An extended folder knows more than training.
    known = (seen["item"] > 0) | (row_of[:-1] > 0)
    with stage("sorting events by time"):
        pools = _pools(workspace, options, events, is_past, known)
    missing = 0

    def parts() -> Iterator[FolderPart]:
        nonlocal missing
        for part in events.parts():
            examples, left_out = _examples(options, events, part, sides(part), pools)
            yield part, examples
            missing += left_out

    report = write_folder(
        options.out,
        encoder,
        popularity.astype(np.int64),
        parts(),
        source=source,
        split=split | {name: getattr(options, name) for name in EXAMPLE_SETTINGS},
    )
    most = options.max_examples
    which = "every event" if most is None else f"the latest {most:,} events of each user"
    of_users = f"{seen['item'].sum():,} events of {np.count_nonzero(seen['user']):,} users"
    report.append(f"training sees {of_users}; its examples are {which} with a history")
    meaning = MEANING[options.negative_distribution]
    report.append(f"negatives of each positive: {options.negatives}, drawn {meaning}")
    if single := np.count_nonzero(np.diff(events.offsets) == 1):
        report.append(f"users with one event, so no history and no example: {single:,}")
    if missing:
        reason = "by then nothing else had been chosen, or their users had chosen nearly all of it"
        report.append(f"{missing:,} negatives left out: {reason}")
    return [*events.report, *report]


def _sides(
    workspace: Workspace, options: ImplicitOptions, events: Events
) -> tuple[Sides, dict[str, Any]]:
    """Return the side of every event, and the description of the split for ``meta.json``.

    What ``--train-from`` and ``--max-examples`` leave out of training stays in popularity, that of
    the whole past: negatives would be drawn from the few items of recent users.
    """
    borders, begin, users = None, None, None
    if options.split == "by-time":
        borders, begin = read_times(workspace, options, events)
    elif options.split == "by-user":
        shares = options.shares
        users = splits.sides_of_able_users(events.offsets, seed=options.seed, **shares)

    def sides(part: EventPart) -> np.ndarray:
        if borders is not None:
            found = splits.by_time(part.timestamp, part.offsets, borders)
        elif users is not None:
            found = splits.by_user(part.offsets, users[part.sequences])
        else:
            found = splits.last_event(part.offsets)
        past = examples = np.flatnonzero(found == splits.TRAIN)
        if begin is not None:
            examples = examples[part.timestamp[examples] >= begin]
        if options.max_examples is not None:
            examples = splits.latest(examples, part.offsets, options.max_examples)
        found[past] = splits.EARLIER
        found[examples] = splits.TRAIN
        return found

    return sides, split_metadata(options, borders, begin)


def _pools(
    workspace: Workspace,
    options: ImplicitOptions,
    events: Events,
    is_past: Marks,
    known: np.ndarray,
) -> tuple[Pool, Pool]:
    """Return the pools of training and of the other splits."""
    chosen = np.zeros(len(events.item), bool)
    for part in events.parts():
        stop = part.first_event + len(part.item)
        chosen[part.first_event : stop] = is_past(part) & known[part.item]
    kind = events.num_items, options.negative_distribution
    train = Pool(workspace.folder / "pool of training", *kind, chosen)
    held_out = Pool(workspace.folder / "pool", *kind)
    for batch in events.by_time(workspace):
        train.add(*batch)
        held_out.add(*batch)
    return train, held_out


def _examples(
    options: ImplicitOptions,
    events: Events,
    part: EventPart,
    sides: np.ndarray,
    pools: tuple[Pool, Pool],
) -> tuple[dict[str, SplitExamples], int]:
    """Return each positive followed by its negatives, by split; and the number of missing ones."""
    item, sequence = part.item, part.sequence
    examples, missing = {}, 0
    for number, name in enumerate(SPLITS):
        target = np.flatnonzero(sides == number)
        sampler = NegativeSampler(
            item,
            part.timestamp,
            part.offsets,
            pools[number != splits.TRAIN],
            events.num_items,
            options.allow_own_negatives,
        )
        drawn = sampler.draw(
            target,
            count=options.negatives,
            seed=(options.seed, 1, number),
            first_event=part.first_event,
        )
        missing += drawn.missing
        positive = np.concatenate([np.arange(len(target)), drawn.positive])
        order = np.argsort(positive, kind="stable")
        event = target[positive[order]]
        label = (order < len(target)).astype(np.int8)
        candidate = np.concatenate([item[target], drawn.item])[order]
        examples[name] = SplitExamples(sequence[event], event, candidate, label)
    return examples, missing
