"""Look-up of raw ids and values in a dataset's vocabularies, and of raw users' events.

Values are parsed as in logs. An id without a row gets the unknown row, 0, and is counted.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dien_jax.data import value_text
from dien_jax.data.arrays import chunks
from dien_jax.data.dataset import Dataset
from dien_jax.data.kinds import KINDS, Encoded
from dien_jax.data.metadata import repeated
from dien_jax.data.schema import UNKNOWN, Column, Feature, Schema
from dien_jax.data.value_text import SEPARATOR, SPACE, Clock, as_text
from dien_jax.errors import UserError, suggestion

_REMEDY = "give each row its own in a column 'history' (--history)"
_LIST_TEXT = re.compile(r"\[\s*((np\.|['\"\d-])[^\[\]]*)?\]")  # of texts or whole numbers


class Vocabularies:
    """Look-up of the rows of raw ids and values.

    ``vocabulary`` returns the raw values of a categorical or multi-valued feature, by row.
    ``separator`` is between the values of a multi-valued feature in one text.
    """

    def __init__(
        self, schema: Schema, vocabulary: Callable[[str], list[str]], separator: str = SEPARATOR
    ) -> None:
        if not separator:
            raise UserError("the separator must not be empty")
        self._separator, self.schema = separator, schema
        self.items = vocabulary("item")  # raw item ids, by row
        self._item_rows = _row_numbers("item", self.items)
        self._user_rows = _row_numbers("user", vocabulary("user"))
        names = [feature.name for feature in schema.given if feature.size is not None]
        self._rows = {name: _row_numbers(name, vocabulary(name)) for name in names}

    def item_rows(self, ids: Iterable[Any]) -> np.ndarray:
        """Return the rows of raw item ids, int32 ``[n]``."""
        return np.array([self._item_rows.get(as_text(raw), UNKNOWN) for raw in ids], np.int32)

    def user_row(self, raw: Any) -> int:
        """Return the row of a raw user id; the unknown row for None."""
        return self._user_rows.get(as_text(raw), UNKNOWN)

    def split(self, value: Any) -> list[str]:
        """Return the values of a text, a list or a single value, without empty ones."""
        if isinstance(value, str):
            parts = value.split(self._separator)
        else:
            is_list = isinstance(value, Iterable) and not isinstance(value, bytes)
            parts = [as_text(part) for part in (value if is_list else [value])]
        return [stripped for part in parts if (stripped := part.strip(SPACE))]

    def events(self, value: Any) -> list[str]:
        """Return the item ids of a history: a text with separators, or a list.

        Spaces around an id in a text are dropped, unless training saw the id with them. Empty ids
        are dropped. A text such as ``['a', 'b']``, Python's for a list, is a ``UserError``.
        """
        if not isinstance(value, str):
            parts = [as_text(part) for part in ([] if value is None else value)]
            return [part for part in parts if part.strip(SPACE)]
        found = [
            part if part in self._item_rows else stripped
            for part in value.split(self._separator)
            if (stripped := part.strip(SPACE))
        ]
        if _LIST_TEXT.fullmatch(value.strip(SPACE)) and found[0] not in self._item_rows:
            between, pandas = repr(self._separator), f".str.join({self._separator!r})"
            expected = f"ids with {between} between them (pandas: {pandas}), or a list in Parquet"
            raise UserError(f"{value:.40} is the text of a list; expected {expected}")
        return found

    def encode(self, feature: Feature, cells: Iterable[Any]) -> Encoded:
        """Encode raw values of a feature for some rows; see :meth:`Categorical.encode`."""
        ids = self._rows.get(feature.name, {})
        return KINDS[feature.kind].encode(feature, cells, ids, self.split)

    def request_columns(self, values: Mapping[str, Any]) -> tuple[dict[str, Column], int]:
        """Encode the features of one request, values by name, and count unknown values.

        Every feature must have a value, which may be None.
        """
        columns, unknown = self._columns("request_features", self.schema.request, [values])
        missing = [name for name in columns if name not in values]
        if missing:
            expected = f"a value of {missing[0]!r} (None if it is missing)"
            listed = ", ".join(columns)
            raise UserError(f"request_features: expected {expected} (features: {listed})")
        return columns, unknown

    def split_events(
        self, name: str, events: Sequence[Any]
    ) -> tuple[list, list[Mapping[str, Any]]]:
        """Split events into the ids of their items and their features, none without a schema's.

        An event is an id, or a mapping with its ``item`` and features. ``name`` begins messages.
        """
        if not self.schema.event:
            return list(events), []
        ids: list[Any] = []
        given: list[Mapping[str, Any]] = []
        for place, event in enumerate(events, start=1):
            values = {"item": event}
            if isinstance(event, Mapping):
                if "item" not in event:
                    raise UserError(f"{name}: event {place} has no 'item': {event!r:.60}")
                values = dict(event)
            ids.append(values.pop("item"))
            given.append(values)
        return ids, given

    def event_columns(
        self, name: str, given: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Column], int]:
        """Encode the features of some events, and count unknown values."""
        return self._columns(name, self.schema.event, given)

    def _columns(
        self, where: str, features: tuple[Feature, ...], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Column], int]:
        """Encode the values of features for some rows; refuse values of others."""
        names = [feature.name for feature in features]
        for values in rows:
            if not isinstance(values, Mapping):
                raise UserError(f"{where} must give values by feature, got {values!r:.40}")
            for name in values:
                if name not in names:
                    near, known = suggestion(str(name), names), ", ".join(names) or "none"
                    raise UserError(f"{where} has no feature {name!r}{near} (features: {known})")
        columns, unknown = {}, 0
        for feature in features:
            try:
                cells = [values.get(feature.name) for values in rows]
                columns[feature.name], count = self.encode(feature, cells)
            except UserError as error:
                raise UserError(f"{where} {feature.name!r}: {error}") from error
            unknown += count
        return columns, unknown


def _row_numbers(feature: str, vocabulary: list[str]) -> dict[str, int]:
    rows = {raw: row for row, raw in enumerate(vocabulary) if row != UNKNOWN}
    if len(rows) < len(vocabulary) - 1 and (twice := repeated(vocabulary)) is not None:
        raise UserError(f"the vocabulary of {feature!r} has the value {twice!r} twice")
    return rows


class UserEvents:
    """Look-up of the events of raw users in a dataset folder.

    Several histories of one user in the folder are a ``UserError`` with ``remedy`` as advice.
    """

    def __init__(self, dataset: Dataset, remedy: str = _REMEDY) -> None:
        self._dataset = dataset
        sequences = _user_sequences(dataset, remedy)
        pairs = zip(dataset.groups(), sequences.tolist(), strict=True)
        self._sequences = {raw: sequence for raw, sequence in pairs if sequence >= 0}
        times = dataset.event_timestamp
        self._earliest = int(times.min()) if len(times) else 0
        unit = dataset.meta.get("source", {}).get(value_text.TIME_UNIT)
        if unit is None:  # the folder does not say
            latest = times.max(initial=0)
            unit = "milliseconds" if latest > value_text.LIKELY_MILLISECONDS else "seconds"
        self._clock = Clock(iso=False, unit=unit)

    def __contains__(self, user: str) -> bool:
        """Return whether the folder has a history of a raw user, which may be empty."""
        return user in self._sequences

    def find(self, user: str, time: int | None) -> tuple[int, int]:
        """Return a user's sequence, and the end of the history before ``time``, in all events."""
        offsets = self._dataset.event_offsets
        sequence = self._sequences.get(user)
        if sequence is None:
            return 0, 0  # an empty history
        start, stop = int(offsets[sequence]), int(offsets[sequence + 1])
        if time is None:
            return sequence, stop
        before = np.searchsorted(self._dataset.event_timestamp[start:stop], time)
        return sequence, start + int(before)

    def time(self, text: str | None) -> int:
        """Parse a time in the folder's unit; a ``UserError`` shows the text."""
        if not text:
            raise UserError("it is empty")
        time = self._clock.read("a time", text, self._earliest)
        if not 0 <= time <= self._clock.limit:
            raise UserError(f"{text!r} is before 1970, or beyond 9999 in {self._clock.unit}")
        return time


def _user_sequences(dataset: Dataset, remedy: str) -> np.ndarray:
    """Return the sequence of each group, int64, -1 for a group without one."""
    groups = int(dataset.meta["counts"]["groups"])
    sequences = np.full(groups, -1)
    for examples in dataset.splits.values():
        for part in chunks(len(examples.group)):
            group, sequence = examples.group[part], examples.sequence[part]
            new = sequences[group] < 0
            sequences[group[new]] = sequence[new]
            if (sequences[group] != sequence).any():
                raise UserError(f"{dataset.path} has several histories of one user; {remedy}")
    known = np.flatnonzero(sequences >= 0)
    if len(dataset.event_offsets) - 1 == groups and (sequences[known] == known).all():
        return np.arange(groups)  # includes users without an example
    return sequences
