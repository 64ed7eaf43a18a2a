"""Raw ids and values as rows of a dataset's vocabularies, read as the logs were.

An id that has no row is the unknown one's, 0, and is counted.
"""

import datetime
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dien_jax.data.dataset import Column
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import UserError, suggestion

SEPARATOR = "|"
"""Between the values of a multi-valued cell, as in ``dien_jax.prepare``."""
LARGEST_NUMBER = float(np.finfo(np.float32).max)


@runtime_checkable
class RawValues(Protocol):
    """What raw values are read by: a dataset folder, or a file that holds as much of one."""

    @property
    def schema(self) -> Schema:
        """The features."""

    def vocabulary(self, feature: str) -> list[str]:
        """Raw values of a categorical or multi-valued feature; entry k is that of row k."""


class Vocabularies:
    """The rows of raw ids and values.

    Attributes:
      items: raw item ids; entry k is that of row k.
      context: the context features.

    Args:
      values: whose vocabularies are read, once.
      separator: between the values of a multi-valued feature, where it comes as one text.
    """

    def __init__(self, values: RawValues, separator: str = SEPARATOR) -> None:
        self._separator = separator
        self.items = values.vocabulary("item")
        self.context = values.schema.context
        self._item_rows = _rows(self.items)
        self._user_rows = _rows(values.vocabulary("user"))
        self._context_rows = {
            feature.name: _rows(values.vocabulary(feature.name))
            for feature in self.context
            if feature.size is not None
        }

    def item_rows(self, ids: Iterable[Any]) -> np.ndarray:
        """Rows of raw item ids, int32 ``[n]``."""
        return np.array([self._item_rows.get(as_text(raw), UNKNOWN) for raw in ids], np.int32)

    def user_row(self, raw: Any) -> int:
        """Row of a raw user id; that of the unknown user for None."""
        return self._user_rows.get(as_text(raw), UNKNOWN)

    def split(self, value: Any) -> list[str]:
        """The values of a list, or of a text that separates them; empty ones are left out."""
        if value is None:
            return []
        parts = value.split(self._separator) if isinstance(value, str) else map(as_text, value)
        return [stripped for part in parts if (stripped := part.strip())]

    def encode(self, feature: Feature, cells: Iterable[Any]) -> tuple[Column, int]:
        """A context feature's values over some rows, and how many of them were unknown.

        Args:
          feature: of the schema.
          cells: one a row; None or an empty text is a missing value: the unknown row, no values,
            or the training rows' mean.

        Raises:
          UserError: for what is not a number in a numeric feature; the message starts with what
            was found.
        """
        if feature.kind == "numeric":
            return Column(
                np.array([_standard(feature, cell) for cell in cells], np.float32), None
            ), 0
        rows = self._context_rows[feature.name]
        if feature.kind == "categorical":
            texts = [as_text(cell) for cell in cells]
            found = np.array([rows.get(text, UNKNOWN) for text in texts], np.int32)
            return Column(found, None), sum(map(bool, texts)) - int(np.count_nonzero(found))
        values: list[int] = []
        offsets, unknown = [0], 0
        for cell in cells:
            of_cell = [rows.get(text, UNKNOWN) for text in self.split(cell)]
            unknown += of_cell.count(UNKNOWN)
            values += list(dict.fromkeys(of_cell))[: feature.max_values]
            offsets.append(len(values))
        return Column(np.array(values, np.int32), np.array(offsets, np.int64)), unknown

    def context_columns(self, values: Mapping[str, Any]) -> tuple[dict[str, Column], int]:
        """The context of one request, by the names of its features, and its unknown values.

        Raises:
          UserError: when a feature is missing or does not exist, or a number is none.
        """
        names = [feature.name for feature in self.context]
        for name in values:
            if name not in names:
                raise UserError(
                    f"context has no feature {name!r}{suggestion(name, names)} "
                    f"(features: {', '.join(names) or 'none'})"
                )
        columns, unknown = {}, 0
        for feature in self.context:
            if feature.name not in values:
                raise UserError(
                    f"context: expected a value of {feature.name!r} (None where it is missing); "
                    f"its features are {', '.join(names)}"
                )
            try:
                columns[feature.name], count = self.encode(feature, [values[feature.name]])
            except UserError as error:
                raise UserError(f"context {feature.name!r}: {error}") from error
            unknown += count
        return columns, unknown


def as_text(value: Any) -> str:
    """A value as a log has it in text: nothing for None, 1 and 0 for booleans."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, datetime.date):  # a datetime too
        return value.isoformat()
    return str(value)


def _rows(vocabulary: list[str]) -> dict[str, int]:
    return {raw: row for row, raw in enumerate(vocabulary) if row != UNKNOWN}


def _standard(feature: Feature, cell: Any) -> float:
    """A number less the mean, by the deviation; 0 where it is missing."""
    assert feature.mean is not None
    assert feature.deviation is not None
    text = as_text(cell)
    if not text or text.lower() == "nan":
        return 0.0
    try:
        number = float("_" if "_" in text else text)  # Python would take 1_000 for a number
    except ValueError:
        raise UserError(f"{text[:40]!r} is not a number") from None
    if abs(number) > LARGEST_NUMBER:
        raise UserError(f"{text[:40]!r} is too large a number")
    return (number - feature.mean) / feature.deviation
