"""Conversion of the rows of a table of requests to examples, and of their histories to events."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from dien_jax.data.arrays import Examples, joined_columns
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN, Column, Schema, listed
from dien_jax.data.value_text import Use, as_text
from dien_jax.data.vocabularies import UserEvents, Vocabularies
from dien_jax.errors import UserError
from dien_jax.inference import request_tables as tables
from dien_jax.utils.console import say

Values = TypeVar("Values")


@dataclass(frozen=True)
class RowEvents:
    """Events of sequences, as the attributes of a :class:`Dataset`."""

    event_item: np.ndarray
    event_offsets: np.ndarray
    events: Mapping[str, Column]

    def with_computed(
        self, examples: Examples, tables: Mapping[str, np.ndarray], schema: Schema, most: int
    ) -> Examples:
        """Return examples with the computed features of their candidates.

        ``most`` is the length of the longest history, ``tables`` are those of a model.
        """
        if not schema.candidate:
            return examples
        parts = []
        for row, end in enumerate(examples.history_end):
            start = max(self.event_offsets[examples.sequence[row]], end - most)
            history = np.asarray(self.event_item[start:end])
            parts.append(schema.computed(tables, history, examples.item[row : row + 1]))
        names = [feature.name for feature in schema.candidate]
        computed = {name: joined_columns([part[name] for part in parts]) for name in names}
        return examples._replace(columns=examples.columns | computed)


class RowReader:
    """Converts pieces of a table to examples; ``counts`` are totals over all pieces.

    ``events`` finds events in the data folder; it is None if the table has a column of histories.
    """

    def __init__(
        self,
        table: tables.RequestTable,
        columns: tables.UserColumns,
        vocabularies: Vocabularies,
        dataset: Dataset | None,
    ) -> None:
        self.table, self._columns, self._vocabularies = table, columns, vocabularies
        self.dataset, self._item = dataset, getattr(columns, "item", None)
        self._schema = schema = vocabularies.schema
        for feature in schema.request:
            tables.find_column(table, feature.name, "a request feature of the run", feature.kind)
        time, source = columns.timestamp, f"column {columns.history!r}"
        if columns.history and time:
            source += f"; column {time!r} is not used"
        elif dataset is not None and not columns.history:
            times = f" before column {time!r}" if time else ", as there is no column of times"
            source = f"all of each user's events in {dataset.path}{times}"
        if columns.history and schema.event:
            source += ", whose events have missing values of " + listed(schema.event)
        say(f"histories: {source}")
        self.events = None if columns.history or dataset is None else UserEvents(dataset)
        names = "rows unknown_users unknown_history unknown_values empty_histories"
        more = "items" if self._item is None else "unknown_items"
        self.counts = Counter(dict.fromkeys([*names.split(), more], 0))

    def users(self, piece: tables.Piece) -> list[str]:
        """Return the column of users."""
        column = self._columns.user
        return self._convert(piece, column, "categorical", lambda cells: list(map(as_text, cells)))

    def examples(self, piece: tables.Piece) -> tuple[Examples, RowEvents]:
        """Return the rows as examples, and the events of their sequences."""
        users, count = self.users(piece), len(piece.places)
        user = np.array([self._vocabularies.user_row(raw) for raw in users], np.int32)
        item = np.zeros(count, np.int32)
        if self._item is not None:
            item = self._convert(piece, self._item, "categorical", self._item_rows)
            self.counts["unknown_items"] += int(np.count_nonzero(item == UNKNOWN))
        events, sequence, end = self._histories(piece, users)
        columns = {}
        for feature in self._schema.request:
            encode = partial(self._vocabularies.encode, feature)
            column, unknown = self._convert(piece, feature.name, feature.kind, encode)
            columns[feature.name] = column
            self.counts["unknown_values"] += unknown
        self.counts["rows"] += count
        self.counts["unknown_users"] += int(np.count_nonzero(user == UNKNOWN))
        self.counts["empty_histories"] += int(
            np.count_nonzero(events.event_offsets[sequence] == end)
        )
        group, label = np.zeros(count, np.int32), np.zeros(count, np.int8)
        return Examples(sequence, end, user, group, item, label, columns), events

    def _histories(
        self, piece: tables.Piece, users: list[str]
    ) -> tuple[RowEvents, np.ndarray, np.ndarray]:
        """Return events, and each row's sequence and end of history."""
        if self.events is None:
            name, use, ids = self._columns.history or "", tables.USES["history"], self._vocabularies
            histories = self._convert(piece, name, use, lambda cells: list(map(ids.events, cells)))
            offsets = np.cumsum([0, *map(len, histories)])
            rows = self._vocabularies.item_rows(chain.from_iterable(histories))
            self.counts["unknown_history"] += int(np.count_nonzero(rows == UNKNOWN))
            events = RowEvents(rows, offsets, self._missing(len(rows)))
            return events, np.arange(len(users), dtype=np.int32), offsets[1:]
        assert self.dataset is not None
        times: Sequence[int | None] = [None] * len(users)
        if (column := self._columns.timestamp) is not None:
            read, use = self.events.time, tables.USES["timestamp"]
            times = self._convert(piece, column, use, lambda cells: list(map(read, cells)))
        found = [self.events.find(*pair) for pair in zip(users, times, strict=True)]
        sequence, end = np.array(found).T
        offsets = np.asarray(self.dataset.event_offsets)
        events = RowEvents(self.dataset.event_item, offsets, self.dataset.events)
        return events, sequence.astype(np.int32), end.astype(np.int64)

    def _missing(self, events: int) -> dict[str, Column]:
        """Return missing values of the features of events."""
        columns, _ = self._vocabularies.event_columns("history", [{}] * events)
        return columns

    def _item_rows(self, cells: list[Any]) -> np.ndarray:
        items = list(map(as_text, cells))
        if "" in items:
            raise UserError("the item is empty")
        return self._vocabularies.item_rows(items)

    def _convert(
        self, piece: tables.Piece, column: str, use: Use, convert: Callable[[list[Any]], Values]
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
