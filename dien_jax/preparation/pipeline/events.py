"""From a log in the database to arrays: skip malformed rows, order events, number ids."""

from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from typing import NamedTuple

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import BooleanColumn, StringColumn, Table, Value

from dien_jax.data import value_text
from dien_jax.data.value_text import LIKELY_MILLISECONDS, Clock
from dien_jax.data.vocabularies import LARGEST_NUMBER
from dien_jax.errors import UserError
from dien_jax.preparation.memory import PART_EVENTS, Sizes, divide
from dien_jax.preparation.options import Features, LogColumn, LogOptions
from dien_jax.preparation.pipeline.splits import Borders, borders_by_share
from dien_jax.preparation.reading.array_files import ArrayFile
from dien_jax.preparation.reading.log import Log
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.statistics.training_events import borders
from dien_jax.utils.console import stage

SHOWN = 40  # characters shown of a malformed value
PARSED = "parsed "  # before the name of a column: its numbers
VARIES = "varies"  # column of users and items: whether their rows differ in a feature
Narrow = Callable[[Table], Table] | None
Reasons = list[tuple[BooleanColumn, StringColumn | str]]
"""Conditions under which a row is malformed, and why; the first one counts."""


class EventPart(NamedTuple):
    """The e events of s consecutive sequences, oldest first; ties keep the log's order."""

    first_sequence: int
    first_event: int
    item: np.ndarray  # int32 [e], number of the item
    timestamp: np.ndarray  # int64 [e]
    label: np.ndarray | None  # int8 [e], or None for a log of interactions
    offsets: np.ndarray  # int64 [s + 1], from 0

    @property
    def sequence(self) -> np.ndarray:
        """Sequence of every event, from 0: int32 ``[e]``."""
        lengths = np.diff(self.offsets)
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)

    @property
    def sequences(self) -> slice:
        """The sequences among all of the log."""
        return slice(self.first_sequence, self.first_sequence + len(self.offsets) - 1)


class Events(NamedTuple):
    """E events of a log, grouped by sequence (one for each of S users).

    Users and items are numbered by first appearance.
    """

    item: ArrayFile  # int32 [E]
    timestamp: ArrayFile  # int64 [E]
    label: ArrayFile | None  # int8 [E], or None for a log of interactions
    offsets: np.ndarray  # int64 [S + 1]
    features: Features
    users: Table  # table position (the sequence), raw, user features and varies
    items: Table  # table position (the item's number), raw, item features and varies
    contexts: Table  # table position (the row), line and context features
    rows: Table  # table line, user, item, time and item and user features
    ordered: Table  # table position (the event), code (the item) and time, oldest first
    num_items: int
    clock: Clock
    report: list[str]  # lines about malformed rows, for the user
    part_events: int = PART_EVENTS  # events that are held in memory at a time

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    def times(self) -> tuple[int, int]:
        """Return the first and the last time."""
        extremes = [(block.min(), block.max()) for block in self.timestamp.blocks()]
        first, last = zip(*extremes, strict=True)
        return int(min(first)), int(max(last))

    def times_at(self, workspace: Workspace, places: list[int]) -> list[int]:
        """Return the times of some events by their places in the order of time, which rise."""
        found, done = [], 0
        for batch in workspace.batches(self.ordered, ["time"]):
            here = [place - done for place in places if 0 <= place - done < batch.num_rows]
            found += batch.column("time").take(pa.array(here, pa.int64())).to_pylist()
            done += batch.num_rows
        return found

    def by_time(self, workspace: Workspace) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield item, time and number of all events, oldest first, a batch at a time."""
        for batch in workspace.batches(self.ordered):
            item, time, number = (batch.column(name) for name in ("code", "time", "position"))
            yield item.to_numpy(), time.to_numpy(), number.to_numpy()

    def within(self, workspace: Workspace, memory: str, examples: int) -> "Events":
        """Return the events with parts that fit into ``--memory``, and leave the engine the rest.

        ``examples`` are made of each event, at most. A log that does not fit is a ``UserError``.
        """
        longest = int(np.diff(self.offsets).max())
        sizes = Sizes(self.num_users, self.num_items, len(self.item), longest, examples)
        database, part_events = divide(memory, sizes)
        workspace.limit(database)
        return self._replace(part_events=min(PART_EVENTS, part_events))

    def parts(self) -> Iterator[EventPart]:
        """Yield all events, at most ``part_events`` at a time, or one longer sequence."""
        for first, last in pairwise(borders(self.offsets, self.part_events)):
            start, stop = int(self.offsets[first]), int(self.offsets[last])
            item, timestamp = self.item.read(start, stop), self.timestamp.read(start, stop)
            label = None if self.label is None else self.label.read(start, stop)
            offsets = self.offsets[first : last + 1] - start
            yield EventPart(first, start, item, timestamp, label, offsets)


Sides = Callable[[EventPart], np.ndarray]
"""The side of every event or row of a part, int8 ``[e]``."""
Marks = Callable[[EventPart], np.ndarray]
"""Mark events of a part, such as those that training sees, bool ``[e]``."""


def count_events(events: Events, *marks: Marks) -> list[dict[str, np.ndarray]]:
    """Count the events of each ``item`` and ``user`` that each function marks, int64 ``[n]``."""
    sizes = {"item": events.num_items, "user": events.num_users}
    counts = [{name: np.zeros(size, np.int64) for name, size in sizes.items()} for _ in marks]
    for part in events.parts():
        users = len(part.offsets) - 1
        for count, mark in zip(counts, marks, strict=True):
            chosen = mark(part)
            count["item"] += np.bincount(part.item[chosen], minlength=events.num_items)
            count["user"][part.sequences] = np.bincount(part.sequence[chosen], minlength=users)
    return counts


def load_events(
    workspace: Workspace,
    log: Log,
    features: Features,
    max_bad_share: float,
    narrow: Narrow = None,
    refuse: Callable[[Table, Value], Reasons] = lambda rows, time: [],
) -> Events:
    """Skip the malformed rows of a log, and number its users and items.

    A feature of an item or a user is its first value that is not missing, by time and then by the
    log's order; :func:`training_values` prefers training. ``narrow`` filters the clean rows before
    anything is counted, and ``refuse`` returns more reasons for which rows are malformed, from the
    rows and their times. Too many malformed rows, or no row left, is a ``UserError``.
    """
    clock = _clock(workspace, log.file, log.rows)
    with stage("checking rows"):
        checked = _checked(workspace, log.rows, clock, features.columns, refuse)
        total = workspace.count(log.rows) + log.bad.count
        log.refuse(workspace, checked.filter(checked.reason.notnull()))
    report = log.bad.check(total, max_bad_share)
    if total == log.bad.count:
        raise UserError(f"{log.file} holds no rows")
    with stage("ordering events"):
        clean = workspace.store("clean", checked.filter(checked.reason.isnull()))
        clean = narrow(clean) if narrow else clean
        users = _numbered_ids(workspace, clean, "user", features.user)
        items = _numbered_ids(workspace, clean, "item", features.item)
        rows = clean.join(users.select(user="raw", sequence="position"), "user")
        rows = rows.join(items.select(item="raw", code="position"), "item")
        label = ["label"] if "label" in log.rows.columns else []
        contexts = [feature.alias for feature in features.context]
        rows = rows.select("sequence", "code", "time", "line", *label, *contexts)
        rows = workspace.store_ordered("events", rows, ["sequence", "time", "line"])
        num_rows, num_users, num_items = map(workspace.count, (rows, users, items))
        if not num_rows:
            raise UserError(f"{log.file}: nothing is left to prepare")
        dtypes: dict[str, type] = {"sequence": np.int32, "code": np.int32, "time": np.int64}
        dtypes |= dict.fromkeys(label, np.int8)
        arrays = workspace.array_files("events", rows, dtypes)
    by_time = rows.select("code", "time", "position")
    lengths = np.zeros(num_users, np.int64)
    for block in arrays["sequence"].blocks():
        counts = np.bincount(block - block[0])
        lengths[block[0] : block[0] + len(counts)] += counts
    return Events(
        item=arrays["code"],
        timestamp=arrays["time"],
        label=arrays.get("label"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        features=features,
        users=users,
        items=items,
        contexts=rows.select("line", *contexts, "position"),
        rows=clean,
        ordered=by_time.order_by("time", "position"),
        num_items=num_items,
        clock=clock,
        report=report,
    )


def read_times(
    workspace: Workspace, options: LogOptions, events: Events
) -> tuple[Borders, int | None]:
    """Return the borders of a by-time split, and when training examples start, if that is given."""
    clock, (earliest, _) = events.clock, events.times()
    if options.valid_from is None or options.test_from is None:
        times_at = partial(events.times_at, workspace)
        split = borders_by_share(len(events.item), times_at, **options.shares)
    else:
        valid = clock.read("--valid-from", options.valid_from, earliest)
        test = clock.read("--test-from", options.test_from, earliest)
        if test < valid:
            raise UserError(f"--test-from must not be before --valid-from, got {test} < {valid}")
        split = Borders(valid, test)
    if options.train_from is None:
        return split, None
    begin = clock.read("--train-from", options.train_from, earliest)
    if begin >= split.valid:
        limit = f"which starts at {split.valid}, got {begin}"
        raise UserError(f"--train-from must be before validation, {limit}")
    return split, begin


def _clock(workspace: Workspace, file: Path, rows: Table) -> Clock:
    """Return how most of the timestamps are written."""
    stamp = rows.timestamp
    number = workspace.number(stamp)
    is_date_number = stamp.re_search(rf"^({value_text.DATE_NUMBER})\z")
    counted = rows.aggregate(
        numbers=number.count(),
        large=(number > LIKELY_MILLISECONDS).sum(),
        dates=_moment(workspace, stamp).count(),
        date_numbers=is_date_number.sum(),
    )
    counts = workspace.numbers(counted)
    if 2 * counts["date_numbers"] > counts["numbers"]:
        first = rows.filter(is_date_number).order_by("line").limit(1)
        example = next(workspace.strings(first, "timestamp"))
        problem = f"the timestamps look like dates without hyphens, {example} for example"
        raise UserError(f"{file}: {problem}; write ISO dates or seconds since 1970")
    iso = counts["dates"] > counts["numbers"]
    is_fine = iso or 2 * counts["large"] > counts["numbers"]
    return Clock(iso, "milliseconds" if is_fine else "seconds")


def _moment(workspace: Workspace, text: StringColumn) -> Value:
    """Parse ISO dates, int64 milliseconds since 1970; NULL for another text."""
    is_date = text.re_search(rf"^({value_text.ISO_DATE})\z")
    return workspace.milliseconds(is_date.ifelse(text, ibis.null("string")))


def _checked(
    workspace: Workspace,
    rows: Table,
    clock: Clock,
    features: tuple[LogColumn, ...],
    refuse: Callable[[Table, Value], Reasons],
) -> Table:
    """Return the rows with typed columns, and ``reason``: why a row is malformed, or NULL."""
    numeric = {f.alias: f for f in features if f.kind == "numeric"}
    if "label" in rows.columns:
        numeric["label"] = LogColumn("label", "")
    parsed = {name: workspace.number(rows[name]) for name in numeric}
    stamp = rows.timestamp
    parsed["time"] = _moment(workspace, stamp) if clock.iso else workspace.number(stamp)
    # Each text is parsed once, in a query inside the one that looks at it several times.
    rows = rows.mutate(**{PARSED + name: value for name, value in parsed.items()})
    time, stamp = rows[PARSED + "time"], rows.timestamp
    shown = ibis.literal("timestamp '") + stamp.substr(0, SHOWN) + "' "
    reasons: Reasons = [
        (rows.user.isnull(), "the user is empty"),
        (rows.item.isnull(), "the item is empty"),
        (stamp.isnull(), "the timestamp is empty"),
    ]
    if clock.iso:
        reasons += [
            (time.isnull(), shown + "is not an ISO date"),
            (time < 0, shown + "is before 1970"),
        ]
    else:
        is_whole = ~time.isnan() & (time.isinf() | (time % 1.0 == 0.0))  # floor() is an int64
        other = {"seconds": "milliseconds", "milliseconds": "seconds"}[clock.unit]
        is_other = (time > LIKELY_MILLISECONDS) == (clock.unit == "seconds")
        mixed = f"looks like {other}, and most timestamps are {clock.unit}"
        reasons += [
            (~is_whole.fill_null(False), shown + "is not a whole number"),
            (time < 0, shown + "is negative"),
            (is_other & (time <= value_text.END_OF_9999 * 1000), shown + mixed),
        ]
    reasons += [(time > clock.limit, shown + f"is beyond the year 9999 in {clock.unit}")]
    reasons += refuse(rows, time)
    typed = {"time": time.try_cast("int64")}
    for name, feature in numeric.items():
        text, number = rows[name], rows[PARSED + name]
        if name == "label":
            typed[name] = number.try_cast("int8")
            shown = ibis.literal("label '") + text.fill_null("").substr(0, SHOWN) + "' "
            wrong = ~number.isin([0.0, 1.0]).fill_null(False)
            reasons.append((wrong, shown + "is not 0 or 1"))
            continue
        number = number.isnan().ifelse(ibis.null("float64"), number)
        missing = text.isnull() | text.strip().lower().isin(["", "nan"])  # as at ranking
        shown = ibis.literal(f"{feature.name} '") + text.substr(0, SHOWN) + "' "
        reasons.append((~missing & number.isnull(), shown + "is not a number"))
        reasons.append((number.abs() > LARGEST_NUMBER, shown + value_text.BEYOND_FLOAT32))
        typed[name] = number
    checked = rows.mutate(**typed, reason=ibis.cases(*reasons, else_=ibis.null("string")))
    return workspace.kept("checked", checked.drop(*(PARSED + name for name in parsed)))


def _numbered_ids(
    workspace: Workspace, clean: Table, name: str, features: tuple[LogColumn, ...]
) -> Table:
    """Return every user or item once, numbered by first appearance, with its features."""
    differs = []
    for column in (clean[feature.alias] for feature in features):
        present = column.count()
        differs += [column.min() != column.max(), (present > 0) & (present < clean.count())]
    varies = {VARIES: reduce(or_, differs).fill_null(False)} if differs else {}
    values = first_values(clean, features)
    grouped = clean.group_by(raw=clean[name]).aggregate(**values, **varies, first=clean.line.min())
    return workspace.store_ordered(f"{name}s", grouped, ["first"])


def first_values(clean: Table, features: tuple[LogColumn, ...]) -> dict[str, Value]:
    """Return, by alias, the first value of each feature that is not missing, of grouped rows."""
    order = ibis.struct({"time": clean.time, "line": clean.line})
    columns = {feature.alias: clean[feature.alias] for feature in features}
    return {alias: c.argmin(order, where=c.notnull()) for alias, c in columns.items()}


def training_values(workspace: Workspace, events: Events, group: str, trained: Marks) -> Table:
    """Return the table of users or items with the features that their training rows have.

    A value that only rows of validation or test have must be unknown to training. So where the
    rows of an item (a user) disagree about a feature, or lack it in part, the rows of training
    decide. One without a row in training keeps the features of its other rows.

    ``group`` is ``"item"`` or ``"user"``.
    """
    columns: tuple[LogColumn, ...] = events.features.groups[group]
    table = {"item": events.items, "user": events.users}[group]
    if not columns:
        return table
    varying = np.zeros(workspace.count(table), bool)
    chosen = table.filter(table[VARIES]).select("position")
    for batch in workspace.batches(chosen):
        varying[batch.column("position").to_numpy()] = True
    if not varying.any():
        return table

    def rows() -> Iterator[pa.RecordBatch]:
        for part in events.parts():
            number = part.item if group == "item" else part.sequence + part.first_sequence
            chosen = np.flatnonzero(trained(part) & varying[number]) + part.first_event
            yield pa.record_batch([chosen], schema=schema)

    schema = pa.schema([("position", pa.int64())])
    positions = workspace.append(f"training rows of {group}s", rows(), schema)
    lines = events.contexts.semi_join(positions, "position").select("line")
    clean = events.rows.semi_join(lines, "line")
    seen = clean.group_by(raw=clean[group]).aggregate(**first_values(clean, columns))
    seen = seen.rename({f"seen {column.alias}": column.alias for column in columns}, seen="raw")
    joined = table.left_join(seen, table.raw == seen.seen)
    values = {
        c.alias: joined.seen.isnull().ifelse(joined[c.alias], joined[f"seen {c.alias}"])
        for c in columns
    }
    return workspace.store(f"{group}s in training", joined.mutate(**values).select(*table.columns))
