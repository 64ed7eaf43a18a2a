"""From a log in the database to arrays: malformed rows out, ordered, ids as numbers.

``load_events`` turns the text table ``rows`` into the tables ``users`` and ``items`` (raw id and
its number, in order of first appearance, with their features) and ``events`` (ordered by user,
time and the log's own order).
"""

from collections.abc import Callable
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import numpy as np
from ibis.expr.types import BooleanColumn, IntegerValue, StringColumn, Table, Value

from dien_jax.data.clock import LIKELY_MILLISECONDS, Clock
from dien_jax.errors import UserError
from dien_jax.preparation.options import FeatureColumn
from dien_jax.preparation.reading.log_files import Log
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import EXAMPLES

LARGEST_NUMBER = float(np.finfo(np.float32).max)
SHOWN = 40
"""Characters shown of a malformed value."""


@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.int64))
def epoch_ms(moment: Value) -> IntegerValue:
    """Milliseconds since 1970: a function of the engine that Ibis has to be told of."""


class Events(NamedTuple):
    """What happened, grouped by sequence (one a user), oldest first, ties in the log's order.

    Dimensions: E rows, S users.

    Attributes:
      item: int32 ``[E]``, number of the item.
      timestamp: int64 ``[E]``.
      label: int8 ``[E]``, or None for a log of interactions.
      offsets: int64 ``[S + 1]``.
      users: table ``position`` (the sequence), ``raw`` and user features.
      items: table ``position`` (the item's number), ``raw`` and item features.
      contexts: table ``position`` (the row) and context features.
      num_items: rows of ``items``.
      clock: how the log's times are written.
      report: lines about malformed rows, for the user.
    """

    item: np.ndarray
    timestamp: np.ndarray
    label: np.ndarray | None
    offsets: np.ndarray
    users: Table
    items: Table
    contexts: Table
    num_items: int
    clock: Clock
    report: list[str]


def load_events(
    workspace: Workspace,
    read: Callable[[bool], Log],
    *,
    features: dict[str, list[FeatureColumn]],
    has_label: bool,
    max_bad_share: float,
    narrow: Callable[[Table], Table] | None = None,
) -> Events:
    """Reads a log, leaves out its malformed rows and numbers its users and items.

    An item's or a user's feature is its first value, by time and then the log's order, that is
    not missing.

    Args:
      workspace: where the tables go.
      read: reads the log; called with True when malformed rows must be told by line number.
      features: the ``item``, ``user`` and ``context`` features.
      has_label: whether the log has the column ``label``.
      max_bad_share: share of rows that may be malformed.
      narrow: what to do to the clean rows before anything is counted.

    Raises:
      UserError: when the log cannot be read, too much of it is malformed, or nothing is left.
    """
    columns = [*features["item"], *features["user"], *features["context"]]
    log = read(False)
    clock = _clock(workspace, log.rows)
    with stage("checking rows"):
        checked = _check(log.rows, clock, columns, has_label)
        malformed = workspace.count(checked.filter(checked.reason.notnull()))
    if malformed and not log.lines_known:
        log = read(True)
        checked = _check(log.rows, clock, columns, has_label)
    total = workspace.count(log.rows) + log.bad.count
    if malformed:
        _count_bad(workspace, log, checked.filter(checked.reason.notnull()))
    report = log.bad.check(total, max_bad_share)
    if total == log.bad.count:
        raise UserError(f"{log.file} holds no rows")
    with stage("ordering events"):
        clean = workspace.store("clean", checked.filter(checked.reason.isnull()))
        clean = narrow(clean) if narrow else clean
        users = _number(workspace, clean, "user", features["user"])
        items = _number(workspace, clean, "item", features["item"])
        rows = clean.join(users.select(user="raw", sequence="position"), "user")
        rows = rows.join(items.select(item="raw", code="position"), "item")
        label = ["label"] if has_label else []
        contexts = [feature.alias for feature in features["context"]]
        rows = rows.select("sequence", "code", "time", "line", *label, *contexts)
        rows = workspace.store("events", rows.order_by("sequence", "time", "line"))
        num_rows, num_users, num_items = map(workspace.count, (rows, users, items))
        if not num_rows:
            raise UserError(f"{log.file}: nothing is left to prepare")
        dtypes: dict[str, type[np.generic]] = {
            "sequence": np.int32,
            "code": np.int32,
            "time": np.int64,
        }
        dtypes.update(dict.fromkeys(label, np.int8))
        arrays = workspace.arrays(rows.order_by(rows.rowid()), num_rows, dtypes)
    lengths = np.bincount(arrays["sequence"], minlength=num_users)
    return Events(
        item=arrays["code"],
        timestamp=arrays["time"],
        label=arrays.get("label"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        users=users,
        items=items,
        contexts=rows.select(*contexts, position=rows.rowid()),
        num_items=num_items,
        clock=clock,
        report=report,
    )


def attach(rows: Table, key: str, other: Table, columns: list[FeatureColumn]) -> Table:
    """The rows with features of their ``key`` from another table, missing where it has none.

    Args:
      rows: a log.
      key: ``user`` or ``item``.
      other: has ``line``, ``key`` and columns of the features' names; where a key occurs again,
        the first value that is not missing counts.
      columns: the features.
    """
    values = {column.alias: other[column.name].first(order_by=other.line) for column in columns}
    joined = rows.left_join(other.group_by(key).aggregate(**values), key)
    return joined.select(*rows.columns, *values)


def _clock(workspace: Workspace, rows: Table) -> Clock:
    """How most of the timestamps are written."""
    number = rows.timestamp.try_cast("float64")
    counts = workspace.numbers(
        rows.aggregate(
            numbers=number.count(),
            large=(number > LIKELY_MILLISECONDS).sum(),
            dates=epoch_ms(rows.timestamp.try_cast(dt.Timestamp("UTC"))).count(),
        )
    )
    if counts["dates"] > counts["numbers"]:
        return Clock(iso=True, unit="milliseconds")
    large = 2 * counts["large"] > counts["numbers"]
    return Clock(iso=False, unit="milliseconds" if large else "seconds")


def _check(rows: Table, clock: Clock, features: list[FeatureColumn], has_label: bool) -> Table:
    """The rows with typed columns, and ``reason``: why a row is malformed, or NULL."""
    stamp = rows.timestamp
    shown = ibis.literal("timestamp '") + stamp.substr(0, SHOWN) + "' "
    if clock.iso:
        time = epoch_ms(stamp.try_cast(dt.Timestamp("UTC")))
        wrong, expected, negative = time.isnull(), "is not an ISO date", "lies before 1970"
    else:
        time = stamp.try_cast("float64")
        wrong = time.isnull() | time.isnan() | (~time.isinf() & (time != time.floor()))
        expected, negative = "is not a whole number", "is negative"
    reasons: list[tuple[BooleanColumn, StringColumn | str]] = [
        (rows.user.isnull(), "the user is empty"),
        (rows.item.isnull(), "the item is empty"),
        (stamp.isnull(), "the timestamp is empty"),
        (wrong, shown + expected),
        (time < 0, shown + negative),
        (time > clock.limit, shown + f"lies beyond the year 9999 in {clock.unit}"),
    ]
    typed = {"time": time.try_cast("int64")}
    if has_label:
        label = rows.label.try_cast("float64")
        typed["label"] = label.try_cast("int8")
        shown = ibis.literal("label '") + rows.label.fill_null("").substr(0, SHOWN) + "' "
        reasons.append((~label.isin([0.0, 1.0]).fill_null(False), shown + "is not 0 or 1"))
    for feature in features:
        if feature.kind == "numeric":
            text = rows[feature.alias]
            number = text.try_cast("float64")
            number = number.isnan().ifelse(ibis.null("float64"), number)
            missing = text.isnull() | (text.lower() == "nan")
            too_large = number.abs() > LARGEST_NUMBER
            wrong = ~missing & (number.isnull() | too_large)
            shown = ibis.literal(f"{feature.name} '") + text.substr(0, SHOWN) + "' "
            reasons.append((wrong, shown + "is not a number"))
            typed[feature.alias] = number
    return rows.mutate(**typed, reason=ibis.cases(*reasons, else_=ibis.null("string")))


def _count_bad(workspace: Workspace, log: Log, bad: Table) -> None:
    count = workspace.count(bad)
    first = workspace.batches(bad.order_by("line").limit(EXAMPLES).select("line", "reason"))
    for row in (row for batch in first for row in batch.to_pylist()):
        log.bad.add(log.file, row["line"], row["reason"])
        count -= 1
    log.bad.count += count


def _number(workspace: Workspace, clean: Table, name: str, features: list[FeatureColumn]) -> Table:
    """Every user or item once, numbered by first appearance, with its features."""
    values = {
        feature.alias: clean[feature.alias].first(
            where=clean[feature.alias].notnull(), order_by=[clean.time, clean.line]
        )
        for feature in features
    }
    grouped = clean.group_by(raw=clean[name]).aggregate(**values, first=clean.line.min())
    numbered = grouped.mutate(position=ibis.row_number().over(order_by=grouped["first"]))
    return workspace.store(f"{name}s", numbered.drop("first"))
