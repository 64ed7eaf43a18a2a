"""Who is trained on, who selects, who tests: splits of logs that never look ahead.

Events are grouped by sequence (one sequence a user), oldest first, and events of equal time keep
the log's order. An interaction example is one event, its target: the history is everything that
precedes it in its sequence, so an example is told by the index of its target alone. An event that
opens a sequence has no history and is no example.

Every split is decided per event, or per row of an impression log, as a side: 0 train, 1 valid,
2 test, in the order of ``SPLITS``. No history of a side holds an event of a later side: sides
never fall along a sequence, and a history ends before its target.

Dimensions: E events, S sequences, R rows of an impression log.
"""

from typing import NamedTuple

import numpy as np

from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import check_shares

TRAIN, VALID, TEST = range(3)
NO_SIDE = -1
"""Of a row that is no example."""


class Borders(NamedTuple):
    """The two times that cut a log.

    Attributes:
      valid: the first time of the validation split; everything earlier is training.
      test: the first time of the test split.
    """

    valid: int
    test: int


def user_sides(sequences: int, *, valid_share: float, test_share: float, seed: int) -> np.ndarray:
    """A side for each of ``sequences`` users, drawn at random: int8 ``[sequences]``.

    The two shares are of users, rounded to whole ones; the same seed draws the same users.

    Raises:
      UserError: for shares that :func:`check_shares` refuses.
    """
    check_shares(valid_share, test_share)
    valid, test = round(valid_share * sequences), round(test_share * sequences)
    order = np.random.default_rng((seed, 0)).permutation(sequences)
    sides = np.full(sequences, TRAIN, np.int8)
    sides[order[:valid]] = VALID
    sides[order[valid : valid + test]] = TEST
    return sides


def time_borders(timestamp: np.ndarray, *, valid_share: float, test_share: float) -> Borders:
    """The times that leave the last shares of all events to validation and test.

    Everything at the time of the border event lies on the later side, so that ties are never
    torn apart; with many ties the later sides come out larger than asked.

    Args:
      timestamp: int64 ``[E]``, in any order.
      valid_share: share of events for validation.
      test_share: share of events for the test.

    Raises:
      UserError: for shares that :func:`check_shares` refuses.
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


def check_borders(borders: Borders) -> None:
    """Refuse borders that leave no time between them.

    Raises:
      UserError: when the test border lies before the validation border.
    """
    if borders.test < borders.valid:
        raise UserError(
            f"--test-from must not lie before --valid-from, got {borders.test} < {borders.valid}"
        )


def time_sides(timestamp: np.ndarray, borders: Borders) -> np.ndarray:
    """The side of every time, before, between or from the borders on: int8 ``[E]``."""
    return np.searchsorted(np.asarray(borders), timestamp, side="right").astype(np.int8)


def request_starts(timestamp: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which rows open a request, the rows of one user and one time: bool ``[R]``.

    Args:
      timestamp: int64 ``[R]``, rising within each sequence.
      offsets: int64 ``[S + 1]``.
    """
    starts = np.zeros(len(timestamp), bool)
    starts[1:] = timestamp[1:] != timestamp[:-1]
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    return starts


def last_time_sides(timestamp: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Per sequence: its last time is test, the distinct time before it validation, the rest train.

    For impressions, where rows of equal time are one request: they stay together.

    Args:
      timestamp: int64 ``[R]``, rising within each sequence.
      offsets: int64 ``[S + 1]``.

    Returns:
      int8 ``[R]``.
    """
    rows = len(timestamp)
    if not rows:
        return np.zeros(0, np.int8)
    number = np.cumsum(request_starts(timestamp, offsets))
    last = number[np.maximum(offsets[1:] - 1, 0)]
    from_end = np.repeat(last, np.diff(offsets)) - number
    return np.maximum(TEST - from_end, TRAIN).astype(np.int8)


def _targets(sides: np.ndarray, example: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.flatnonzero(example & (sides == side)) for side, name in enumerate(SPLITS)}


def _has_history(offsets: np.ndarray) -> np.ndarray:
    """Whether an event has one before it in its sequence: bool ``[E]``."""
    example = np.ones(int(offsets[-1]), bool)
    example[offsets[:-1][np.diff(offsets) > 0]] = False
    return example


def by_user(
    offsets: np.ndarray, *, valid_share: float, test_share: float, seed: int
) -> dict[str, np.ndarray]:
    """Users are split, and the last event of each is its only example, as the authors had it.

    Users with one event have no example and are not counted in the shares.

    Args:
      offsets: int64 ``[S + 1]``.
      valid_share: share of users for validation.
      test_share: share of users for the test.
      seed: which users.

    Returns:
      for each split the target events, int64, rising.

    Raises:
      UserError: for shares that :func:`check_shares` refuses.
    """
    able = np.flatnonzero(np.diff(offsets) >= 2)
    sides = user_sides(len(able), valid_share=valid_share, test_share=test_share, seed=seed)
    last = offsets[able + 1] - 1
    return {name: last[sides == side] for side, name in enumerate(SPLITS)}


def last_event(offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Per user: the last event is test, the one before it validation, earlier ones training.

    A user with one event has no example, with two a test example, with three a validation and a
    test example, with more training examples too: every earlier event from the second on.

    Args:
      offsets: int64 ``[S + 1]``.

    Returns:
      for each split the target events, int64, rising.
    """
    events = int(offsets[-1])
    from_end = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(events)
    return _targets(np.maximum(TEST - from_end, TRAIN), _has_history(offsets))


def by_time(timestamp: np.ndarray, offsets: np.ndarray, borders: Borders) -> dict[str, np.ndarray]:
    """Every event from a user's second on is an example, in the split of its time.

    Events of one time lie on one side, so a history never reaches across a border from which its
    target is barred.

    Args:
      timestamp: int64 ``[E]``, rising within each sequence.
      offsets: int64 ``[S + 1]``.
      borders: from :func:`time_borders` or given.

    Returns:
      for each split the target events, int64, rising.
    """
    return _targets(time_sides(timestamp, borders), _has_history(offsets))


def sequence_of(events: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sequence that each event index lies in: int32, shaped like ``events``."""
    return (np.searchsorted(offsets, events, side="right") - 1).astype(np.int32)


def training_events(targets: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which events training sees, as a target or in a history: bool ``[E]``.

    Popularity, vocabularies and trained rows come from these alone.

    Args:
      targets: the target events of the training split.
      offsets: int64 ``[S + 1]``.
    """
    sequence = sequence_of(targets, offsets)
    is_last = np.diff(sequence, append=-1) != 0
    steps = np.zeros(int(offsets[-1]) + 1, np.int8)
    steps[offsets[sequence[is_last]]] += 1
    steps[targets[is_last] + 1] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).astype(bool)


def tied_targets(targets: np.ndarray, timestamp: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sequences in which a target ties with the event before it: int32, rising, each once.

    There only the log's own order says which of the two came last.
    """
    tied = timestamp[targets] == timestamp[targets - 1]
    return np.unique(sequence_of(targets[tied], offsets))


def click_histories(timestamp: np.ndarray, label: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where the history of each impression ends among the clicks: int64 ``[R]``.

    The clicks are the rows of label 1, in order. Row r sees the clicks of its sequence with a
    strictly smaller time, so a request's own click never enters a sibling's history.

    Args:
      timestamp: int64 ``[R]``, rising within each sequence.
      label: int8 ``[R]``, 0 or 1.
      offsets: int64 ``[S + 1]``.
    """
    clicks_before = np.cumsum(label, dtype=np.int64) - label
    request = np.flatnonzero(request_starts(timestamp, offsets))
    return np.repeat(clicks_before[request], np.diff(np.append(request, len(timestamp))))
