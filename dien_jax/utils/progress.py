"""Shares of work that is done, passed to whoever shows them."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Called with the share of some work that is done, from 0 to 1."""


def unseen(_share: float) -> None:
    """Show no progress."""


def part_of_progress(progress: Progress, done: int, own: int, whole: int) -> Progress:
    """Return the progress of a part of some work.

    Args:
      progress: that of all work.
      done: units of work before the part.
      own: units of the part.
      whole: units of all work.

    >>> part_of_progress(print, 1, 2, 4)(0.5)
    0.5
    """
    return lambda share: progress((done + own * share) / whole)
