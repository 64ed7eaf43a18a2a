"""How a log writes its times, and the times at which it is cut."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from dien_jax.errors import UserError
from dien_jax.prepare import splits
from dien_jax.prepare.options import LogOptions

END_OF_9999 = 253402300799
"""The last second of the year 9999, since 1970."""
LIKELY_MILLISECONDS = 10**11
"""Whole-number times are taken for milliseconds when most of them are larger: as seconds that
would be after the year 5138, as milliseconds it is after March 1973."""


class Clock(NamedTuple):
    """How the timestamps of a log are written.

    Attributes:
      iso: ISO dates rather than whole numbers.
      unit: ``seconds`` or ``milliseconds``; ISO dates become milliseconds.
    """

    iso: bool
    unit: str

    @property
    def limit(self) -> int:
        """The largest time that is believed."""
        return END_OF_9999 if self.unit == "seconds" else END_OF_9999 * 1000 + 999

    def read(self, flag: str, text: str) -> int:
        """A time from the command line: a whole number as in the log, or an ISO date in UTC.

        Raises:
          UserError: when it is neither.
        """
        if re.fullmatch(r"\d+", text):
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise UserError(
                f"{flag} must be a whole number or an ISO date, got {text!r}"
            ) from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * (1 if self.unit == "seconds" else 1000))


def time_borders(options: LogOptions, timestamp: np.ndarray, clock: Clock) -> splits.Borders:
    """The borders of a by-time split, given or from the shares.

    Raises:
      UserError: when a given time cannot be read, or test would come before validation.
    """
    if options.valid_from is None or options.test_from is None:
        return splits.time_borders(
            timestamp, valid_share=options.valid_share, test_share=options.test_share
        )
    borders = splits.Borders(
        clock.read("--valid-from", options.valid_from), clock.read("--test-from", options.test_from)
    )
    splits.check_borders(borders)
    return borders


def train_from(options: LogOptions, borders: splits.Borders, clock: Clock) -> int | None:
    """When training examples start; None where nothing says so.

    Raises:
      UserError: when the time cannot be read, or does not lie before validation.
    """
    if options.train_from is None:
        return None
    begin = clock.read("--train-from", options.train_from)
    if begin >= borders.valid:
        raise UserError(
            f"--train-from must lie before validation, which starts at {borders.valid}, got {begin}"
        )
    return begin
