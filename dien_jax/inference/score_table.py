"""Scoring every row of a table of requests.

A row is a user and an item. Its history is the first of these that is available:

1. the ids in its column ``history``, oldest first;
2. the user's events in the data folder before the row's ``timestamp``, which is a time as in the
   log of the folder, or an ISO date;
3. all of the user's events in the data folder.
Context features are columns of their names. Tables are read and written in pieces, so
memory does not limit their size.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dien_jax.data.arrays import Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.schema import UNKNOWN, Schema
from dien_jax.data.value_text import Use, as_text
from dien_jax.data.vocabularies import SEPARATOR, UserEvents, Vocabularies
from dien_jax.errors import UserError, writing
from dien_jax.inference.request_tables import (
    SCORE,
    Piece,
    RequestTable,
    find_column,
    has_columns,
    open_requests,
)
from dien_jax.runs.trained import load_run, score_batches
from dien_jax.steps.score import make_predict_step
from dien_jax.utils.console import say, stage
from dien_jax.utils.files import check_out

BATCHES_PER_PIECE = 64
"""Rows of a piece are sorted by history length, which reduces padding."""
COUNTS = (
    "rows", "unknown_users", "unknown_items", "unknown_history", "unknown_context",
    "empty_histories",
)  # fmt: skip
USES: dict[str, Use] = {
    "user": "categorical",
    "item": "categorical",
    "history": "multivalued",
    "timestamp": "time",
}
"""How the columns of ids and times are read."""

Values = TypeVar("Values")


@dataclass(frozen=True)
class UserColumns:
    """Columns of a table of users.

    >>> from dien_jax.inference import UserColumns
    >>> UserColumns(history="past", separator=";").user
    'user'
    """

    user: str = "user"
    """Column of user ids. An empty cell is an unknown user."""
    history: str | None = None
    """Column of histories: a list, or ids with separators. Default: 'history', if it exists."""
    timestamp: str | None = None
    """Column of times, used when histories come from the data folder: whole numbers as in the log,
    or ISO dates (UTC without an offset). Default: 'timestamp', if it exists."""
    separator: str = SEPARATOR
    """Separator between the values of a history or a multi-valued column."""


@dataclass(frozen=True)
class RequestColumns(UserColumns):
    """Columns of a table of requests: those of users, and the item.

    >>> from dien_jax.inference import RequestColumns
    >>> RequestColumns(history="past", separator=";").item
    'item'
    """

    item: str = "item"
    """Column of item ids."""


DEFAULT_COLUMNS = RequestColumns()
AnyColumns = TypeVar("AnyColumns", bound=UserColumns)


def score_requests(
    run_dir: str | Path,
    table: str | Path,
    out: str | Path,
    data: str | Path | None = None,
    columns: RequestColumns = DEFAULT_COLUMNS,
    *,
    overwrite: bool = False,
) -> dict[str, int]:
    r"""Score every row of a table with the best checkpoint of a run, and write it with the scores.

    >>> from pathlib import Path
    >>> from dien_jax import Ranker
    >>> from dien_jax.inference import score_requests
    >>> context = [feature.name for feature in Ranker("runs/first").schema.context]
    >>> header = ",".join(["user", "item", *context])
    >>> _ = Path("requests.csv").write_text(f"{header}\nAnn,item 1{',' * len(context)}\n")
    >>> score_requests("runs/first", "requests.csv", "scored.csv")["rows"]
    1

    Args:
      run_dir: run folder.
      table: CSV or TSV with a header, or Parquet.
      out: table to write, of the same kind.
      data: dataset folder; None for the one of the run.
      columns: names of the table's columns.
      overwrite: replace ``out`` even if it is not a table of these columns and the scores.

    Returns:
      The number of ``rows``, ``unknown_users``, ``unknown_items``, ``unknown_history``,
      ``unknown_context`` and ``empty_histories``.

    Raises:
      UserError: when the run, the data or the table cannot be used, or ``out`` cannot be written.
        Errors in a row name file, line and column. No table is written then.
    """
    out, table = Path(out), Path(table)
    requests = open_requests(table)
    inputs = (table, Path(run_dir), None if data is None else Path(data))
    check_out(
        out, is_ours=has_columns([*requests.names, SCORE]), overwrite=overwrite, inputs=inputs
    )
    columns = found_columns(requests, columns)
    trained = load_run(run_dir, data)
    find_context(requests, trained.dataset.schema)
    say(f"histories: {described(columns, trained.dataset)}")
    config = trained.run.config
    predict = make_predict_step(config, trained.dataset.schema)
    step = partial(predict, logit_map=trained.logit_map(in_use=True))
    model = trained.params, trained.batch_stats, trained.feature_tables()
    encoder = _Encoder(requests, columns, trained.dataset)
    counts = encoder.counts
    progress = stage(f"scoring {table}", requests.share)
    with writing(out, "--out"), progress as current, requests.writing(out) as write:
        for piece in requests.pieces(BATCHES_PER_PIECE * config.train.batch_size):
            loader = evaluation_loader(encoder.examples(piece), "test", config.train)
            write(piece, score_batches(step, *model, loader))
            current.note = f"{counts['rows']:,} rows"
            if requests.rows:
                current.note = f"{counts['rows']:,} of {requests.rows:,} rows"
        if not counts["rows"]:
            raise UserError(f"{table} has no rows")
    return counts


def found_columns(requests: RequestTable, columns: AnyColumns) -> AnyColumns:
    """Return the columns with those that a table has by default; refuse what cannot be read."""
    if not columns.separator:
        raise UserError("--separator must not be empty")
    defaults = {
        name: name
        for name in ("history", "timestamp")
        if name in requests.names and getattr(columns, name) is None
    }
    columns = dataclasses.replace(columns, **defaults)
    _refuse_shared_columns(columns)
    for flag, use in USES.items():
        if (column := getattr(columns, flag, None)) is not None:
            find_column(requests, column, f"--{flag}", use)
    return columns


def find_context(requests: RequestTable, schema: Schema) -> None:
    """Check that a table has the columns of the context features."""
    for feature in schema.context:
        find_column(requests, feature.name, "a context feature of the run", feature.kind)


def _refuse_shared_columns(columns: UserColumns) -> None:
    """Refuse a column that is given two uses: ids are no times, and users are no items."""
    flags: dict[str, str] = {}
    for flag in USES:
        if (column := getattr(columns, flag, None)) is not None:
            if column in flags:
                other = f"--{flag} must name another column than --{flags[column]}"
                raise UserError(f"{other}, got {column!r}")
            flags[column] = flag


def described(columns: UserColumns, dataset: Dataset) -> str:
    """Return where histories come from, in words."""
    if columns.history:
        ignored = f"; column {columns.timestamp!r} is not used" if columns.timestamp else ""
        return f"column {columns.history!r}{ignored}"
    if columns.timestamp:
        return f"each user's events in {dataset.path} before column {columns.timestamp!r}"
    return f"all of each user's events in {dataset.path}, as there is no column of times"


class Reader:
    """Reads the columns of pieces of a table; ``counts`` are totals over all pieces."""

    def __init__(
        self, table: RequestTable, columns: UserColumns, dataset: Dataset | None, counts: Any
    ) -> None:
        self.table, self.columns = table, columns
        self.events = None if columns.history or dataset is None else UserEvents(dataset)
        self.counts = dict.fromkeys(counts, 0)

    def users(self, piece: Piece) -> list[str]:
        """Return the column of users."""
        return self.convert(
            piece, self.columns.user, USES["user"], lambda cells: list(map(as_text, cells))
        )

    def given(self, piece: Piece, vocabularies: Vocabularies) -> list[list[str]]:
        """Return the column of histories."""
        assert self.columns.history is not None
        cells = self.table.column(piece, self.columns.history, USES["history"])
        return [vocabularies.events(cell) for cell in cells]

    def found(self, piece: Piece, users: list[str]) -> np.ndarray:
        """Return each user's sequence in the data folder and the end of the history, ``[n, 2]``."""
        column, events = self.columns.timestamp, self.events
        assert events is not None
        times: list[int | None] = [None] * piece.rows
        if column is not None:
            times = self.convert(
                piece, column, USES["timestamp"], lambda cells: list(map(events.time, cells))
            )
        return np.array([events.find(*pair) for pair in zip(users, times, strict=True)])

    def convert(
        self, piece: Piece, column: str, use: Use, convert: Callable[[list[Any]], Values]
    ) -> Values:
        """Return ``convert(cells)`` of a column; an error names the first cell that causes it."""
        cells = self.table.column(piece, column, use)
        try:
            return convert(cells)
        except UserError:
            for place, cell in zip(piece.places, cells, strict=True):
                try:
                    convert([cell])
                except UserError as error:
                    where = self.table.where(place)
                    raise UserError(f"{where}: column {column!r}: {error}") from error
            raise

    def count_rows(self, name: str, rows: np.ndarray) -> None:
        """Add the number of rows that are true to a count."""
        self.counts[name] += int(np.count_nonzero(rows))


class _Encoder(Reader):
    """Turns pieces of a table into datasets."""

    def __init__(self, table: RequestTable, columns: RequestColumns, dataset: Dataset) -> None:
        super().__init__(table, columns, dataset, COUNTS)
        self._item_column, self._dataset = columns.item, dataset
        self._vocabularies = Vocabularies(dataset.schema, dataset.vocabulary, columns.separator)

    def examples(self, piece: Piece) -> Dataset:
        """Return the dataset with the rows of a piece as its test examples."""
        vocabularies = self._vocabularies
        users = self.users(piece)
        user = np.array([vocabularies.user_row(raw) for raw in users], np.int32)
        item = self.convert(piece, self._item_column, USES["item"], self._item_rows)
        dataset, sequence, end = self._histories(piece, users)
        context = {}
        for feature in dataset.schema.context:
            encode = partial(vocabularies.encode, feature)
            column, unknown = self.convert(piece, feature.name, feature.kind, encode)
            context[feature.name] = column
            self.counts["unknown_context"] += unknown
        starts = np.asarray(dataset.event_offsets)[sequence]
        self.counts["rows"] += piece.rows
        self.count_rows("unknown_users", user == UNKNOWN)
        self.count_rows("unknown_items", item == UNKNOWN)
        self.count_rows("empty_histories", starts == end)
        sequence, end = sequence.astype(np.int32), end.astype(np.int64)
        group, label = np.zeros(piece.rows, np.int32), np.zeros(piece.rows, np.int8)
        examples = Examples(sequence, end, user, group, item, label, context)
        return dataclasses.replace(dataset, splits={"test": examples})

    def _histories(self, piece: Piece, users: list[str]) -> tuple[Dataset, np.ndarray, np.ndarray]:
        """Return a dataset with the events, and each row's sequence and end of history in it."""
        if self.events is not None:
            sequence, end = self.found(piece, users).T
            return self._dataset, sequence, end
        histories = self.given(piece, self._vocabularies)
        offsets = np.cumsum([0, *map(len, histories)])
        rows = self._vocabularies.item_rows(chain.from_iterable(histories))
        self.count_rows("unknown_history", rows == UNKNOWN)
        dataset = dataclasses.replace(self._dataset, event_item=rows, event_offsets=offsets)
        return dataset, np.arange(piece.rows), offsets[1:]

    def _item_rows(self, cells: list[Any]) -> np.ndarray:
        items = [as_text(cell) for cell in cells]
        if "" in items:
            raise UserError("the item is empty")
        return self._vocabularies.item_rows(items)
