"""Splits of a log that never look ahead.

An example of an interaction log is one event, its target; its history is everything before it in
its sequence. A split assigns a side to every event, or to every row of an impression log. No
history of a side holds an event of a later side, because sides never fall along a sequence and a
history ends before its target.

Dimensions: n examples, E events, S sequences (one a user), R rows of an impression log.
``timestamp``, int64 ``[E]`` or ``[R]``, does not fall within a sequence; ``offsets``, int64
``[S + 1]``, are where the sequences begin. Targets are event indices by split, int64, rising.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dien_jax.preparation.options import LogOptions

EARLIER, TRAIN, VALID, TEST, NO_SIDE = range(-1, 4)
"""Sides; training has no example of ``EARLIER``, but its past; ``NO_SIDE`` is part of nothing."""


class Borders(NamedTuple):
    """The first times of the validation and the test split; everything earlier is training."""

    valid: int
    test: int


def borders_by_share(
    events: int,
    times_at: Callable[[list[int]], list[int]],
    *,
    valid_share: float,
    test_share: float,
) -> Borders:
    """Return the times that leave the last shares of all events to validation and test.

    All events at the time of a border belong to the later side: ties make it larger than asked.
    ``times_at`` returns the times of events by their places in the order of time.
    """
    valid = events - round((valid_share + test_share) * events)
    places = [place for place in (valid, events - round(test_share * events)) if place < events]
    *found, latest = times_at([*places, events - 1])
    return Borders(*found, *[latest + 1] * (2 - len(found)))


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


def user_sides(sequences: int, *, valid_share: float, test_share: float, seed: int) -> np.ndarray:
    """Draw a side for each user, int8 ``[sequences]``; the shares are rounded to whole users."""
    valid, test = round(valid_share * sequences), round(test_share * sequences)
    order = np.random.default_rng((seed, 0)).permutation(sequences)
    sides = np.full(sequences, TRAIN, np.int8)
    sides[order[:valid]] = VALID
    sides[order[valid : valid + test]] = TEST
    return sides


def time_sides(timestamp: np.ndarray, borders: Borders) -> np.ndarray:
    """Return the side of every time, before, between or from the borders on: int8 ``[E]``."""
    return np.searchsorted(np.asarray(borders), timestamp, side="right").astype(np.int8)


def last_time_sides(timestamp: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Hold out the last time of each sequence as test, and the time before it as valid.

    For impressions, int8 ``[R]``: rows of equal time are one request and stay together.
    """
    number = np.cumsum(request_starts(timestamp, offsets))
    from_end = np.repeat(number[offsets[1:] - 1], np.diff(offsets)) - number
    return np.maximum(TEST - from_end, TRAIN).astype(np.int8)


def request_starts(timestamp: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mark the first row of each request, the rows of one user and one time: bool ``[R]``."""
    starts = np.zeros(len(timestamp), bool)
    starts[1:] = timestamp[1:] != timestamp[:-1]
    starts[_first_events(offsets)] = True
    return starts


def click_histories(timestamp: np.ndarray, label: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return where the history of each impression ends among the clicks: int64 ``[R]``.

    A row sees the clicks (rows of label 1) of its sequence with a strictly smaller time, so a click
    never enters the history of another row of its request.
    """
    clicks_before = np.cumsum(label, dtype=np.int64) - label
    request = np.flatnonzero(request_starts(timestamp, offsets))
    return np.repeat(clicks_before[request], np.diff(np.append(request, len(timestamp))))


def sides_of_able_users(
    offsets: np.ndarray, *, valid_share: float, test_share: float, seed: int
) -> np.ndarray:
    """Draw a side for each user, int8 ``[S]``; ``NO_SIDE`` for one with a single event.

    Such users have no example and do not count in the shares.
    """
    able = np.diff(offsets) >= 2
    sides = np.full(len(offsets) - 1, NO_SIDE, np.int8)
    count = int(np.count_nonzero(able))
    sides[able] = user_sides(count, valid_share=valid_share, test_share=test_share, seed=seed)
    return sides


def by_user(offsets: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Split users: every event of training users from the second on, the last one of the others.

    ``sides``, int8 ``[S]``, comes from :func:`sides_of_able_users`. Returns int8 ``[E]``.
    """
    of_event = np.repeat(np.where(sides == TRAIN, TRAIN, NO_SIDE), np.diff(offsets))
    is_held_out = (sides == VALID) | (sides == TEST)
    of_event[offsets[1:][is_held_out] - 1] = sides[is_held_out]
    return _with_history(of_event, offsets)


def last_event(offsets: np.ndarray) -> np.ndarray:
    """Hold out the last event of each user as test, and the one before it as valid.

    Every earlier event from the second on is a training example. Returns int8 ``[E]``.
    """
    from_end = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(int(offsets[-1]))
    return _with_history(np.maximum(TEST - from_end, TRAIN), offsets)


def by_time(timestamp: np.ndarray, offsets: np.ndarray, borders: Borders) -> np.ndarray:
    """Put every event from a user's second on into the split of its time: int8 ``[E]``."""
    return _with_history(time_sides(timestamp, borders), offsets)


def latest(targets: np.ndarray, offsets: np.ndarray, most: int) -> np.ndarray:
    """Return the latest ``most`` targets of each sequence; ``targets`` rise."""
    sequence = sequence_of(targets, offsets)
    end = np.searchsorted(sequence, sequence, side="right")
    return targets[end - np.arange(len(targets)) <= most]


def sequence_of(events: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the sequence of each event index: int32, shaped like ``events``."""
    return (np.searchsorted(offsets, events, side="right") - 1).astype(np.int32)


def training_events(is_target: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mark the events that training sees, as a target or in a history: bool ``[E]``."""
    targets = np.flatnonzero(is_target)
    sequence = sequence_of(targets, offsets)
    is_last = np.diff(sequence, append=-1) != 0
    steps = np.zeros(int(offsets[-1]) + 1, np.int8)
    steps[offsets[sequence[is_last]]] += 1
    steps[targets[is_last] + 1] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).astype(bool)


def _first_events(offsets: np.ndarray) -> np.ndarray:
    return offsets[:-1][np.diff(offsets) > 0]


def _with_history(sides: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Take the side of events that have no event before them in their sequence."""
    sides = sides.astype(np.int8)
    sides[_first_events(offsets)] = NO_SIDE
    return sides
