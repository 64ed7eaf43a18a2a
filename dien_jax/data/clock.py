"""Form and unit of the times of a log."""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from dien_jax.errors import UserError

END_OF_9999 = 253402300799  # the last second of the year 9999, since 1970
LIKELY_MILLISECONDS = 10**11
"""Whole-number times are milliseconds when most of them are larger. As seconds this would be after
the year 5138; as milliseconds it is after March 1973."""

TIME_UNIT = "time_unit"  # entry of source in meta.json
DATE_NUMBER = (
    "(19|20|21)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
    "(([01][0-9]|2[0-3])([0-5][0-9]){1,2})?"
)
"""Digits of a date without hyphens, 20130201 or 201302011230, which are neither seconds nor
milliseconds."""
LATEST_DATE_NUMBER = 21991231
LARGEST_FLOAT_TIME = 1e18
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHOWN = 40  # characters shown of a text that is no time


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

        Dates without an offset are in UTC, and fractions of the unit are dropped.

        Args:
          flag: start of error messages.
          text: the time.
          earliest: first time of the log, with which numbers are compared.

        Raises:
          UserError: for another form, and for a number that looks like a time in another unit.
        """
        number = whole_number(text)
        if number is not None:
            self._check_unit(flag, number, earliest)
            return number
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            expected = "a whole number or an ISO date"
            raise UserError(f"{flag} must be {expected}, got {text[:SHOWN]!r}") from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        unit = timedelta(seconds=1) if self.unit == "seconds" else timedelta(milliseconds=1)
        return (moment - EPOCH) // unit

    def date(self, time: int) -> str:
        """Return a time in words, in UTC.

        >>> Clock(False, "milliseconds").date(1700000001250)
        '2023-11-14 22:13:21'
        """
        seconds = min(time // {"seconds": 1, "milliseconds": 1000}[self.unit], END_OF_9999)
        return str((EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None))

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


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is, as in 7 or 7.0; None for another text."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    try:
        # Python accepts 1_000 and digits of other scripts, which no log may have.
        number = float(text if text.isascii() and "_" not in text else "_")
    except ValueError:
        return None
    return int(number) if number.is_integer() and abs(number) < LARGEST_FLOAT_TIME else None
