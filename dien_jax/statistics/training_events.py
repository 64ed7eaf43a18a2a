"""Events and training examples that statistics count: parts of whole sequences, and their slices.

Dimensions: E events, S sequences and n training examples of a part.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

SLICE_EVENTS = 1 << 18
"""Events that a thread counts at a time, or one longer sequence."""


class TrainingEvents(NamedTuple):
    """The events and training examples of a part; see :class:`dien_jax.data.Examples`.

    Numbers of events and sequences count from the start of the part.
    """

    event_item: np.ndarray  # int [E]
    offsets: np.ndarray  # int64 [S + 1]
    sequence: np.ndarray  # int [n]
    history_end: np.ndarray  # int64 [n]
    item: np.ndarray  # int [n]
    label: np.ndarray  # int [n]
    counted_end: np.ndarray | None = None  # int64 [S], ends of events that count without examples
    first_sequence: int = 0  # in the dataset


class Slice(NamedTuple):
    """Consecutive sequences of a part, which are a part of their own."""

    part: int  # number of the part
    done: float  # share of all parts that ends with the slice
    events: TrainingEvents

    @property
    def is_large(self) -> bool:
        """The slice is longer than others: threads should have no other one in memory."""
        return len(self.events.event_item) > SLICE_EVENTS


def slices(parts: Collection[TrainingEvents]) -> Iterator[Slice]:
    """Divide parts into slices of ``SLICE_EVENTS`` events at most, or one longer sequence.

    A part is one slice if its examples are not in the order of its sequences.
    """
    for number, events in enumerate(parts):
        sequence = np.asarray(events.sequence)
        if (sequence[1:] < sequence[:-1]).any():
            yield Slice(number, (number + 1) / len(parts), events)
            continue
        borders = _borders(events.offsets)
        rows = np.searchsorted(sequence, borders).tolist()
        for place in range(1, len(borders)):
            first, end = borders[place - 1 : place + 1]
            own = _slice_of(events, first, end, slice(*rows[place - 1 : place + 1]))
            yield Slice(number, (number + place / (len(borders) - 1)) / len(parts), own)


def _borders(offsets: np.ndarray) -> list[int]:
    """Return the sequences that slices begin at, and the number of sequences."""
    borders, sequences = [0], len(offsets) - 1
    while len(borders) == 1 or borders[-1] < sequences:
        first = borders[-1]
        reached = int(np.searchsorted(offsets, offsets[first] + SLICE_EVENTS, side="right")) - 1
        borders.append(min(max(reached, first + 1), sequences))
    return borders


def _slice_of(events: TrainingEvents, first: int, end: int, rows: slice) -> TrainingEvents:
    """Return sequences ``first`` to ``end`` of a part, whose examples are in some rows."""
    begin, stop = events.offsets[first], events.offsets[end]
    counted_end = events.counted_end
    return TrainingEvents(
        event_item=events.event_item[begin:stop],
        offsets=events.offsets[first : end + 1] - begin,
        sequence=events.sequence[rows] - np.int32(first),
        history_end=events.history_end[rows] - begin,
        item=events.item[rows],
        label=events.label[rows],
        counted_end=None if counted_end is None else counted_end[first:end] - begin,
        first_sequence=events.first_sequence + first,
    )


def of_sequences(events: TrainingEvents, chosen: np.ndarray) -> TrainingEvents:
    """Return a part in which only some sequences count; ``chosen``, bool ``[S]``, marks them."""
    is_kept, counted_end = chosen[events.sequence], events.counted_end
    if counted_end is not None:
        counted_end = np.where(chosen, counted_end, events.offsets[:-1])
    return events._replace(
        sequence=events.sequence[is_kept],
        history_end=events.history_end[is_kept],
        item=events.item[is_kept],
        label=events.label[is_kept],
        counted_end=counted_end,
    )
