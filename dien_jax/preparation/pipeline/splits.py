"""Splits of a log that never look ahead.

A split assigns every row of a log to a side. In a log of interactions, a user's first event has no
history and is not an example. In a log of impressions, the rows of one user and one time are a
request, which no split divides. No history contains an event of a later side, because sides never
decrease along a sequence and a history ends before its target.

Dimensions: S users, e rows and s sequences of a part. No sequence is empty, and ``timestamp`` never
decreases within one.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dien_jax.errors import UserError
from dien_jax.preparation.options import LogOptions

if TYPE_CHECKING:
    from dien_jax.preparation.pipeline.events import Events

EARLIER, TRAIN, VALID, TEST, NO_SIDE = range(-1, 4)
"""Sides. ``EARLIER`` rows are not examples, but part of training's past; ``NO_SIDE`` of nothing."""


class EventPart(NamedTuple):
    """The e rows of s consecutive sequences, oldest first; ties keep the log's order."""

    first_sequence: int
    first_event: int
    item: np.ndarray  # int32 [e], number of the item
    timestamp: np.ndarray  # int64 [e]
    label: np.ndarray | None  # int8 [e], or None for a log of interactions
    offsets: np.ndarray  # int64 [s + 1], from 0

    @property
    def sequence(self) -> np.ndarray:
        """Sequence of every row, from 0: int32 ``[e]``."""
        lengths = np.diff(self.offsets)
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)

    @property
    def sequences(self) -> slice:
        """The slice of these sequences among all of the log."""
        return slice(self.first_sequence, self.first_sequence + len(self.offsets) - 1)


class Marks(NamedTuple):
    """Marks of the rows of a part, bool ``[e]`` each, or arrays computed from them."""

    seen: Any  # rows that training sees, as an example or in a history
    past: Any  # the same, if all examples before validation were training examples
    chosen: Any  # events or clicks of the past


class Split:
    """The sides of the rows of a log; ``about`` describes them for ``meta.json``.

    Rows that ``--train-from`` and ``--max-examples`` exclude from training are ``EARLIER``.
    Popularity still counts them; otherwise negatives would be a few items of recent users.
    """

    def __init__(self, options: LogOptions, events: "Events") -> None:
        self.about: dict[str, Any] = {"policy": options.split, "seed": options.seed}
        self._most = getattr(options, "max_examples", None)
        self._users: np.ndarray | None = None  # side of each, by-user
        self._times: dict[str, int] = {}  # as in ``meta.json``, by-time
        if options.split == "by-user":
            # Users of one event have no example and do not count in the shares.
            is_able = np.diff(events.offsets) > (events.label is None)
            self._users = np.full(events.num_users, NO_SIDE, np.int8)
            able = int(np.count_nonzero(is_able))
            shares = {"valid_share": options.valid_share, "test_share": options.test_share}
            self._users[is_able] = user_sides(able, seed=options.seed, **shares)
            self.about |= shares
        elif options.split == "by-time":
            self._times = _read_times(options, events)
            self.about |= self._times

    def sides(self, part: EventPart) -> np.ndarray:
        """Return the side of every row of a part, int8 ``[e]``."""
        offsets = part.offsets
        if self._times:
            borders = [self._times["valid_from"], self._times["test_from"]]
            sides = np.searchsorted(borders, part.timestamp, side="right").astype(np.int8)
        elif self._users is not None:
            sides = self._users[part.sequences][part.sequence]
        else:
            number = np.cumsum(_request_starts(part))
            from_end = np.repeat(number[offsets[1:] - 1], np.diff(offsets)) - number
            sides = np.maximum(TEST - from_end, TRAIN).astype(np.int8)
        if part.label is None:
            if self._users is not None:  # held-out users have one example, the last event
                held_out = sides != TRAIN
                held_out[offsets[1:] - 1] = False
                sides[held_out] = NO_SIDE
            sides[offsets[:-1]] = NO_SIDE
        if "train_from" in self._times:
            sides[(sides == TRAIN) & (part.timestamp < self._times["train_from"])] = EARLIER
        if self._most is not None:
            targets = np.flatnonzero(sides == TRAIN)
            sequence = part.sequence[targets]
            end = np.searchsorted(sequence, sequence, side="right")
            sides[targets[end - np.arange(len(targets)) > self._most]] = EARLIER
        return sides

    def marks(self, part: EventPart) -> Marks:
        """Mark rows of a part."""
        sides = self.sides(part)
        seen, past = sides == TRAIN, sides <= TRAIN
        if part.label is not None:
            return Marks(seen, past, past & (part.label == 1))
        past = _with_histories(part, past)
        return Marks(_with_histories(part, seen), past, past)


def user_sides(sequences: int, *, valid_share: float, test_share: float, seed: int) -> np.ndarray:
    """Draw a side for each user, int8 ``[sequences]``; shares are rounded to whole users."""
    valid, test = round(valid_share * sequences), round(test_share * sequences)
    order = np.random.default_rng((seed, 0)).permutation(sequences)
    sides = np.full(sequences, TRAIN, np.int8)
    sides[order[:valid]] = VALID
    sides[order[valid : valid + test]] = TEST
    return sides


def histories(part: EventPart) -> tuple[EventPart, np.ndarray, np.ndarray]:
    """Return the events that histories consist of, their rows, and the ends of histories.

    These are all events, or the clicks (rows of label 1); rows are integers. Ends are int64
    ``[e]``: that of each row's history among these events. The history of an
    impression is the clicks of its sequence at strictly earlier times, so a click is never in the
    history of another row of its request.
    """
    if part.label is None:
        return part, np.arange(len(part.item)), np.arange(len(part.item))
    click = np.flatnonzero(part.label)
    before = np.concatenate([[0], np.cumsum(part.label, dtype=np.int64)])
    clicks = part._replace(
        item=part.item[click],
        timestamp=part.timestamp[click],
        label=part.label[click],
        offsets=before[part.offsets],
    )
    request = np.flatnonzero(_request_starts(part))
    ends = np.repeat(before[request], np.diff(np.append(request, len(part.item))))
    return clicks, click, ends


def _read_times(options: LogOptions, events: "Events") -> dict[str, int]:
    """Return the start times of validation and test, and of training examples if it is set.

    Shares are shares of all events. Events at the time of a border all belong to the later side,
    which ties make larger than its share.
    """
    times = {}
    for name in ("valid_from", "test_from", "train_from"):
        if (text := getattr(options, name)) is not None:
            flag = f"--{name.replace('_', '-')}"
            times[name] = events.clock.read(flag, text, events.times[0])
    if "valid_from" not in times:
        total, held_out = len(events.item), options.valid_share + options.test_share
        places = [total - round(share * total) for share in (held_out, options.test_share)]
        found = events.times_at([place for place in places if place < total])
        found += [events.times[1] + 1] * (2 - len(found))
        times = dict(zip(("valid_from", "test_from"), found, strict=True)) | times
    valid, test, begin = times["valid_from"], times["test_from"], times.get("train_from")
    if test < valid:
        raise UserError(f"--test-from must not be before --valid-from, got {test} < {valid}")
    if begin is not None and begin >= valid:
        limit = f"which starts at {valid}, got {begin}"
        raise UserError(f"--train-from must be before validation, {limit}")
    return times


def _request_starts(part: EventPart) -> np.ndarray:
    """Mark the first row of each request, bool ``[e]``; an interaction is a request by itself."""
    starts = np.ones(len(part.timestamp), bool)
    if part.label is not None:
        starts[1:] = part.timestamp[1:] != part.timestamp[:-1]
        starts[part.offsets[:-1]] = True
    return starts


def _with_histories(part: EventPart, is_target: np.ndarray) -> np.ndarray:
    """Mark targets and the events before them: bool ``[e]``."""
    number = np.arange(len(is_target))
    last = np.maximum.reduceat(np.where(is_target, number, -1), part.offsets[:-1])
    return number <= last[part.sequence]
