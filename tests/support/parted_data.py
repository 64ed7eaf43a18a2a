"""Dataset folders of one content in several parts."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from dien_jax.data.columns import Column, Examples
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.part_writer import PartWriter
from dien_jax.preparation.writer import DatasetWriter


def in_parts(data: Path, out: Path, borders: Sequence[int]) -> Path:
    """Write a folder again, divided before some sequences, rising; they are its groups too.

    Examples are sorted by sequence, so that folders of any parts have the same content.
    """
    dataset = open_dataset(data)
    schema, meta = dataset.schema, dataset.meta
    sequences, groups = len(dataset.event_offsets) - 1, dataset.groups()
    assert len(groups) == sequences
    with DatasetWriter(out, schema=schema, source=meta["source"], split=meta["split"]) as writer:
        for feature in schema.features:
            if feature.size is not None:
                writer.vocabulary(feature.name, dataset.vocabulary(feature.name))
        for write, columns in ((writer.items, dataset.items), (writer.users, dataset.users)):
            for name, column in columns.items():
                write(name, *column)
        writer.popularity(dataset.popularity)
        for number, (first, end) in enumerate(pairwise([0, *borders, sequences])):
            if number % 2:  # as another process would
                part = PartWriter(writer.part_folder(number), schema)
                write_part(part, dataset, groups, first, end)
                writer.add_part(part.finish())
            else:
                write_part(writer, dataset, groups, first, end)
                writer.next_part()
    return out


def write_part(
    writer: DatasetWriter | PartWriter, dataset: Dataset, groups: list[str], first: int, end: int
) -> None:
    """Write some sequences, their groups, events and examples."""
    offsets = np.asarray(dataset.event_offsets)[first : end + 1]
    events = slice(offsets[0], offsets[-1])
    negatives = dataset.event_negatives
    if negatives is not None:
        negatives = negatives.take(np.arange(events.start, events.stop))
    writer.groups(groups[first:end])
    writer.events(dataset.event_item[events], dataset.event_timestamp[events], offsets, negatives)
    for split, examples in dataset.splits.items():
        writer.examples(split, of_sequences(examples, first, end))


def of_sequences(examples: Examples, first: int, end: int) -> Examples:
    """Return the examples of some sequences, by sequence."""
    sequence = np.asarray(examples.sequence)
    order = np.argsort(sequence, kind="stable")
    is_inside = (sequence[order] >= first) & (sequence[order] < end)
    return examples.take(order[is_inside])


def as_array(column: Column) -> list[np.ndarray]:
    """Return the arrays of a column."""
    return [np.asarray(part) for part in column if part is not None]


def change_meta(data: Path) -> None:
    """Give a folder another digest."""
    file = data / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"changed": True}))
