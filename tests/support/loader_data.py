"""Small datasets of given history lengths, and loaders of them."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from dien_jax.config.settings import TrainConfig
from dien_jax.data.arrays import Column, Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.data.schema import Feature, Schema

BUCKETS = (2, 4, 8)
SCHEMA = Schema(
    item=(Feature("item", "categorical", size=1000),),
    user=(Feature("user", "categorical", size=1000),),
    context=(
        Feature("device", "categorical", size=5),
        Feature("price", "numeric", mean=0.0, deviation=1.0),
        Feature("tags", "multivalued", size=9, max_values=3),
    ),
)


def make_dataset(history_lengths):
    """One sequence an example; event k is of item k + 1, so that items tell positions."""
    count = len(history_lengths)
    sequence_lengths = np.array(history_lengths, np.int64) + 1  # one event after the history
    offsets = np.concatenate([[0], np.cumsum(sequence_lengths)]).astype(np.int64)
    rows = np.arange(count, dtype=np.int32)
    tags = rows % 5
    examples = Examples(
        sequence=rows[::-1].copy(),
        history_end=(offsets[1:] - 1)[::-1].copy(),
        user=rows + 1,
        group=rows,
        item=rows + 2,
        label=(rows % 2).astype(np.int8),
        context={
            "device": Column(rows % 5, None),
            "price": Column(rows.astype(np.float32) + 0.5, None),
            "tags": Column(
                np.repeat(rows % 9, tags), np.concatenate([[0], np.cumsum(tags)]).astype(np.int64)
            ),
        },
    )
    return Dataset(
        path=Path("data"),
        schema=SCHEMA,
        meta={},
        items={},
        users={},
        event_item=np.arange(1, offsets[-1] + 1, dtype=np.int32),
        event_timestamp=np.zeros(offsets[-1], np.int64),
        event_offsets=offsets,
        popularity=np.zeros(1000, np.int64),
        splits={"train": examples},
    )


def make_loader(history_lengths, batch_size=4, order="shuffled", seed=0, max_history=12):
    dataset = make_dataset(history_lengths)
    train = TrainConfig(batch_size=batch_size, buckets=BUCKETS, max_history=max_history)
    if order == "evaluation":
        return evaluation_loader(dataset, "train", train)
    train = dataclasses.replace(train, order=order)
    return Loader(dataset, "train", train, seed=seed)


def random_lengths(count):
    return np.random.default_rng(0).integers(0, 20, count).tolist()


def indices_of(loader, epoch):
    return [loader.example_indices(epoch, step) for step in range(loader.steps_per_epoch)]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
