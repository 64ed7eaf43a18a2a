"""Look-up of raw ids and values in a dataset's vocabularies, and of raw users' events.

Values are parsed as in logs. An id without a row gets the unknown row, 0, and is counted.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from dien_jax.data import value_text
from dien_jax.data.arrays import Column, chunks
from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import repeated
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.data.value_text import SEPARATOR, SPACE, Clock, as_text, digits_of, number_of
from dien_jax.errors import UserError, suggestion

_REMEDY = "give each row its own in a column 'history' (--history)"
_LIST_TEXT = re.compile(r"\[\s*((np\.|['\"\d-])[^\[\]]*)?\]")  # of texts or whole numbers
LARGEST_NUMBER = float(np.finfo(np.float32).max)


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
        self._separator, self.context = separator, schema.context
        self.items = vocabulary("item")  # raw item ids, by row
        self._item_rows = _row_numbers("item", self.items)
        self._user_rows = _row_numbers("user", vocabulary("user"))
        names = [feature.name for feature in self.context if feature.size is not None]
        self._context_rows = {name: _row_numbers(name, vocabulary(name)) for name in names}

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

    def encode(self, feature: Feature, cells: Iterable[Any]) -> tuple[Column, int]:
        """Encode a context feature for some rows; return it with the number of unknown values.

        ``cells`` has one cell per row. None or an empty text is a missing value: the unknown row,
        no values, or the training rows' mean. A cell of a numeric feature that is not a number is a
        ``UserError`` that starts with the cell.
        """
        if feature.kind == "numeric":
            numbers = np.array([_standard(feature, cell) for cell in cells], np.float32)
            return Column(numbers, None), 0
        rows = self._context_rows[feature.name]
        if feature.kind == "categorical":
            texts = [as_text(cell) for cell in cells]
            codes = np.array([rows.get(text, UNKNOWN) for text in texts], np.int32)
            return Column(codes, None), sum(map(bool, texts)) - int(np.count_nonzero(codes))
        values: list[int] = []
        offsets, unknown = [0], 0
        for cell in cells:
            codes_of_cell = [rows.get(text, UNKNOWN) for text in self.split(cell)]
            unknown += codes_of_cell.count(UNKNOWN)
            values += list(dict.fromkeys(codes_of_cell))[: feature.max_values]
            offsets.append(len(values))
        return Column(np.array(values, np.int32), np.array(offsets, np.int64)), unknown

    def context_columns(self, values: Mapping[str, Any]) -> tuple[dict[str, Column], int]:
        """Encode the context of one request, values by feature, and count unknown values."""
        if not isinstance(values, Mapping):
            raise UserError(f"context must give values by feature, got {values!r:.40}")
        names = [feature.name for feature in self.context]
        listed = ", ".join(names) or "none"
        for name in values:
            if name not in names:
                near = suggestion(str(name), names)
                raise UserError(f"context has no feature {name!r}{near} (features: {listed})")
        columns, unknown = {}, 0
        for feature in self.context:
            if feature.name not in values:
                missing = f"{feature.name!r} (None if it is missing)"
                raise UserError(f"context: expected a value of {missing} (features: {listed})")
            try:
                columns[feature.name], count = self.encode(feature, [values[feature.name]])
            except UserError as error:
                raise UserError(f"context {feature.name!r}: {error}") from error
            unknown += count
        return columns, unknown


def _row_numbers(feature: str, vocabulary: list[str]) -> dict[str, int]:
    rows = {raw: row for row, raw in enumerate(vocabulary) if row != UNKNOWN}
    if len(rows) < len(vocabulary) - 1 and (twice := repeated(vocabulary)) is not None:
        raise UserError(f"the vocabulary of {feature!r} has the value {twice!r} twice")
    return rows


def _standard(feature: Feature, cell: Any) -> float:
    """Standardise a number; return 0 if it is missing."""
    text = "" if cell is None else digits_of(cell) if isinstance(cell, int) else str(cell)
    text = text.strip(SPACE)
    if not text or text.lower() == "nan":
        return 0.0
    number = number_of(text)
    if number is None or math.isnan(number):
        raise UserError(f"{text[:40]!r} is not a number; leave a missing one empty")
    mean, deviation = cast(float, feature.mean), cast(float, feature.deviation)
    if abs(number) > LARGEST_NUMBER:
        raise UserError(f"{text[:40]!r} {value_text.BEYOND_FLOAT32}")
    standard = (number - mean) / deviation
    if abs(standard) > LARGEST_NUMBER:
        raise UserError(f"{text[:40]!r} {value_text.too_far(mean, deviation)}")
    return standard


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
