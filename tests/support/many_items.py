"""A dataset of so many items that they have factors, for tests of what reads these."""

from pathlib import Path

import numpy as np

from dien_jax.data.columns import Examples
from dien_jax.data.schema import Feature, Schema
from dien_jax.preparation.writer import DatasetWriter

ITEMS, USERS, EVENTS = 60, 90, 6
SCHEMA = Schema(
    item=(Feature("item", "categorical", size=ITEMS),),
    user=(Feature("user", "categorical", size=USERS + 1),),
)
TRAIN, VALID = 60, 75
"""The first users are for training, those up to the second number for validation."""


def write(path: Path) -> Path:
    """Users of two tastes; each has its last event and one item of the other taste as targets."""
    random = np.random.default_rng(0)
    likes_second = random.random((USERS, 1)) < 0.5
    half = ITEMS // 2
    low = np.where(likes_second, half, 1)
    items = low + random.integers(0, half - 1, (USERS, EVENTS))
    others = np.where(likes_second, 1, half)[:, 0] + random.integers(0, half - 1, USERS)
    starts = np.arange(USERS) * EVENTS

    def examples(users: np.ndarray) -> Examples:
        twice = np.repeat(users, 2)
        return Examples(
            sequence=twice,
            history_end=starts[twice] + EVENTS - 1,
            user=twice + 1,
            group=twice,
            item=np.stack([items[users, -1], others[users]], axis=1).reshape(-1),
            label=np.tile([1, 0], len(users)),
        )

    with DatasetWriter(
        path, schema=SCHEMA, source={"name": "test", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        writer.vocabulary("item", ["", *(f"i{item}" for item in range(1, ITEMS))])
        writer.vocabulary("user", ["", *(f"u{user}" for user in range(USERS))])
        writer.groups([f"u{user}" for user in range(USERS)])
        times = np.tile(np.arange(EVENTS), USERS)
        offsets = np.append(starts, items.size)
        writer.events(item=items.reshape(-1), timestamp=times, offsets=offsets)
        writer.popularity(np.bincount(items[:TRAIN].reshape(-1), minlength=ITEMS))
        parts = np.split(np.arange(USERS), [TRAIN, VALID])
        for split, users in zip(("train", "valid", "test"), parts, strict=True):
            writer.examples(split, examples(users))
    return path
