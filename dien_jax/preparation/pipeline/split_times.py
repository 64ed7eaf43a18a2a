"""Times at which a log is cut into training, validation and test."""

from typing import Any, NamedTuple

from dien_jax.data.clock import Clock
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogOptions, check_shares
from dien_jax.preparation.reading.array_files import ArrayFile, kth_smallest


class Borders(NamedTuple):
    """The first times of the validation and the test split; everything earlier is training."""

    valid: int
    test: int


def resolve_times(
    options: LogOptions, timestamp: ArrayFile, clock: Clock
) -> tuple[Borders, int | None]:
    """Return the borders of a by-time split, and when training examples start, if that is given."""
    (earliest,) = kth_smallest(timestamp, [0])
    if options.valid_from is None or options.test_from is None:
        borders = borders_by_share(timestamp, **options.shares)
    else:
        valid = clock.read("--valid-from", options.valid_from, earliest)
        test = clock.read("--test-from", options.test_from, earliest)
        if test < valid:
            raise UserError(f"--test-from must not be before --valid-from, got {test} < {valid}")
        borders = Borders(valid, test)
    if options.train_from is None:
        return borders, None
    begin = clock.read("--train-from", options.train_from, earliest)
    if begin >= borders.valid:
        limit = f"which starts at {borders.valid}, got {begin}"
        raise UserError(f"--train-from must be before validation, {limit}")
    return borders, begin


def borders_by_share(timestamp: ArrayFile, *, valid_share: float, test_share: float) -> Borders:
    """Return the times that leave the last shares of all events to validation and test.

    All events at the time of a border belong to the later side: ties make it larger than asked.
    """
    check_shares(valid_share, test_share)
    events = len(timestamp)
    if not events:
        return Borders(0, 0)
    test = events - round(test_share * events)
    valid = events - round((valid_share + test_share) * events)
    inside = [position for position in (valid, test) if position < events]
    *found, latest = kth_smallest(timestamp, [*inside, events - 1])
    ends = [latest + 1] * (2 - len(inside))
    return Borders(*found, *ends)


def split_metadata(
    options: LogOptions, borders: Borders | None = None, begin: int | None = None
) -> dict[str, Any]:
    """Return the description of the split for ``meta.json``."""
    split: dict[str, Any] = {"policy": options.split, "seed": options.seed}
    if options.split == "by-user":
        split |= options.shares
    if borders is not None:
        split |= {"valid_from": borders.valid, "test_from": borders.test}
    if begin is not None:
        split["train_from"] = begin
    return split
