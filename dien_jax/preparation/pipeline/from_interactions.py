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

from typing import Any

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import ImplicitOptions
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.extending import growth_of
from dien_jax.preparation.pipeline.features import Encoder
from dien_jax.preparation.pipeline.split_times import resolve_times, split_metadata
from dien_jax.preparation.pipeline.target_negatives import NegativeSampler, make_pool
from dien_jax.preparation.pipeline.write import History, SplitExamples, write_folder
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage
from dien_jax.utils.memory_limit import machine_bytes, require_memory

EXAMPLE_BYTES = 33
"""Size of the arrays that hold an example while its split is put together."""


def write_interactions(
    workspace: Workspace,
    options: ImplicitOptions,
    events: Events,
    source: dict[str, Any],
    extended: Dataset | None = None,
) -> list[str]:
    """Write the dataset folder of a log that ``source`` describes; return lines about it."""
    offsets, sequence = events.offsets, events.sequence
    targets, split, past = _split(options, events)
    if not len(targets["train"]):
        left = f"none of the {events.num_users:,} users' {len(events.item):,} events to training"
        raise UserError(f"no training examples: --split {options.split} leaves {left}")
    seen = splits.training_events(targets["train"], offsets)
    counts = {
        "item": np.bincount(events.item[seen], minlength=events.num_items),
        "user": np.bincount(sequence[targets["train"]], minlength=events.num_users),
    }
    before = splits.training_events(past, offsets)
    earlier = {
        "item": np.bincount(events.item[before], minlength=events.num_items),
        "user": np.bincount(sequence[past], minlength=events.num_users),
    }
    end = int(events.timestamp[before].max())
    growth = growth_of(options, extended, events, earlier, end)
    encoder = Encoder(workspace, events, seen, counts, options.min_count, growth)
    row_of = encoder.items.row_of
    popularity = np.bincount(row_of[events.item[before]], minlength=encoder.items.size)
    history = History(events.item, events.timestamp, offsets, popularity)
    _require_memory(options, targets)
    known = (counts["item"] > 0) | (row_of[:-1] > 0)  # an extended folder knows more than training
    with stage("drawing negatives"):
        examples, missing = _examples(options, events, targets, before & known[events.item])
    split |= options.example_settings()
    report = write_folder(
        options.out, encoder, history, examples, source=source, split=split, drawn=options.drawn
    )
    report += [_describe_examples(options, targets["train"], int(seen.sum()), offsets)]
    report += _notes(options, events, targets)
    if missing:
        reason = "by then nothing else had been chosen, or their users had chosen nearly all of it"
        report.append(f"{missing:,} negatives left out: {reason}")
    return [*events.report, *report]


def _split(
    options: ImplicitOptions, events: Events
) -> tuple[dict[str, np.ndarray], dict[str, Any], np.ndarray]:
    """Return the target events by split, the metadata, and the training targets of popularity.

    The last ones ignore ``--train-from`` and ``--max-examples``: popularity is that of the whole
    past, or negatives would be drawn from the few items of recent users.
    """
    offsets = events.offsets
    borders, begin = None, None
    if options.split == "by-time":
        borders, begin = resolve_times(options, events.timestamp, events.clock)
        targets = splits.by_time(events.timestamp, offsets, borders)
    elif options.split == "last-event":
        targets = splits.last_event(offsets)
    else:
        targets = splits.by_user(offsets, seed=options.seed, **options.shares)
    train = past = targets["train"]
    if begin is not None:
        train = train[events.timestamp[train] >= begin]
    if options.max_examples is not None:
        train = splits.latest(train, offsets, options.max_examples)
    return targets | {"train": train}, split_metadata(options, borders, begin), past


def _require_memory(options: ImplicitOptions, targets: dict[str, np.ndarray]) -> None:
    """Refuse negatives whose arrays exceed the memory."""
    positives, count = sum(map(len, targets.values())), options.negatives
    subject = f"the examples of {positives:,} positives with --negatives {count:,}"
    needed = EXAMPLE_BYTES * positives * (1 + count)
    require_memory(needed, machine_bytes(), subject, "draw fewer negatives")


def _examples(
    options: ImplicitOptions, events: Events, targets: dict[str, np.ndarray], trained: np.ndarray
) -> tuple[dict[str, SplitExamples], int]:
    """Return each positive followed by its negatives, by split; and the number of missing ones.

    ``trained``, bool ``[E]``, marks the events that negatives of training are drawn from.
    """
    item, time, sequence = events.item, events.timestamp, events.sequence
    by_time = np.argsort(time, kind="stable")
    pools = [
        make_pool(item[chosen], time[chosen], options.negative_distribution)
        for chosen in (by_time[trained[by_time]], by_time)
    ]
    examples, missing = {}, 0
    for number, name in enumerate(SPLITS):
        pool = pools[number != splits.TRAIN]
        sampler = NegativeSampler(item, time, events.offsets, pool, options.allow_own_negatives)
        target = targets[name]
        drawn = sampler.draw(target, count=options.negatives, seed=(options.seed, 1, number))
        missing += drawn.missing
        positive = np.concatenate([np.arange(len(target)), drawn.positive])
        order = np.argsort(positive, kind="stable")
        event = target[positive[order]]
        label = (order < len(target)).astype(np.int8)
        candidate = np.concatenate([item[target], drawn.item])[order]
        examples[name] = SplitExamples(sequence[event], event, candidate, label)
    return examples, missing


def _describe_examples(
    options: ImplicitOptions, targets: np.ndarray, events: int, offsets: np.ndarray
) -> str:
    """Return what was made of the log for training; ``events`` counts those that training sees."""
    users = len(np.unique(splits.sequence_of(targets, offsets)))
    most = options.max_examples
    which = "every event" if most is None else f"the latest {most:,} events of each user"
    return f"{len(targets):,} training examples of {events:,} events of {users:,} users ({which})"


def _notes(options: ImplicitOptions, events: Events, targets: dict[str, np.ndarray]) -> list[str]:
    notes = []
    single = np.count_nonzero(np.diff(events.offsets) == 1)
    if single:
        notes.append(f"{single:,} users have one event, so no history and no example")
    if options.split != "by-time":
        last = np.sort(np.concatenate([targets["valid"], targets["test"]]))
        tied = splits.tied_targets(last, events.timestamp, events.offsets)
        if len(tied):
            tie = "last events tie in time with the event before; the order of the log decided"
            notes.append(f"{len(tied):,} users' {tie} which came last")
    return notes
