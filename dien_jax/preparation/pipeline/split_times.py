"""How a log writes its times, and the times at which it is cut."""

import numpy as np

from dien_jax.data.clock import Clock
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.pipeline import splits


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
