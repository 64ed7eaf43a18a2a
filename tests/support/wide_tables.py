"""A dataset of every kind of feature, all with more values than a small request looks up."""

from pathlib import Path

import numpy as np

from dien_jax.data.dataset import Column, Examples
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.writer import DatasetWriter

ITEMS, CATEGORIES, TAGS = 401, 203, 211
USERS, CITIES, LIKES = 307, 223, 227
DEVICES, WORDS = 229, 233
ROWS = {ITEMS, CATEGORIES, TAGS, USERS, CITIES, LIKES, DEVICES, WORDS}
"""Rows of the tables; no other array of a model has a dimension of such a size."""
EVENTS = 6
SCHEMA = Schema(
    item=(
        Feature("item", "categorical", size=ITEMS),
        Feature("category", "categorical", size=CATEGORIES),
        Feature("tags", "multivalued", size=TAGS, max_values=3),
        Feature("price", "numeric", mean=10.0, deviation=2.5),
    ),
    user=(
        Feature("user", "categorical", size=USERS),
        Feature("city", "categorical", size=CITIES),
        Feature("likes", "multivalued", size=LIKES, max_values=2),
    ),
    context=(
        Feature("device", "categorical", size=DEVICES),
        Feature("words", "multivalued", size=WORDS, max_values=4),
        Feature("hour", "numeric", mean=12.0, deviation=4.0),
    ),
)


def write(path: Path) -> Path:
    """Users who choose items near each other; half of the targets are chosen at random."""
    random = np.random.default_rng(0)
    count = USERS - 1
    first = random.integers(1, ITEMS - 30, (count, 1))
    items = first + random.integers(0, 30, (count, EVENTS))
    starts = np.arange(count) * EVENTS

    def several(size: int, rows: int, most: int) -> Column:
        lengths = random.integers(0, most + 1, rows)
        offsets = np.append(0, np.cumsum(lengths))
        return Column(random.integers(0, size, offsets[-1]), offsets)

    def examples(users: np.ndarray) -> Examples:
        twice = np.repeat(users, 2)
        rows = len(twice)
        negatives = random.integers(1, ITEMS, len(users))
        return Examples(
            sequence=twice,
            history_end=starts[twice] + random.integers(0, EVENTS, rows),
            user=twice + 1,
            group=twice,
            item=np.stack([items[users, -1], negatives], axis=1).reshape(-1),
            label=np.tile([1, 0], len(users)),
            context={
                "device": Column(random.integers(0, DEVICES, rows), None),
                "words": several(WORDS, rows, 6),
                "hour": Column(random.normal(size=rows).astype(np.float32), None),
            },
        )

    with DatasetWriter(
        path, schema=SCHEMA, source={"name": "test", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        for feature in SCHEMA.features:
            if feature.size is not None:
                values = (f"{feature.name} {row}" for row in range(1, feature.size))
                writer.vocabulary(feature.name, ["", *values])
        writer.groups([f"user {user}" for user in range(1, USERS)])
        writer.items("category", random.integers(0, CATEGORIES, ITEMS))
        writer.items("tags", *several(TAGS, ITEMS, 5))
        writer.items("price", random.normal(size=ITEMS).astype(np.float32))
        writer.users("city", random.integers(0, CITIES, USERS))
        writer.users("likes", *several(LIKES, USERS, 3))
        times, offsets = np.tile(np.arange(EVENTS), count), np.append(starts, items.size)
        writer.events(item=items.reshape(-1), timestamp=times, offsets=offsets)
        writer.popularity(np.bincount(items.reshape(-1), minlength=ITEMS))
        parts = np.split(np.arange(count), [count - 40, count - 20])
        for split, users in zip(("train", "valid", "test"), parts, strict=True):
            writer.examples(split, examples(users))
    return path
