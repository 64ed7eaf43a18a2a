"""The last step of every log: split it, encode it, and write the dataset folder.

An example is a row of the log. In a log of interactions, it is an event (a positive), and its
history is all earlier events of the user; ties are in the log's order. Every training event with a
history is an example, unless ``--max-examples`` keeps only the latest of each user; negatives are
sampled for it. In a log of impressions, every row is an example with its own label, and its history
is the user's clicks at strictly earlier times.

Popularity, vocabularies and user rows come from training: from events that are the target or in the
history of a training example, or from training rows, where popularity counts only clicks. With
``--train-from``, popularity counts earlier ones too.

Dimensions: E events, V items with the unknown one, n examples of one split in a part.
"""

import itertools
from typing import Any

import numpy as np

from dien_jax.data.arrays import Examples, joined_columns
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.data.value_text import TIME_UNIT
from dien_jax.preparation.logs import SourceLog
from dien_jax.preparation.memory import IDLE
from dien_jax.preparation.options import EXAMPLE_SETTINGS, ImplicitOptions, LogOptions
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.pipeline.features import EncodedFeature, Encoder
from dien_jax.preparation.pipeline.order import OrderCheck
from dien_jax.preparation.pipeline.splits import Split, histories
from dien_jax.preparation.pipeline.target_negatives import TargetNegatives
from dien_jax.preparation.writer import DatasetWriter
from dien_jax.utils.console import stage

MOST_REPEATS = 0.02  # largest share of events that repeat an item of their user without a warning
MEANING = {  # descriptions of --negative-distribution in the summary
    "popularity": "by popularity, so AUC does not reward popular items; recommend does",
    "uniform": "uniformly, so AUC rewards popular items; so does recommend",
}


def write_log(options: LogOptions, events: Events, source: SourceLog) -> list[str]:
    """Write the dataset folder of a log, sample negatives if it has none; return report lines."""
    with stage("splitting rows"):
        split = Split(options, events)
        encoder = Encoder(events, options, split, source.extended)
    about, negatives = split.about, None
    row_of, seen = encoder.items.row_of, encoder.counts.seen
    if isinstance(options, ImplicitOptions):
        about |= {name: getattr(options, name) for name in EXAMPLE_SETTINGS}
        with stage("sorting events by time"):
            # Items of the extended folder are known too.
            known = (seen["item"] > 0) | (row_of[:-1] > 0)
            negatives = TargetNegatives(options, events, split, known)
    encoded = encoder.features()
    origin = source.about | {TIME_UNIT: events.clock.unit}
    if options.engine != "duckdb":
        origin["engine"] = options.engine
    meta: Any = {"schema": _schema(encoder, encoded), "source": origin, "split": about}
    summaries, order = {name: _SplitSummary() for name in SPLITS}, OrderCheck()
    with (
        stage(f"writing {options.out}") as current,
        DatasetWriter(options.out, **meta, progress=current.now) as writer,
    ):
        _write_values(writer, encoder, encoded)
        popularity = np.bincount(row_of[:-1], encoder.counts.chosen["item"], encoder.items.size)
        writer.popularity(popularity.astype(np.int64))
        events.workspace.limit(IDLE)  # the parts and their counts need the rest
        raw_users, first = events.workspace.strings(events.users, "raw"), 0
        for part in events.parts():
            users = part.sequences.stop
            writer.groups(itertools.islice(raw_users, users - part.first_sequence))
            history, chosen, ends = histories(part)
            order.add(history)
            start, stop = part.first_event, part.first_event + len(part.item)
            of_request, of_event = (
                {entry.feature.name: entry.read(start, stop) for entry in encoded[group]}
                for group in ("request", "event")
            )
            columns = {name: column.take(chosen) for name, column in of_event.items()}
            offsets = history.offsets + first
            writer.events(row_of[history.item], history.timestamp, offsets, columns)
            sides = split.sides(part)
            lengths = ends - history.offsets[part.sequence]
            draw = None if negatives is None else negatives.of_part(part)
            for side, name in enumerate(SPLITS):
                row = np.flatnonzero(sides == side)
                item = part.item[row]
                label = np.ones(len(row), np.int8) if part.label is None else part.label[row]
                if draw is not None:
                    row, item, label = draw(row, side)
                sequence = part.sequence[row] + np.int32(part.first_sequence)
                user, end = encoder.users.row_of[sequence], ends[row] + first
                given = {name: column.take(row) for name, column in of_request.items()}
                examples = Examples(sequence, end, user, sequence, row_of[item], label, given)
                writer.examples(name, examples)
                summaries[name].add(examples, lengths[row])
            first += len(history.item)
            current.note = f"{users:,} of {events.num_users:,} users"
            current.share = int(events.offsets[users]) / len(events.item)
    report = [*events.report, *_describe(encoder, about)]
    report += [summary.describe(name) for name, summary in summaries.items()]
    if negatives is not None:
        report += _describe_drawn(encoder, negatives)
    return report + order.warnings()


class _SplitSummary:
    """Statistics of the examples of a split."""

    def __init__(self) -> None:
        self.examples = self.positives = self.users = self.empty = self.longest = self.unknown = 0

    def add(self, examples: Examples, lengths: np.ndarray) -> None:
        """Count the examples of a part, and the lengths of their histories ``[n]``."""
        self.examples += len(lengths)
        self.positives += int(np.count_nonzero(examples.label))
        self.unknown += int(np.count_nonzero(examples.item == UNKNOWN))
        self.users += int(np.count_nonzero(np.diff(examples.sequence, prepend=-1)))
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        self.empty += int(np.count_nonzero(lengths == 0))

    def describe(self, name: str) -> str:
        """Return a line about the split."""
        if not self.examples:
            return f"{name}: no examples"
        users = f"of {self.users:,} users, {self.positives:,} positive"
        histories = f"histories of up to {self.longest:,} events, {self.empty:,} empty"
        unknown = f"{self.unknown:,} candidates unknown in training"
        return f"{name}: {self.examples:,} examples {users}; {histories}; {unknown}"


def _schema(encoder: Encoder, encoded: dict[str, list[EncodedFeature]]) -> Schema:
    features = {group: [entry.feature for entry in encoded[group]] for group in encoded}
    for group, ids in (("item", encoder.items), ("user", encoder.users)):
        features[group].insert(0, Feature(group, "categorical", size=ids.size))
    return Schema(**{group: tuple(listed) for group, listed in features.items()})


def _write_values(
    writer: DatasetWriter, encoder: Encoder, encoded: dict[str, list[EncodedFeature]]
) -> None:
    """Write vocabularies, and the features of items and users."""
    ids = {"item": encoder.items, "user": encoder.users}
    vocabularies = ids | {e.feature.name: e.vocabulary for g in encoded.values() for e in g}
    for name, vocabulary in vocabularies.items():
        if vocabulary is not None:
            writer.vocabulary(name, vocabulary.raw_values(encoder.events.workspace))
    for group, write in (("item", writer.items), ("user", writer.users)):
        for entry in encoded[group]:
            name, old = entry.feature.name, encoder.extended
            known = [getattr(old, f"{group}s")[name]] if old else []
            whole = joined_columns([entry.read(), *known])
            write(name, *whole.take(ids[group].positions()))


def _describe(encoder: Encoder, about: dict[str, Any]) -> list[str]:
    """Return lines about the log, its split and its vocabularies."""
    events, items, users = encoder.events, encoder.items, encoder.users
    date, (first, last) = events.clock.date, events.times
    of_whom = f"{events.num_users:,} users and {events.num_items:,} items"
    times = f"times {first} to {last} ({events.clock.unit}), {date(first)} to {date(last)} UTC"
    lines = [f"{len(events.item):,} rows of {of_whom}, {times}"]
    if first == last:
        lines.append("warning: all rows have one time: histories are in the order of the rows")
    if "valid_from" in about:
        valid, test = date(about["valid_from"]), date(about["test_from"])
        lines.append(f"valid from {valid}, test from {test} UTC")
    new = [f"{len(ids.values) - len(ids.known):,}" for ids in (items, users)]
    training = f"in training ({encoder.min_count} times or more)"
    if encoder.extended is None:
        which = f"{new[0]} items and {new[1]} users occur {training}"
        return [*lines, f"{which} and have a row of their own", *encoder.notes]
    absent = [np.count_nonzero(ids.values < 0) for ids in (items, users)]
    old = encoder.extended
    is_of_unit = old.meta["source"].get(TIME_UNIT) == events.clock.unit
    if is_of_unit and first > np.max(old.event_timestamp, initial=0):
        problem = f"the log begins after the last event of {old.path}, and no history has an event"
        remedy = "give old and new events together, as far back as histories should reach"
        lines.append(f"warning: {problem} of that folder: {remedy}")
    kept = f"{len(items.known):,} items and {len(users.known):,} users keep their rows of"
    without = f"{absent[0]:,} and {absent[1]:,} of them without an event here"
    lines.append(f"{kept} {old.path}, {without}")
    lines.append(f"{new[0]} items and {new[1]} users are new {training} and get rows after those")
    return lines + encoder.notes


def _describe_drawn(encoder: Encoder, negatives: TargetNegatives) -> list[str]:
    """Return lines about the examples of a log of interactions."""
    options, seen, most = negatives.options, encoder.counts.seen, negatives.options.max_examples
    which = "every event" if most is None else f"the latest {most:,} events of each user"
    of_users = f"{seen['item'].sum():,} events of {np.count_nonzero(seen['user']):,} users"
    meaning = MEANING[options.negative_distribution]
    lines = [
        f"training sees {of_users}; its examples are {which} with a history",
        f"negatives of each positive: {options.negatives}, drawn {meaning}",
    ]
    if single := np.count_nonzero(np.diff(encoder.events.offsets) == 1):
        lines.append(f"users with one event, so no history and no example: {single:,}")
    if negatives.missing:
        reason = "by then nothing else had been chosen, or their users had chosen nearly all of it"
        lines.append(f"{negatives.missing:,} negatives left out: {reason}")
    if negatives.repeats > MOST_REPEATS * len(encoder.events.item):
        lines.append(
            f"warning: {negatives.repeats:,} of {len(encoder.events.item):,} events repeat an item "
            "of their user, but no negative does. A model learns that such items are always chosen:"
            " AUC is too high, and so are scores of items of the history. --allow-own-negatives "
            "samples them too"
        )
    return lines
