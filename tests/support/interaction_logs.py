"""Small logs of interactions, and the folders prepared from them."""

from pathlib import Path

import numpy as np
import pytest

from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources.interactions import InteractionsOptions, prepare

HEADER = "user,item,category,timestamp\n"


LOG = HEADER + "".join(
    f"{user},i{(7 * number + shift) % 11},c{(7 * number + shift) % 11 % 3},{100 + number}\n"
    for shift, user in enumerate(["ann", "bob", "cat", "dan"])
    for number in range(6)
)


def options(file: Path, **changes) -> InteractionsOptions:
    return InteractionsOptions(
        **{"file": file, "out": file.parent / "data", "item_features": ("category",), **changes}
    )


def make(file: Path, **changes):
    """The dataset of a log, and the summary."""
    chosen = options(file, **changes)
    summary = prepare(chosen)
    return open_dataset(chosen.out), summary


def positives(dataset, split: str) -> set[tuple[str, str, int]]:
    """User, item and history length of the positive examples."""
    examples, items, groups = dataset.splits[split], dataset.vocabulary("item"), dataset.groups()
    return {
        (
            groups[examples.group[row]],
            items[examples.item[row]],
            int(examples.history_end[row] - dataset.event_offsets[examples.sequence[row]]),
        )
        for row in np.flatnonzero(examples.label)
    }


def training_events(dataset) -> np.ndarray:
    """Mark the events that a training example has as its target or in its history."""
    train, offsets = dataset.splits["train"], dataset.event_offsets
    marked = np.zeros(len(dataset.event_item), bool)
    for sequence, end in zip(train.sequence, train.history_end, strict=True):
        marked[offsets[sequence] : end + 1] = True
    return marked


def refused(file: Path, match: str, **changes) -> None:
    """Preparing fails with the message and leaves nothing behind."""
    before = {path.name for path in file.parent.iterdir()}
    with pytest.raises(UserError, match=match):
        prepare(options(file, **changes))
    assert {path.name for path in file.parent.iterdir()} == before
