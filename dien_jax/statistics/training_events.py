"""Events and training examples that statistics count: parts of whole sequences, and their slices.

Dimensions: E events, S sequences and n training examples of a part.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from dien_jax.data.arrays import release
from dien_jax.data.columns import Examples, Rows, bounds, part_of
from dien_jax.data.dataset import Dataset

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
    is_large: bool  # longer than others: threads should have no other one in memory


def slices(parts: Collection[TrainingEvents], most: int = SLICE_EVENTS) -> Iterator[Slice]:
    """Divide parts into slices of ``most`` events at most, or one longer sequence.

    A part is one slice if its examples are not in the order of its sequences.
    """
    for number, events in enumerate(parts):
        sequence = np.asarray(events.sequence)
        if (sequence[1:] < sequence[:-1]).any():
            yield Slice(number, (number + 1) / len(parts), events, len(events.event_item) > most)
            continue
        borders = _borders(events.offsets, most)
        rows = np.searchsorted(sequence, borders).tolist()
        for place in range(1, len(borders)):
            first, end = borders[place - 1 : place + 1]
            own = _slice_of(events, first, end, slice(*rows[place - 1 : place + 1]))
            done = (number + place / (len(borders) - 1)) / len(parts)
            yield Slice(number, done, own, len(own.event_item) > most)


def _borders(offsets: np.ndarray, most: int) -> list[int]:
    """Return the sequences that slices begin at, and the number of sequences."""
    borders, sequences = [0], len(offsets) - 1
    while len(borders) == 1 or borders[-1] < sequences:
        first = borders[-1]
        reached = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
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


class TrainingParts(Collection[TrainingEvents]):
    """The parts of a dataset in turn, each with numbers that count from its own start.

    Each is made when it is read, and the pages of mapped arrays are given back after it. Arrays
    without common parts are one part.

    Args:
      event_item, event_timestamp, event_offsets: see :class:`dien_jax.data.Dataset`.
      train: the training examples.
      until: a time; all events before it count, also those of sequences without an example. A
        sequence of one such event has none, as it would have no example. None to count only what
        examples have as their target or in their histories.
    """

    def __init__(
        self,
        event_item: Rows,
        event_timestamp: Rows,
        event_offsets: Rows,
        train: Examples,
        until: int | None,
    ) -> None:
        columns = (train.sequence, train.history_end, train.item, train.label)
        self._arrays: list[Rows] = [event_item, event_timestamp, event_offsets, *columns]
        self._until = until
        if len({len(bounds(array)) for array in self._arrays}) > 1:
            self._arrays = [np.asarray(array) for array in self._arrays]

    def __len__(self) -> int:
        return len(bounds(self._arrays[0])) - 1

    def __contains__(self, part: object) -> bool:
        raise TypeError("parts are made when they are read, and are not compared")

    def __iter__(self) -> Iterator[TrainingEvents]:
        for number in range(len(self)):
            arrays = [part_of(array, number) for array in self._arrays]
            yield self._part(number, *arrays)
            for array in arrays:
                release(array)

    def _part(
        self,
        number: int,
        event_item: np.ndarray,
        timestamp: np.ndarray,
        offsets: np.ndarray,
        sequence: np.ndarray,
        history_end: np.ndarray,
        item: np.ndarray,
        label: np.ndarray,
    ) -> TrainingEvents:
        first_event = bounds(self._arrays[0])[number]
        first_sequence = 0
        if number:  # the chained offsets have the one between two parts once
            first_sequence = bounds(self._arrays[2])[number] - 1
            offsets = np.concatenate([[first_event], offsets])
            sequence = sequence - np.int32(first_sequence)
            history_end, offsets = history_end - first_event, offsets - first_event
        until = self._until
        counted = None if until is None else _counted_end(timestamp < until, offsets)
        return TrainingEvents(
            event_item, offsets, sequence, history_end, item, label, counted, first_sequence
        )


def training_parts(dataset: Dataset) -> TrainingParts:
    """Return the training events and examples of a dataset, part by part.

    Where training examples begin at some time, all events before validation count.
    """
    split = dataset.meta.get("split", {})
    end = split.get("valid_from") if isinstance(split, dict) and "train_from" in split else None
    arrays = dataset.event_item, dataset.event_timestamp, dataset.event_offsets
    return TrainingParts(*arrays, dataset.splits["train"], end if isinstance(end, int) else None)


def _counted_end(counts: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return where the events that count end in each sequence; they come first in it."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    start, stop = offsets[:-1], offsets[1:]
    events = before[stop] - before[start]
    return np.asarray(start + np.where(events > 1, events, 0), np.int64)
