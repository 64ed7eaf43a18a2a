"""Splits of a log that never look ahead, and rules without a model on the held-out examples.

An example of an interaction log is one event, its target; its history is everything before it in
its sequence. A split assigns a side to every event, or to every row of an impression log. No
history of a side holds an event of a later side, because sides never fall along a sequence and a
history ends before its target.

A data set on which "the candidate is in the history" ranks well, or on which unknown items tell
clicks from the rest, says little about a model: lines for the user say so.

Dimensions: n examples, E events, S sequences (one a user), R rows of an impression log.
``timestamp``, int64 ``[E]`` or ``[R]``, does not fall within a sequence; ``offsets``, int64
``[S + 1]``, are where the sequences begin. Targets are event indices by split, int64, rising.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.pipeline.target_negatives import EarlierItems

EARLIER, TRAIN, VALID, TEST, NO_SIDE = range(-1, 4)
"""Sides; training has no example of ``EARLIER``, but its past; ``NO_SIDE`` is part of nothing."""
LARGE = 0.02  # difference of the unknown shares of positives and negatives that is worth a sentence
RETURNING = 0.55  # AUC of "the candidate is in the history" above which that is worth a sentence


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


class RuleCounts:
    """Counts of the examples of a split by label, int64 ``[2]`` each.

    Attributes:
      examples: all of them.
      repeated: those whose history has the candidate.
      unknown: those whose candidate is unknown in training.
    """

    def __init__(self) -> None:
        self.examples, self.repeated, self.unknown = np.zeros((3, 2), np.int64)

    def add(self, label: np.ndarray, row: np.ndarray, in_history: np.ndarray) -> None:
        """Count examples.

        Args:
          label: int ``[n]``.
          row: int32 ``[n]``, row of the item.
          in_history: bool ``[n]``, whether the history has the item.
        """
        self.examples += np.bincount(label, minlength=2)
        self.repeated += np.bincount(label[in_history], minlength=2)
        self.unknown += np.bincount(label[row == UNKNOWN], minlength=2)

    def auc(self, first: np.ndarray) -> float | None:
        """Return the AUC of ranking some examples first, whose counts by label are given.

        None without examples of both labels.

        >>> counts = RuleCounts()
        >>> counts.add(np.array([0, 0, 1, 1]), np.ones(4), np.array([False, False, False, True]))
        >>> counts.auc(counts.repeated)
        0.75
        """
        if not self.examples.all():
            return None
        negatives, positives = first / self.examples
        return float(1 + positives - negatives) / 2


def in_history(
    sequence: np.ndarray,
    end: np.ndarray,
    item: np.ndarray,
    event_item: np.ndarray,
    offsets: np.ndarray,
    chunk: int = 1 << 18,
) -> np.ndarray:
    """Tell for each example whether its history has its candidate: bool ``[n]``.

    ``sequence``, ``end`` and ``item``, ``[n]``, are the sequence of each example, the event before
    which its history ends, and its candidate. ``event_item`` and ``offsets`` hold the sequences.
    ``chunk`` examples are processed at a time.
    """
    num_items = 1 + int(max(item.max(initial=0), event_item.max(initial=0)))
    contained = np.zeros(len(item), bool)
    for start in range(0, len(item), chunk):
        part = slice(start, start + chunk)
        earlier = EarlierItems(sequence[part], event_item, offsets, num_items)
        contained[part] = earlier.contain(np.arange(len(item[part])), item[part], end[part])
    return contained


def describe_baselines(
    splits: Mapping[str, RuleCounts], *, no_own_negatives: bool = False
) -> list[str]:
    """Return lines about candidates that are in the history, and about those that training lacks.

    Args:
      splits: the held-out splits by name. Those without an example are left out.
      no_own_negatives: whether what a user had chosen before was never drawn.
    """
    splits = {name: counts for name, counts in splits.items() if counts.examples.any()}
    if not splits:
        return []
    areas = {name: counts.auc(counts.repeated) for name, counts in splits.items()}
    shown = {name: "undefined" if area is None else f"{area:.4f}" for name, area in areas.items()}
    by_split = ", ".join(f"{area} on {name}" for name, area in shown.items())
    returns = ""
    if no_own_negatives and any(area and area > RETURNING for area in areas.values()):
        returns = (
            "; users return to items, and no negative is in the history, so a model learns to rank "
            "what is in it first; --allow-own-negatives draws negatives there too"
        )
    return [
        f'AUC of the rule "the candidate is in the history": {by_split}{returns}',
        *map(_describe_unknown, splits, splits.values()),
    ]


def _describe_unknown(name: str, counts: RuleCounts) -> str:
    """Return how many candidates are unknown, and what ranking by that alone would score."""
    numbers = zip(("negatives", "positives"), counts.unknown, counts.examples, strict=True)
    negatives, positives = (f"{few:,} of {all_:,} {kind}" for kind, few, all_ in numbers)
    text = f"{name}: {positives} and {negatives} are unknown in training"
    area = counts.auc(counts.unknown)
    if area is None or abs(2 * area - 1) < LARGE:
        return text
    where, area = ("first", area) if area > 0.5 else ("last", 1 - area)
    return f"{text}; ranking these {where} alone gives an AUC of {area:.4f}"


def _first_events(offsets: np.ndarray) -> np.ndarray:
    return offsets[:-1][np.diff(offsets) > 0]


def _with_history(sides: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Take the side of events that have no event before them in their sequence."""
    sides = sides.astype(np.int8)
    sides[_first_events(offsets)] = NO_SIDE
    return sides
