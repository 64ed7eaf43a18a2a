"""The training events and examples of a dataset, part by part, as statistics count them."""

from collections.abc import Collection, Iterator

import numpy as np

from dien_jax.data.arrays import release
from dien_jax.data.columns import Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.parts import Rows, bounds, part_of
from dien_jax.statistics.training_events import TrainingEvents


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
