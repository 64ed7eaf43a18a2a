"""Events and training examples that statistics count, and slices of whole sequences.

Dimensions: E events, S sequences and n training examples; of a dataset, or of a slice.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from dien_jax.data.arrays import chunks, first_bad, release
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import Feature
from dien_jax.utils.machine import map_in_order

Result = TypeVar("Result")
SLICE_EVENTS = 1 << 18  # events that a thread counts at a time, or one longer sequence


class TrainingEvents(NamedTuple):
    """Events and training examples; see :class:`dien_jax.data.Examples`.

    In a slice, indices of events and sequences start at its first ones.
    """

    event_item: np.ndarray  # int [E]
    offsets: np.ndarray  # int64 [S + 1]
    sequence: np.ndarray  # int [n]
    history_end: np.ndarray  # int64 [n]
    item: np.ndarray  # int [n]
    label: np.ndarray  # int [n]
    counted_end: np.ndarray | None = None  # int64 [S], ends of events that count without examples
    first_sequence: int = 0  # in the dataset


def slices(events: TrainingEvents, most: int = SLICE_EVENTS) -> Iterator[TrainingEvents]:
    """Divide events into slices of at most ``most`` events, or of one longer sequence.

    A slice has consecutive sequences, with their events and examples. There is one slice if the
    examples are not in the order of their sequences. The pages of mapped arrays are released
    after each slice.
    """
    sequence = np.asarray(events.sequence)
    rises = lambda rows: np.diff(sequence[rows.start : rows.stop + 1]) >= 0  # noqa: E731
    if first_bad(len(sequence) - 1, rises, sequence) is not None:
        yield events
        return
    places = borders(events.offsets, most)
    rows = np.searchsorted(sequence, places).tolist()
    counted_end = events.counted_end
    for (first, end), own in zip(pairwise(places), map(slice, rows, rows[1:]), strict=True):
        begin, stop = events.offsets[first], events.offsets[end]
        yield TrainingEvents(
            event_item=events.event_item[begin:stop],
            offsets=events.offsets[first : end + 1] - begin,
            sequence=events.sequence[own] - np.int32(first),
            history_end=events.history_end[own] - begin,
            item=events.item[own],
            label=events.label[own],
            counted_end=None if counted_end is None else counted_end[first:end] - begin,
            first_sequence=events.first_sequence + first,
        )
        for array in events[:6]:
            release(array)


def map_slices(
    function: Callable[[TrainingEvents], Result],
    events: TrainingEvents,
    threads: int,
    most: int = SLICE_EVENTS,
) -> Iterator[Result]:
    """Apply a function to each of the :func:`slices`, and yield results in their order."""
    is_large = lambda own: len(own.event_item) > most  # noqa: E731
    return map_in_order(function, slices(events, most), threads, is_large)


def borders(offsets: np.ndarray, most: int) -> list[int]:
    """Return the first sequence of each slice, and at the end the number of sequences.

    Slices have at most ``most`` events, or one longer sequence.
    """
    found, sequences = [0], len(offsets) - 1
    while len(found) == 1 or found[-1] < sequences:
        first = found[-1]
        reached = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
        found.append(min(max(reached, first + 1), sequences))
    return found


def of_sequences(events: TrainingEvents, chosen: np.ndarray) -> TrainingEvents:
    """Return events of which only ``chosen`` sequences count, marked in bool ``[S]``."""
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


def training_events(dataset: Dataset) -> TrainingEvents:
    """Return the training events and examples of a dataset.

    If training examples begin at a set time, all events before validation count, also those of
    sequences without an example. Where negatives are drawn, a sequence with a single such event
    does not count, because it would have no example.
    """
    split, train = dataset.meta.get("split", {}), dataset.splits["train"]
    until = split.get("valid_from") if isinstance(split, dict) and "train_from" in split else None
    return TrainingEvents(
        dataset.event_item,
        dataset.event_offsets,
        train.sequence,
        train.history_end,
        train.item,
        train.label,
        _counted_end(dataset, until) if isinstance(until, int) else None,
    )


def _counted_end(dataset: Dataset, until: int) -> np.ndarray:
    """Return where the events before a time end in each sequence, int64 ``[S]``."""
    offsets, timestamp = dataset.event_offsets, dataset.event_timestamp
    events = np.zeros(len(offsets) - 1, np.int64)
    for rows in chunks(len(timestamp)):
        earlier = np.flatnonzero(timestamp[rows] < until) + rows.start
        np.add.at(events, np.searchsorted(offsets, earlier, side="right") - 1, 1)
        release(timestamp)
    fewest = 1 + ("negatives" in dataset.meta["split"])
    return offsets[:-1] + np.where(events < fewest, 0, events)


def values_of_items(dataset: Dataset, feature: Feature) -> np.ndarray:
    """Return the value of a feature for each item, int ``[items]``."""
    if feature is dataset.schema.item[0]:
        return np.arange(dataset.schema.num_items)
    return dataset.items[feature.name].values
