"""Conversion of typed columns to the text that a CSV file would have, and times in that text.

Vocabularies hold text, so ``prepare`` and ranking convert the values of all files by the rules of
this module. Types that programs write to CSV in different ways, such as 3.0 or 3 and True or 1,
have no reliable text, and are refused:

    column                       ids, categories  lists of values  numbers    times
    text                         the text         split            parsed     parsed
    integer, decimal of scale 0  digits           one value        digits     digits
    date                         2024-01-31       one value        refused    ISO date
    float, other decimal         refused          refused          shortest   if whole
    boolean                      refused          refused          1 or 0     refused
    timestamp                    refused          refused          refused    ISO date in UTC
    list of the first three      refused          its values       refused    refused

Dictionary-encoded columns are read like their values; a column of nulls has missing values. All
other types are refused: binary, time, duration, struct, map, lists of lists, extension types.
"""

import datetime
import math
import numbers
import re
from collections.abc import Mapping, Set, Sized
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dien_jax.errors import UserError, failing

if TYPE_CHECKING:
    import pyarrow as pa

Use = Literal["categorical", "multivalued", "numeric", "vector", "time"]  # ids are categorical

_EXPECTED: dict[Use, str] = {
    "categorical": "text, whole numbers or dates",
    "multivalued": "text, whole numbers, dates or lists of these",
    "numeric": "numbers or text",
    "vector": "lists of numbers",
    "time": "whole numbers, timestamps, dates or text",
}
SEPARATOR = "|"  # default separator of the values of a multi-valued cell
INTEGERS_OF_FLOATS = 2.0**63  # floats below it fit an int64
LARGEST_NUMBER = 3.4028234663852886e38  # of float32
END_OF_9999 = 253402300799  # the last second of the year 9999, since 1970
# Whole-number times are milliseconds when most of them are larger. As seconds this would be after
# the year 5138; as milliseconds it is after March 1973.
LIKELY_MILLISECONDS = 10**11
TIME_UNIT = "time_unit"  # entry of source in meta.json
DATE_NUMBER = (
    "(19|20|21)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
    "(([01][0-9]|2[0-3])([0-5][0-9]){1,2})?"
)
"""Digits of a date without hyphens, 20130201 or 201302011230, which are neither seconds nor
milliseconds."""
LATEST_DATE_NUMBER = 21991231
ISO_DATE = (  # dates that all engines read alike
    "([0-9]{4,6})-([0-9]{1,2})-([0-9]{1,2})"
    "(?:[ T]([01]?[0-9]|2[0-3]):([0-9]{1,2})(?::([0-9]{1,2})(?:[.]([0-9]*))?)?"
    "( UTC|Z|[+-](?:0[0-9]|1[0-4])(?::?[0-9]{2})?)?)?"
)
LARGEST_WHOLE_TIME = 1e18
SPACE = " \t\n\r\v\f"  # characters that are stripped from numbers and from values of a list
NUMBER = "(?i:[+-]?(?:(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan))"
"""Numbers as DuckDB reads them."""
BEYOND_FLOAT32 = "is beyond the range of float32, 3.4e38 at most"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
SHOWN = 40  # characters shown of a text that is not a time


def as_text(value: Any) -> str:
    """Return text, a whole number or a date as text, a missing value as ""; refuse other values."""
    if isinstance(value, str):
        return str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas
        return ""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return digits_of(int(value))
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    if hasattr(value, "as_py"):  # a scalar of Arrow
        return as_text(value.as_py())
    kind = type(value).__name__
    shown = f"{value!r:.40} of type {kind}"
    raise UserError(f"ids and categories must be {_EXPECTED['categorical']}, got {shown}")


def as_list(name: str, ids: Any) -> list[Any]:
    """Return ids of a list, a tuple, an array or a series; ``UserError`` for a set or a table."""
    is_row = isinstance(ids, Sized) and hasattr(ids, "__getitem__") and getattr(ids, "ndim", 1) == 1
    is_row = is_row and bool(getattr(ids, "is_valid", True))  # False of a missing list of Arrow
    if not is_row or isinstance(ids, str | bytes | bytearray | Mapping | Set):
        kind = f"the text {ids[:40]!r}" if isinstance(ids, str) else f"{type(ids).__name__} {ids!r}"
        hint = "; give the user's items, from the oldest on" if name == "history" else ""
        raise UserError(f"{name} must be a list of ids, got {' '.join(kind.split())[:60]}{hint}")
    return list(ids)


def digits_of(value: int) -> str:
    """Return the digits of a whole number; Python refuses numbers with thousands of digits."""
    try:
        return str(int(value))  # of True: 1
    except ValueError:
        raise UserError("a whole number has too many digits") from None


def check_type(where: str, kind: "pa.DataType", use: Use) -> None:
    """Refuse a column type that cannot be read for a use.

    ``where`` names the column in the message, such as ``log.parquet: column 'user' (--user)``.
    """
    if not _is_readable(kind, use):
        expected = f"must hold {_EXPECTED[use]}, found {kind}"
        advice = "convert the column to one of these"
        if use == "categorical" and _is_readable(kind, "numeric"):
            advice += ", in pandas by astype('Int64'); a feature of numbers is NAME:numeric"
        elif use == "categorical" and _is_readable(kind, "multivalued"):
            advice += "; a feature of lists is NAME:multivalued"
        raise UserError(f"{where} {expected}; {advice}")


def _is_readable(kind: "pa.DataType", use: Use) -> bool:
    import pyarrow.types as of

    if of.is_dictionary(kind):
        return _is_readable(kind.value_type, use)
    is_text = of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)
    is_whole = of.is_integer(kind) or (of.is_decimal(kind) and kind.scale == 0)
    if is_text or is_whole or of.is_null(kind):
        return True
    if of.is_date(kind):
        return use != "numeric"
    if of.is_floating(kind) or of.is_decimal(kind):
        return use in ("numeric", "time")
    if of.is_boolean(kind):
        return use == "numeric"
    if of.is_timestamp(kind):
        return use == "time"
    of_list: dict[Use, Use] = {"multivalued": "categorical", "vector": "numeric"}
    return _is_list(kind) and use in of_list and _is_readable(kind.value_type, of_list[use])


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow.types as of

    return of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind)


def column_text(where: str, values: "pa.Array", use: Use) -> "pa.Array":
    """Return the values of a column as text; of a column of lists, lists of text.

    Missing values are null. A type that cannot be read for the use, text that is not UTF-8 and
    times beyond the range of milliseconds are a ``UserError`` that begins with ``where``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    check_type(where, values.type, use)
    with failing(f"{where} cannot be read"):
        values.validate(full=True)
        values = _decoded(values)
        if not _is_list(values.type):
            return _plain_text(values, use)
        lengths = pc.fill_null(pc.list_value_length(values), 0)
        ends = pc.cumulative_sum(lengths.cast(pa.int64()))
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
        texts = _plain_text(_decoded(values.flatten()), "categorical").cast(pa.large_string())
        return pa.LargeListArray.from_arrays(offsets, texts)


def _decoded(values: "pa.Array") -> "pa.Array":
    """Return the values of a dictionary-encoded array, and other arrays as they are."""
    import pyarrow.types as of

    if not of.is_dictionary(values.type):
        return values
    known = values.dictionary
    if of.is_string_view(known.type):  # a Categorical of Polars; Arrow cannot take from it
        known = known.cast("string")
    return known.take(values.indices)


def _plain_text(values: "pa.Array", use: Use) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as of

    kind = values.type
    if of.is_boolean(kind):
        values = values.cast(pa.int8())
    elif of.is_timestamp(kind):
        moments = values.cast(pa.timestamp("ms", kind.tz), safe=kind.unit == "s")
        values = moments.cast(pa.int64()).cast(pa.timestamp("ms"))
    elif of.is_floating(kind):
        values = pc.if_else(pc.is_nan(values.cast(pa.float64())), pa.scalar(None, kind), values)
        if use == "time":
            values = values.cast(pa.float64())
            is_whole = pc.equal(values, pc.floor(values))
            fits = pc.and_(is_whole, pc.less(pc.abs(values), INTEGERS_OF_FLOATS))
            whole = pc.if_else(fits, values, pa.scalar(None, pa.float64())).cast(pa.int64())
            return pc.coalesce(whole.cast(pa.string()), values.cast(pa.string()))
    return values.cast(pa.string())


def joined(where: str, values: "pa.Array", separator: str) -> "pa.Array":
    """Join the values of lists of text; a value that contains the separator is a ``UserError``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inner = values.flatten()
    holding = inner.filter(pc.fill_null(pc.match_substring(inner, separator), False))
    if len(holding):
        raise holds_separator(where, holding[0].as_py(), separator)
    filled = type(values).from_arrays(values.offsets, pc.fill_null(inner, ""))
    return pc.binary_join(filled, pa.scalar(separator, pa.large_string()))


def holds_separator(where: str, value: str, separator: str) -> UserError:
    """Return the error about a list with a value that contains the separator."""
    shown = f"{value!r:.60}, which holds the separator {separator!r}"
    return UserError(f"{where}: a list has the value {shown}; choose another --separator")


class Clock(NamedTuple):
    """Form of the timestamps of a log."""

    iso: bool  # whether they are ISO dates rather than whole numbers
    unit: str  # "seconds" or "milliseconds"; ISO dates become milliseconds

    @property
    def limit(self) -> int:
        """The largest valid time, in the unit of the clock."""
        return END_OF_9999 if self.unit == "seconds" else END_OF_9999 * 1000 + 999

    def read(self, flag: str, text: str, earliest: int = 0) -> int:
        """Parse a time: a whole number in the unit of the clock, or an ISO date.

        Dates without an offset are in UTC, and fractions of the unit are dropped. Other forms are a
        ``UserError`` that begins with ``flag``. So is a number that, compared with the ``earliest``
        time of the log, seems to be in another unit.
        """
        number = whole_number(text)
        if number is not None:
            self._check_unit(flag, number, earliest)
            return number
        try:
            return (_moment(text) - EPOCH) // datetime.timedelta(**{self.unit: 1})
        except (ValueError, OverflowError) as error:
            expected = "a whole number or an ISO date"
            raise UserError(f"{flag} must be {expected}, got {text[:SHOWN]!r}") from error

    def date(self, time: int) -> str:
        """Return a time as a date in UTC.

        >>> Clock(False, "milliseconds").date(1700000001250)
        '2023-11-14 22:13:21'
        """
        seconds = min(time // {"seconds": 1, "milliseconds": 1000}[self.unit], END_OF_9999)
        return str((EPOCH + datetime.timedelta(seconds=seconds)).replace(tzinfo=None))

    def _check_unit(self, flag: str, number: int, earliest: int) -> None:
        unit = None
        if re.fullmatch(DATE_NUMBER, str(number)) and earliest > LATEST_DATE_NUMBER:
            unit = "a date without hyphens"
        elif self.unit == "seconds" and LIKELY_MILLISECONDS < number <= 1000 * self.limit:
            unit = "milliseconds"
        elif self.unit == "milliseconds" and number <= LIKELY_MILLISECONDS < earliest:
            unit = "seconds"
        if unit is not None:
            raise UserError(f"{flag} looks like {unit}, got {number}; the log has {self.unit}")


def _moment(text: str) -> datetime.datetime:
    """Return the moment of an ISO date, as preparation reads it; ``ValueError`` without one."""
    if (match := re.fullmatch(ISO_DATE, text)) is None:
        raise ValueError("not an ISO date")
    *parts, fraction, zone = match.groups(default="")
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    if zone[:1] in ("+", "-"):
        east = datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].strip(":") or 0))
        moment = moment - east if zone[0] == "+" else moment + east
    return moment + datetime.timedelta(microseconds=round(float(f"0.{fraction}") * 1e6))


def number_of(text: str) -> float | None:
    """Parse a number as in a log, NaN included; return None for other text.

    >>> number_of(" 1e3 "), number_of("1_000")  # Python takes both
    (1000.0, None)
    """
    text = text.strip(SPACE)
    return float(text) if text.isascii() and re.fullmatch(NUMBER, text) else None


def too_far(mean: float, deviation: float) -> str:
    """Return the end of the message about a number that exceeds float32 when standardised."""
    spread = f"mean {mean:g} and deviation {deviation:g} in training"
    return f"is too far from the other numbers ({spread}); correct or remove it"


def whole_number(text: str) -> int | None:
    """Parse a whole number, such as 7 or 7.0; return None for other text."""
    if re.fullmatch("[0-9]{1,18}", text):  # exact, where float64 is not
        return int(text)
    number = number_of(text)
    if number is None or not number.is_integer() or abs(number) >= LARGEST_WHOLE_TIME:
        return None
    return int(number)
