"""Form and unit of the times of a log."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from dien_jax.errors import UserError

END_OF_9999 = 253402300799  # the last second of the year 9999, since 1970
LIKELY_MILLISECONDS = 10**11
"""Whole-number times are milliseconds when most of them are larger. As seconds this would be after
the year 5138; as milliseconds it is after March 1973."""


class Clock(NamedTuple):
    """Form of the timestamps of a log."""

    iso: bool  # whether they are ISO dates rather than whole numbers
    unit: str  # "seconds" or "milliseconds"; ISO dates become milliseconds

    @property
    def limit(self) -> int:
        """The largest valid time, in the unit of the clock."""
        return END_OF_9999 if self.unit == "seconds" else END_OF_9999 * 1000 + 999

    def read(self, flag: str, text: str) -> int:
        """Parse a time of the command line: a whole number as in the log, or an ISO date in UTC."""
        if re.fullmatch(r"\d+", text):
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            expected = "a whole number or an ISO date"
            raise UserError(f"{flag} must be {expected}, got {text!r}") from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * (1 if self.unit == "seconds" else 1000))
