"""Scores of a whole table of requests: ``python -m dien_jax.predict``.

    python -m dien_jax.predict RUN --input requests.csv --out scored.csv

Every row of the table is a request, a user and an item; what is written is the table with a
column ``score`` more, rows in their order. A row's history is, in this order of preference,

- the ids in its column ``history``, oldest first, where the table has one;
- the user's events in the run's data folder before the row's ``timestamp``, where the table has
  that: times as in the log that the folder was made of, or ISO dates;
- all of the user's events in the data folder.

Context features are read from columns of their names, as the log's were. Ids and values that
training did not know are unknown to the model, and counted. The table is read and written in
pieces, so memory does not grow with it. Standard output carries one JSON object of counts.
"""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from dien_jax.data.dataset import Dataset, Examples
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.user_events import UserEvents
from dien_jax.data.vocabularies import SEPARATOR, Vocabularies, as_text
from dien_jax.errors import UserError, writing
from dien_jax.inference.request_tables import Piece, RequestTable, find_column, open_requests
from dien_jax.runs.scoring import score_batches
from dien_jax.runs.trained import load_run
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import feature_tables
from dien_jax.utils.command import run_command
from dien_jax.utils.console import Stage, say, stage

BATCHES_OF_A_PIECE = 64
"""Within a piece rows are sorted by length of history, which saves padding."""


@dataclass(frozen=True)
class Arguments:
    """Score every row of a table with the best checkpoint of a run.

    A row is a user and an item. Its history is its column `history` (ids, oldest first), or else
    the user's events in the data folder: those before the row's `timestamp`, or all of them where
    the table has no such column. Context features come from columns of their names. The table is
    written with one more column, `score`, the probability of a click.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    input: Path
    """The table: CSV or TSV with a header, gzip or not, or Parquet (with '.[data]')."""
    out: Path
    """The table to write, of the same kind; text is compressed where the name ends in .gz."""
    data: Path | None = None
    """Dataset folder; the run's own when not given."""
    user: str = "user"
    """Column of the user id; an empty cell is an unknown user."""
    item: str = "item"
    """Column of the item id."""
    history: str | None = None
    """Column of the history: a list, or ids with separators; 'history' where there is one."""
    timestamp: str | None = None
    """Column of the time, where histories are the data folder's; 'timestamp' where there is one.
    Whole numbers as in the log, or ISO dates (UTC unless they differ)."""
    separator: str = SEPARATOR
    """What stands between the values of a history or a multi-valued column."""


class Columns(NamedTuple):
    """Which columns are read; None where a table has none."""

    user: str
    item: str
    history: str | None
    timestamp: str | None


def predict_table(arguments: Arguments) -> dict[str, int]:
    """Scores a table and writes it; returns what was counted.

    Raises:
      UserError: when the run, the data, the table or the file to write is at fault; for a row it
        names file, line and column.
    """
    if not arguments.separator:
        raise UserError("--separator must not be empty")
    table = open_requests(arguments.input)
    columns = Columns(
        find_column(table, arguments.user, "--user"),
        find_column(table, arguments.item, "--item"),
        _optional(table, arguments.history, "history"),
        _optional(table, arguments.timestamp, "timestamp"),
    )
    trained = load_run(arguments.run_dir, arguments.data)
    config, dataset = trained.run.config, trained.dataset
    for feature in dataset.schema.context:
        find_column(table, feature.name, "a context feature of the run")
    vocabularies = Vocabularies(dataset, arguments.separator)
    events = None if columns.history else UserEvents(dataset)
    say(f"histories: {_described(columns, dataset)}")
    step, features = make_predict_step(config, dataset.schema), feature_tables(dataset)
    counts = Counter(
        rows=0,
        unknown_users=0,
        unknown_items=0,
        unknown_history=0,
        unknown_context=0,
        empty_histories=0,
    )
    size = BATCHES_OF_A_PIECE * config.train.batch_size
    with (
        writing(arguments.out, "--out"),
        stage(f"scoring {arguments.input}") as current,
        table.writing(arguments.out) as write,
    ):
        for piece in table.pieces(size):
            requests = _encoded(table, piece, columns, dataset, vocabularies, events, counts)
            scores = score_batches(
                step,
                trained.params,
                trained.batch_stats,
                features,
                evaluation_loader(requests, "test", config.train),
            )
            write(piece, scores)
            _progress(current, counts["rows"], table.rows)
        if not counts["rows"]:
            raise UserError(f"{arguments.input} holds no rows")
    return dict(counts)


def _optional(table: RequestTable, name: str | None, default: str) -> str | None:
    if name is not None:
        return find_column(table, name, f"--{default}")
    return default if default in table.names else None


def _described(columns: Columns, dataset: Dataset) -> str:
    if columns.history:
        ignored = f"; column {columns.timestamp!r} is not read" if columns.timestamp else ""
        return f"column {columns.history!r}{ignored}"
    if columns.timestamp:
        return f"each user's events in {dataset.path} before column {columns.timestamp!r}"
    return f"all of each user's events in {dataset.path}, as there is no column of times"


def _encoded(
    table: RequestTable,
    piece: Piece,
    columns: Columns,
    dataset: Dataset,
    vocabularies: Vocabularies,
    events: UserEvents | None,
    counts: Counter[str],
) -> Dataset:
    """The dataset with the rows of a piece as its test examples; counts what is unknown."""
    users = [as_text(cell) for cell in table.column(piece, columns.user)]
    items = [as_text(cell) for cell in table.column(piece, columns.item)]
    if "" in items:
        raise _misread(table, piece, items.index(""), columns.item, "the item is empty")
    item = vocabularies.item_rows(items)
    user = np.array([vocabularies.user_row(raw) for raw in users], np.int32)
    if events is None:
        assert columns.history is not None
        split = [vocabularies.split(cell) for cell in table.column(piece, columns.history)]
        offsets = np.cumsum([0, *map(len, split)])
        rows = vocabularies.item_rows(chain.from_iterable(split))
        dataset = dataclasses.replace(dataset, event_item=rows, event_offsets=offsets)
        sequence, end = np.arange(piece.rows), offsets[1:]
        counts["unknown_history"] += int(np.count_nonzero(rows == UNKNOWN))
    else:
        times = _times(table, piece, columns.timestamp, events)
        found = [events.find(raw, time) for raw, time in zip(users, times, strict=True)]
        sequence, end = np.array(found).T
    context = {}
    for feature in dataset.schema.context:
        cells = table.column(piece, feature.name)
        try:
            context[feature.name], unknown = vocabularies.encode(feature, cells)
        except UserError:
            _blame(
                table, piece, feature.name, cells, lambda c, f=feature: vocabularies.encode(f, [c])
            )
            raise
        counts["unknown_context"] += unknown
    starts = np.asarray(dataset.event_offsets)[sequence]
    counts["rows"] += piece.rows
    counts["unknown_users"] += int(np.count_nonzero(user == UNKNOWN))
    counts["unknown_items"] += int(np.count_nonzero(item == UNKNOWN))
    counts["empty_histories"] += int(np.count_nonzero(starts == end))
    zeros = np.zeros(piece.rows, np.int32)
    examples = Examples(
        sequence=sequence.astype(np.int32),
        history_end=end.astype(np.int64),
        user=user,
        group=zeros,
        item=item,
        label=zeros.astype(np.int8),
        context=context,
        probability=None,
    )
    return dataclasses.replace(dataset, splits={"test": examples})


def _times(
    table: RequestTable, piece: Piece, column: str | None, events: UserEvents
) -> Sequence[int | None]:
    if column is None:
        return [None] * piece.rows
    cells = table.column(piece, column)
    try:
        return [events.time(cell) for cell in cells]
    except UserError:
        _blame(table, piece, column, cells, events.time)
        raise


def _blame(table: RequestTable, piece: Piece, column: str, cells: list[Any], read: Any) -> None:
    """Raises for the first cell that cannot be read, saying where it is."""
    for row, cell in enumerate(cells):
        try:
            read(cell)
        except UserError as error:
            raise _misread(table, piece, row, column, str(error)) from error


def _misread(table: RequestTable, piece: Piece, row: int, column: str, reason: str) -> UserError:
    place = piece.places[row]
    where = f"{table.file}:{place}" if table.unit == "line" else f"{table.file}: row {place}"
    return UserError(f"{where}: column {column!r}: {reason}")


def _progress(current: Stage, done: int, total: int | None) -> None:
    current.note = f"{done:,} rows" if total is None else f"{done:,} of {total:,} rows"
    current.share = done / total if total else None


def _predict(arguments: Arguments) -> None:
    counts = predict_table(arguments)
    say(f"scores: {arguments.out}")
    for name, what in {
        "unknown_users": "rows of users",
        "unknown_items": "rows of items",
        "unknown_history": "behaviours",
        "unknown_context": "context values",
    }.items():
        if counts[name]:
            say(f"{counts[name]:,} {what} that training did not know")
    if counts["empty_histories"]:
        say(f"{counts['empty_histories']:,} rows without any history")
    print(json.dumps(counts))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.predict"), _predict
    )


if __name__ == "__main__":
    sys.exit(main())
