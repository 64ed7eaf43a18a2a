"""From a log in the database to arrays: skip malformed rows, order events, number ids."""

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from typing import NamedTuple

import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import BooleanColumn, StringColumn, Table, Value

from dien_jax.data import value_text
from dien_jax.data.arrays import ArrayFile
from dien_jax.data.value_text import LARGEST_NUMBER, LIKELY_MILLISECONDS, SHOWN, Clock
from dien_jax.errors import UserError
from dien_jax.preparation.logs import SourceLog
from dien_jax.preparation.memory import PART_EVENTS, divide
from dien_jax.preparation.options import Features, LogColumn, LogOptions
from dien_jax.preparation.pipeline.splits import EventPart, Marks, Split
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.statistics.training_events import borders
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines

PARSED = "parsed "  # prefix of the names of columns of parsed numbers
LIKE_MISSING = ("-1", "nan", "NaN", "NaT", "None", "<NA>", "NULL", "null")
"""Ids that programs write for missing ones, such as pandas' ``cat.codes`` and ``astype(str)``."""
VARIES = "varies"  # column of users and items: whether their rows differ in a feature
Reasons = list[tuple[BooleanColumn, StringColumn | str]]
"""Conditions under which a row is malformed, with reasons; the first that holds counts."""


class Events(NamedTuple):
    """E events of S users, grouped by sequence; users and items are numbered by appearance."""

    workspace: Workspace  # the engine that has the tables
    item: ArrayFile  # int32 [E]
    timestamp: ArrayFile  # int64 [E]
    label: ArrayFile | None  # int8 [E], or None for a log of interactions
    offsets: np.ndarray  # int64 [S + 1]
    features: Features
    users: Table  # table position (the sequence), raw, rows, user features and varies
    items: Table  # table position (the item's number), raw, rows, item features and varies
    rows: Table  # table position (the event), code (the item), time, line and features of rows
    clean: Table  # table line, user, item, time and item and user features
    num_items: int
    times: tuple[int, int]  # first and last time
    clock: Clock
    report: list[str]  # lines about malformed rows, for the user
    part_events: int  # events that are held in memory at a time

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    def by_time(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield item, time and number of all events, oldest first, batch by batch."""
        columns = self.rows.select("code", "time", "position").order_by("time", "position")
        for batch in self.workspace.batches(columns):
            item, time, number = (column.to_numpy() for column in batch.columns)
            yield item, time, number

    def times_at(self, places: list[int]) -> list[int]:
        """Return the times of events at some indices in time order, which must increase."""
        found, done = [], 0
        for batch in self.workspace.batches(self.rows.select("time").order_by("time")):
            here = [place - done for place in places if 0 <= place - done < batch.num_rows]
            found += batch.column("time").take(pa.array(here, pa.int64())).to_pylist()
            done += batch.num_rows
        return found

    def parts(self) -> Iterator[EventPart]:
        """Yield all events, at most ``part_events`` at a time, or one longer sequence."""
        for first, last in pairwise(borders(self.offsets, self.part_events)):
            start, stop = int(self.offsets[first]), int(self.offsets[last])
            item, timestamp = self.item.read(start, stop), self.timestamp.read(start, stop)
            label = None if self.label is None else self.label.read(start, stop)
            offsets = self.offsets[first : last + 1] - start
            yield EventPart(first, start, item, timestamp, label, offsets)


def count_events(events: Events, split: Split) -> Marks:
    """Count the marked events of each ``item`` and ``user``, int64 ``[n]`` each."""
    sizes = {"item": events.num_items, "user": events.num_users}
    counts = [{name: np.zeros(size, np.int64) for name, size in sizes.items()} for _ in range(3)]
    for part in events.parts():
        for count, marked in zip(counts, split.marks(part), strict=True):
            count["item"] += np.bincount(part.item[marked], minlength=events.num_items)
            users = np.bincount(part.sequence[marked], minlength=len(part.offsets) - 1)
            count["user"][part.sequences] = users
    return Marks(*counts)


def load_events(workspace: Workspace, source: SourceLog, options: LogOptions) -> Events:
    """Skip the malformed rows of a log, and number its users and items.

    An item or a user has the first non-missing value of each feature, by time and then in the log's
    order; :func:`training_values` prefers training rows. Too many malformed rows, no row left, or a
    log that does not fit into ``--memory`` is a ``UserError``.
    """
    log, features = source.log, source.features
    clock = _clock(workspace, log.file, log.rows)
    with stage("checking rows"):
        checked = _checked(workspace, source, clock)
        total = workspace.count(log.rows) + log.bad.count
        log.refuse(workspace, checked.filter(checked.reason.notnull()))
    report = log.bad.check(total, options.max_bad_share)
    if total == log.bad.count:
        raise UserError(f"{log.file} holds no rows")
    with stage("ordering events"):
        clean = source.narrow(checked.filter(checked.reason.isnull()))
        users = _numbered_ids(workspace, clean, "user", features.user)
        items = _numbered_ids(workspace, clean, "item", features.item)
        rows = clean.join(users.select(user="raw", sequence="position"), "user")
        rows = rows.join(items.select(item="raw", code="position"), "item")
        label = ["label"] if "label" in log.rows.columns else []
        given = [feature.alias for feature in features.given]
        rows = rows.select("sequence", "code", "time", "line", *label, *given)
        rows = workspace.store_ordered("events", rows, ["sequence", "time", "line"])
        if not workspace.count(rows):
            raise UserError(f"{log.file}: nothing is left to prepare")
        dtypes: dict[str, type[np.generic]] = {"code": np.int32, "time": np.int64}
        dtypes |= dict.fromkeys(label, np.int8)
        arrays = workspace.array_files(rows, dtypes)
        lengths = workspace.array_files(users, {"rows": np.int64})["rows"].read()
        doubtful = BadLines(log.bad.unit)
        for name, table in {"user": users, "item": items}.items():
            chosen = table.filter(table.raw.isin(LIKE_MISSING)).select("raw", "first")
            for row in (row for batch in workspace.batches(chosen) for row in batch.to_pylist()):
                problem = f"{name} {row['raw']!r}; if the id is missing, leave such rows out"
                doubtful.show(*log.place(row["first"]), problem)
        report += [f"warning: {example}" for example in doubtful.examples]
        times = workspace.numbers(rows.aggregate(first=rows.time.min(), last=rows.time.max()))
    num_items = workspace.count(items)
    sizes = {"users": len(lengths), "items": num_items, "events": len(arrays["code"])}
    sizes |= {"longest": int(lengths.max()), "examples": 1 + getattr(options, "negatives", 0)}
    database, part_events = divide(options.memory, **sizes)
    workspace.limit(database)
    return Events(
        workspace=workspace,
        item=arrays["code"],
        timestamp=arrays["time"],
        label=arrays.get("label"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        features=features,
        users=users,
        items=items,
        rows=rows,
        clean=clean,
        num_items=num_items,
        times=(times["first"], times["last"]),
        clock=clock,
        report=report,
        part_events=min(PART_EVENTS, part_events),
    )


def _clock(workspace: Workspace, file: Path, rows: Table) -> Clock:
    """Return the format of most of the timestamps."""
    stamp = rows.timestamp
    number = workspace.number(stamp)
    is_date_number = stamp.re_search(rf"^({value_text.DATE_NUMBER})\z")
    is_finer = number > value_text.END_OF_9999 * 1000 + 999
    counted = rows.aggregate(
        texts=stamp.count(),
        numbers=number.count(),
        large=(number > LIKELY_MILLISECONDS).sum(),
        finer=is_finer.sum(),
        dates=_moment(workspace, stamp).count(),
        date_numbers=is_date_number.sum(),
    )
    counts = workspace.numbers(counted)
    problems = (  # all or most timestamps have a form that is not supported
        (2 * counts["date_numbers"] > counts["numbers"], is_date_number,
         "the timestamps look like dates without hyphens"),
        (2 * counts["finer"] > counts["numbers"], is_finer,
         "the timestamps look like microseconds or nanoseconds"),
        (counts["texts"] > 0 == counts["numbers"] + counts["dates"], stamp.notnull(),
         "no timestamp is a whole number or an ISO date"),
    )  # fmt: skip
    for is_wrong, where, problem in problems:
        if is_wrong:
            first = rows.filter(where).order_by("line").limit(1)
            example = next(workspace.strings(first, "timestamp"))[:SHOWN]
            problem = f"{file}: {problem}, {example} for example"
            raise UserError(f"{problem}; write ISO dates, or seconds or milliseconds since 1970")
    iso = counts["dates"] > counts["numbers"]
    is_fine = iso or 2 * counts["large"] > counts["numbers"]
    return Clock(iso, "milliseconds" if is_fine else "seconds")


def _moment(workspace: Workspace, text: StringColumn) -> Value:
    """Parse ISO dates, int64 milliseconds since 1970; NULL for other text."""
    is_date = text.re_search(rf"^({value_text.ISO_DATE})\z")
    return workspace.milliseconds(is_date.ifelse(text, ibis.null("string")))


def _checked(workspace: Workspace, source: SourceLog, clock: Clock) -> Table:
    """Return the rows with typed columns, and ``reason``: why a row is malformed, or NULL."""
    rows, columns = source.log.rows, source.features.columns
    numeric = {column.alias: column.name for column in columns if column.kind == "numeric"}
    label = ["label"] if "label" in rows.columns else []
    parsed = {name: workspace.number(rows[name]) for name in [*numeric, *label]}
    stamp = rows.timestamp
    parsed["time"] = _moment(workspace, stamp) if clock.iso else workspace.number(stamp)
    # Parse each text once, in a subquery, because the outer query uses it several times.
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
    reasons += source.refuse(rows, time)
    typed = {"time": time.try_cast("int64")}
    for alias, name in numeric.items():
        text, number = rows[alias], rows[PARSED + alias]
        number = number.isnan().ifelse(ibis.null("float64"), number)
        missing = text.isnull() | text.strip().lower().isin(["", "nan"])  # as at ranking
        shown = ibis.literal(f"{name} '") + text.substr(0, SHOWN) + "' "
        reasons.append((~missing & number.isnull(), shown + "is not a number"))
        reasons.append((number.abs() > LARGEST_NUMBER, shown + value_text.BEYOND_FLOAT32))
        typed[alias] = number
    if label:
        text, number = rows.label.fill_null(""), rows[PARSED + "label"]
        shown = ibis.literal("label '") + text.substr(0, SHOWN) + "' "
        reasons.append((~number.isin([0.0, 1.0]).fill_null(False), shown + "is not 0 or 1"))
        typed["label"] = number.try_cast("int8")
    checked = rows.mutate(**typed, reason=ibis.cases(*reasons, else_=ibis.null("string")))
    return workspace.store("checked", checked.drop(*(PARSED + name for name in parsed)))


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
    values |= {"rows": clean.count(), "first": clean.line.min()}
    grouped = clean.group_by(raw=clean[name]).aggregate(**values, **varies)
    return workspace.store_ordered(f"{name}s", grouped, ["first"])


def first_values(clean: Table, features: tuple[LogColumn, ...]) -> dict[str, Value]:
    """Return the first non-missing value of each feature of grouped rows, by alias."""
    order = ibis.struct({"time": clean.time, "line": clean.line})
    columns = {feature.alias: clean[feature.alias] for feature in features}
    return {alias: c.argmin(order, where=c.notnull()) for alias, c in columns.items()}


def training_values(events: Events, group: str, split: Split) -> Table:
    """Return the table of users or items with the features of their training rows.

    A value that occurs only in validation or test rows must be unknown to training. So if the rows
    of an item (a user) differ in a feature, or some of them lack it, the training rows decide. An
    item without training rows keeps the features of its other rows.

    ``group`` is ``"item"`` or ``"user"``.
    """
    workspace, columns = events.workspace, events.features.groups[group]
    table = {"item": events.items, "user": events.users}[group]
    varying = np.zeros(workspace.count(table), bool)
    chosen = table.filter(table[VARIES]).select("position")
    for batch in workspace.batches(chosen):
        varying[batch.column("position").to_numpy()] = True
    if not varying.any():
        return table

    def rows() -> Iterator[pa.RecordBatch]:
        for part in events.parts():
            number = part.item if group == "item" else part.sequence + part.first_sequence
            chosen = np.flatnonzero(split.marks(part).seen & varying[number]) + part.first_event
            yield pa.record_batch([chosen], schema=schema)

    schema = pa.schema([("position", pa.int64())])
    positions = workspace.append(f"training rows of {group}s", rows(), schema)
    lines = events.rows.semi_join(positions, "position").select("line")
    clean = events.clean.semi_join(lines, "line")
    seen = clean.group_by(raw=clean[group]).aggregate(**first_values(clean, columns))
    seen = seen.rename({f"seen {column.alias}": column.alias for column in columns}, seen="raw")
    joined = table.left_join(seen, table.raw == seen.seen)
    unseen, aliases = joined.seen.isnull(), [column.alias for column in columns]
    values = {alias: unseen.ifelse(joined[alias], joined[f"seen {alias}"]) for alias in aliases}
    return workspace.store(f"{group}s in training", joined.mutate(**values).select(*table.columns))
