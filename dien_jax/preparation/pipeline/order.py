"""Checks of the order of events, which is meaningless in a sorted log or with duplicate rows.

If one of two items always comes first, the log was sorted by item, by accident or because its times
are too coarse. A model learns such an order, and metrics reward it although users did not choose
it. The same holds for a log with duplicate rows: the next item is the last one again.
"""

import numpy as np

from dien_jax.preparation.pipeline.splits import EventPart

MOST_EVENTS = 1 << 21  # number of events to check, from the first on
LEAST_PAIRS = 100  # fewest pairs of items, adjacent for several users, for a judgement
MIXED = 0.01  # least share of these pairs in both orders; logs of choices have .3 and more
MOST_COPIES = 0.05  # largest share of duplicates (same user, item and time) without a warning
SHUFFLE = "shuffle the rows, in pandas by log.sample(frac=1, random_state=0),"


class OrderCheck:
    """Counts orders of adjacent events, at the same and at different times, and duplicates."""

    def __init__(self) -> None:
        self._events = self._copies = 0
        self._neighbours = [np.zeros((3, 0), np.int64)]  # item, next item, same time

    def add(self, part: EventPart) -> None:
        """Count the events of a part."""
        if self._events < MOST_EVENTS:
            item, time, sequence = part.item.astype(np.int64), part.timestamp, part.sequence
            pair = np.flatnonzero((sequence[1:] == sequence[:-1]) & (item[1:] != item[:-1]))
            of_pair = item[pair], item[pair + 1], time[pair] == time[pair + 1]
            self._neighbours.append(np.stack(of_pair).astype(np.int64))
            self._events += len(item)
            self._copies += _copies(part)

    def warnings(self) -> list[str]:
        """Return warnings of duplicates, and of adjacent events that are sorted by item."""
        item, following, is_tie = np.concatenate(self._neighbours, axis=1)
        lines = []
        if self._copies > MOST_COPIES * self._events:
            problem = f"{self._copies:,} of {self._events:,} events repeat the user, item and time"
            remedy = "leave such rows out, in pandas by log.drop_duplicates()"
            lines.append(f"warning: {problem} of another; if users did not choose twice, {remedy}")
        for kind, where in ((" at one time", is_tie == 1), ("", is_tie == 0)):
            pairs, mixed = _orders(item[where], following[where])
            if pairs >= LEAST_PAIRS and mixed < MIXED * pairs:
                lines.append(
                    f"warning: the events of a user{kind} seem sorted by item: of {pairs:,} pairs "
                    f"of items that followed each other for several users, {mixed:,} did in both "
                    "orders. Models learn such an order, and metrics reward it; if users did not "
                    f"choose it, {SHUFFLE if kind else 'get times of the events'} first"
                )
        return lines


def _copies(part: EventPart) -> int:
    """Return the number of events with the user, item and time of an earlier one."""
    is_first = np.diff(part.timestamp, prepend=-1) != 0
    moment = np.cumsum(is_first | (np.diff(part.sequence, prepend=-1) != 0))
    keys = moment * (int(part.item.max(initial=0)) + 1) + part.item
    return len(keys) - len(np.unique(keys))


def _orders(item: np.ndarray, following: np.ndarray) -> tuple[int, int]:
    """Return the numbers of item pairs that occur twice or more, and of those in both orders."""
    less, more = np.minimum(item, following), np.maximum(item, following)
    keys = less * (more.max(initial=0) + 1) + more
    _, number, count = np.unique(keys, return_inverse=True, return_counts=True)
    rising = np.bincount(number, item < following, len(count))
    return int((count > 1).sum()), int(((rising > 0) & (rising < count)).sum())
