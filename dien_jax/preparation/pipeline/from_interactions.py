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

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import ImplicitOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import EventPart, Events
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.splits import resolve_times, split_metadata
from dien_jax.preparation.pipeline.target_negatives import NegativeSampler, Pool, store_pools
from dien_jax.preparation.pipeline.write import FolderPart, History, SplitExamples, write_folder
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage


class Targets(NamedTuple):
    """The target events of a part, rising, counted from its first event."""

    by_split: dict[str, np.ndarray]
    past: np.ndarray
    """Training targets of popularity. They ignore ``--train-from`` and ``--max-examples``:
    popularity is that of the whole past, or negatives would be drawn from the few items of recent
    users."""


class _Split(NamedTuple):
    """The split of a log: a function of a part of its events."""

    metadata: dict[str, Any]
    targets: Callable[[EventPart], Targets]

    def seen(self, events: EventPart) -> np.ndarray:
        """Mark the events that training sees, bool ``[e]``."""
        return splits.training_events(self.targets(events).by_split["train"], events.offsets)

    def before(self, events: EventPart) -> np.ndarray:
        """Mark the events that popularity counts, bool ``[e]``."""
        return splits.training_events(self.targets(events).past, events.offsets)


class _Counts:
    """Counts over all events: of training (``seen``) and of the whole past (``before``)."""

    def __init__(self, events: Events) -> None:
        sizes = {"item": events.num_items, "user": events.num_users}
        self.seen = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
        self.before = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
        self.targets = dict.fromkeys(SPLITS, 0)
        self.seen_events = self.training_users = self.tied_users = 0

    def add(self, events: EventPart, split: _Split) -> None:
        """Count a part."""
        targets = split.targets(events)
        train, offsets = targets.by_split["train"], events.offsets
        for name, target in targets.by_split.items():
            self.targets[name] += len(target)
        users = len(offsets) - 1
        for counts, target in ((self.seen, train), (self.before, targets.past)):
            is_in = splits.training_events(target, offsets)
            counts["item"] += np.bincount(events.item[is_in], minlength=len(counts["item"]))
            of_user = np.bincount(splits.sequence_of(target, offsets), minlength=users)
            counts["user"][events.sequences] = of_user
            if counts is self.seen:
                self.seen_events += int(np.count_nonzero(is_in))
                self.training_users += int(np.count_nonzero(of_user))
        last = np.sort(np.concatenate([targets.by_split["valid"], targets.by_split["test"]]))
        self.tied_users += len(splits.tied_targets(last, events.timestamp, offsets))


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
        split = _split(options, events)
        counts = _Counts(events)
        for part in events.parts():
            counts.add(part, split)
    if not counts.targets["train"]:
        left = f"none of the {events.num_users:,} users' {len(events.item):,} events to training"
        raise UserError(f"no training examples: --split {options.split} leaves {left}")
    encoder = Encoder(
        workspace, events, split.seen, counts.seen, options.min_count, counts.before, extended
    )
    row_of = encoder.items.row_of
    popularity = np.bincount(row_of[:-1], counts.before["item"], encoder.items.size)
    # An extended folder knows more than training.
    known = (counts.seen["item"] > 0) | (row_of[:-1] > 0)
    with stage("sorting events by time"):
        pools = _pools(workspace, options, events, split, known)

    def parts() -> Iterator[FolderPart]:
        for part in events.parts():
            examples, left_out = _examples(options, events, part, split.targets(part), pools)
            history = History(part.item, part.timestamp, part.offsets)
            yield FolderPart(part.first_sequence, part.first_event, history, examples, left_out)

    report, missing = write_folder(
        options.out,
        encoder,
        popularity.astype(np.int64),
        parts(),
        source=source,
        split=split.metadata | options.example_settings(),
    )
    report += [_describe_examples(options, counts), *_notes(options, events, counts)]
    if missing:
        reason = "by then nothing else had been chosen, or their users had chosen nearly all of it"
        report.append(f"{missing:,} negatives left out: {reason}")
    return [*events.report, *report]


def _split(options: ImplicitOptions, events: Events) -> _Split:
    borders, begin, sides = None, None, None
    if options.split == "by-time":
        borders, begin = resolve_times(options, events.timestamp, events.clock)
    elif options.split == "by-user":
        shares = options.shares
        sides = splits.sides_of_able_users(events.offsets, seed=options.seed, **shares)

    def targets(part: EventPart) -> Targets:
        if borders is not None:
            found = splits.by_time(part.timestamp, part.offsets, borders)
        elif sides is not None:
            found = splits.by_user(part.offsets, sides[part.sequences])
        else:
            found = splits.last_event(part.offsets)
        train = past = found["train"]
        if begin is not None:
            train = train[part.timestamp[train] >= begin]
        if options.max_examples is not None:
            train = splits.latest(train, part.offsets, options.max_examples)
        return Targets(found | {"train": train}, past)

    return _Split(split_metadata(options, borders, begin), targets)


def _pools(
    workspace: Workspace,
    options: ImplicitOptions,
    events: Events,
    split: _Split,
    known: np.ndarray,
) -> tuple[Pool, Pool]:
    """Return the pools of training and of the other splits."""
    chosen = np.zeros(len(events.item), bool)
    for part in events.parts():
        stop = part.first_event + len(part.item)
        chosen[part.first_event : stop] = split.before(part) & known[part.item]
    train, held_out = store_pools(
        workspace.folder,
        events.by_time(workspace),
        {"train": chosen, "held out": None},
        events.num_items,
        options.negative_distribution,
    )
    return train, held_out


def _examples(
    options: ImplicitOptions,
    events: Events,
    part: EventPart,
    targets: Targets,
    pools: tuple[Pool, Pool],
) -> tuple[dict[str, SplitExamples], int]:
    """Return each positive followed by its negatives, by split; and the number of missing ones."""
    item, sequence = part.item, part.sequence
    examples, missing = {}, 0
    for number, name in enumerate(SPLITS):
        target = targets.by_split[name]
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


def _describe_examples(options: ImplicitOptions, counts: _Counts) -> str:
    """Return what was made of the log for training."""
    most = options.max_examples
    which = "every event" if most is None else f"the latest {most:,} events of each user"
    return (
        f"{counts.targets['train']:,} training examples of {counts.seen_events:,} events of "
        f"{counts.training_users:,} users ({which})"
    )


def _notes(options: ImplicitOptions, events: Events, counts: _Counts) -> list[str]:
    notes = []
    single = np.count_nonzero(np.diff(events.offsets) == 1)
    if single:
        notes.append(f"users with one event, so no history and no example: {single:,}")
    if options.split != "by-time" and counts.tied_users:
        tie = "users whose last events tie in time with the event before"
        notes.append(f"{tie}: {counts.tied_users:,}; the order of the log decided which came last")
    return notes
