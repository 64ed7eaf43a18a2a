"""Times at which a log is cut into training, validation and test."""

from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.clock import Clock
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogOptions, check_shares


class Borders(NamedTuple):
    """The two times that cut a log."""

    valid: int  # the first time of the validation split; everything earlier is training
    test: int  # the first time of the test split


def resolve_times(
    options: LogOptions, timestamp: np.ndarray, clock: Clock
) -> tuple[Borders, int | None]:
    """Return the borders of a by-time split, and when training examples start, if that is given.

    Times that cannot be read or are out of order are a ``UserError``.
    """
    if options.valid_from is None or options.test_from is None:
        shares = {"valid_share": options.valid_share, "test_share": options.test_share}
        borders = borders_by_share(timestamp, **shares)
    else:
        valid = clock.read("--valid-from", options.valid_from)
        test = clock.read("--test-from", options.test_from)
        if test < valid:
            raise UserError(f"--test-from must not lie before --valid-from, got {test} < {valid}")
        borders = Borders(valid, test)
    if options.train_from is None:
        return borders, None
    begin = clock.read("--train-from", options.train_from)
    if begin >= borders.valid:
        raise UserError(
            f"--train-from must lie before validation, which starts at {borders.valid}, got {begin}"
        )
    return borders, begin


def borders_by_share(timestamp: np.ndarray, *, valid_share: float, test_share: float) -> Borders:
    """Return the times that leave the last shares of all events to validation and test.

    All events at the time of the border belong to the later side, so ties are never torn apart.
    With many ties the later sides come out larger than asked.
    """
    check_shares(valid_share, test_share)
    events = len(timestamp)
    if not events:
        return Borders(0, 0)
    test = events - round(test_share * events)
    valid = events - round((valid_share + test_share) * events)
    inside = [position for position in (valid, test) if position < events]
    ordered = np.partition(timestamp, inside) if inside else timestamp
    end = int(timestamp.max()) + 1
    return Borders(
        int(ordered[valid]) if valid < events else end,
        int(ordered[test]) if test < events else end,
    )


def split_metadata(
    options: LogOptions, borders: Borders | None = None, begin: int | None = None
) -> dict[str, Any]:
    """Return the description of the split for ``meta.json``."""
    split: dict[str, Any] = {"policy": options.split, "seed": options.seed}
    if options.split == "by-user":
        split |= {"valid_share": options.valid_share, "test_share": options.test_share}
    if borders is not None:
        split |= {"valid_from": borders.valid, "test_from": borders.test}
    if begin is not None:
        split["train_from"] = begin
    return split
