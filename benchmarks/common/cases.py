"""Shapes, history lengths and random data of the benchmarks."""

from typing import NamedTuple

import numpy as np

from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import Batch

ITEMS, CATEGORIES, USERS = 12_102, 196, 22_364
"""Sizes of the embedding tables of Amazon Beauty."""
BUCKETS = 4, 8, 16
"""Padded lengths of measured epochs of Beauty, where training by default chooses fewer."""


class Case(NamedTuple):
    """One size of a recurrence. Histories have full length, or realistic lengths if ragged."""

    batch: int
    steps: int
    hidden: int
    ragged: bool = False

    def lengths(self) -> np.ndarray:
        """Return the number of live steps in each row, int32 ``[B]``."""
        if self.ragged:
            return history_lengths(self.batch, self.steps)
        return np.full(self.batch, self.steps, np.int32)


CASES = {
    "paper": Case(128, 100, 36),
    "large_batch": Case(1024, 100, 36),
    "long": Case(32, 1000, 36),
    "wide128": Case(128, 100, 128),
    "wide256": Case(128, 100, 256),
    "ragged": Case(128, 100, 36, ragged=True),
}


def history_lengths(count: int, longest: int) -> np.ndarray:
    """Draw long-tailed lengths with a fixed seed, int32 ``[count]``.

    Minimum 4, median 5, mean about 8, 90th percentile 13, 99th about 50: as training histories of
    the Amazon review sets, where every user has at least five reviews.
    """
    tail = np.random.default_rng(2).lognormal(np.log(1.5), 1.47, count)
    return np.minimum(longest, 4 + np.floor(tail)).astype(np.int32)


def schema_of(items: int = ITEMS, categories: int = CATEGORIES, users: int = USERS) -> Schema:
    """Return a schema of item, category and user with the given table sizes."""
    item, category, user = (
        Feature(name, "categorical", size)
        for name, size in (("item", items), ("category", categories), ("user", users))
    )
    return Schema(item=(item, category), user=(user,))


def random_batch(rng: np.random.Generator, size: int, steps: int, items: int = ITEMS) -> Batch:
    """Draw a batch of full histories, with ids uniform from 1."""

    def ids(rows: int, *shape: int) -> np.ndarray:
        return rng.integers(1, rows, shape, dtype=np.int32)

    return Batch(
        history=ids(items, size, steps),
        lengths=np.full(size, steps, np.int32),
        item=ids(items, size),
        user=ids(USERS, size),
        label=rng.integers(0, 2, size).astype(np.float32),
        weight=np.ones(size, np.float32),
        columns={},
    )
