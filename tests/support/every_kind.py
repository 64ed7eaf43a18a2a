"""A schema with features of every kind in every group, its tables and batches"""

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, MultiValued, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables

ITEMS, USERS, SIZE, STEPS = 60, 40, 8, 4
NEGATIVE = 37
"""The one item that auxiliary negatives are, where there are any."""
SCHEMA = Schema(
    item=(
        Feature("item", "categorical", ITEMS),
        Feature("category", "categorical", 12),
        Feature("tags", "multivalued", 30, max_values=3),
        Feature("price", "numeric", mean=0.0, deviation=1.0),
    ),
    user=(
        Feature("user", "categorical", USERS),
        Feature("city", "categorical", 9),
        Feature("likes", "multivalued", 20, max_values=2),
    ),
    context=(
        Feature("device", "categorical", 7),
        Feature("words", "multivalued", 25, max_values=4),
        Feature("hour", "numeric", mean=0.0, deviation=1.0),
    ),
)
TABLES = {
    (group, feature.name)
    for group in ("item", "user", "context")
    for feature in getattr(SCHEMA, group)
    if feature.kind != "numeric"
}


def several(rng: np.random.Generator, size: int, rows: int, most: int) -> MultiValued:
    """Up to ``most`` values each, padded with 0."""
    count = rng.integers(0, most + 1, rows).astype(np.int32)
    values = rng.integers(1, size, (rows, most)).astype(np.int32)
    return MultiValued(np.where(np.arange(most) < count[:, None], values, 0), count)


def tables() -> Tables:
    rng = np.random.default_rng(0)
    features = FeatureTables(
        {
            "category": rng.integers(0, 12, ITEMS).astype(np.int32),
            "tags": several(rng, 30, ITEMS, 3),
            "price": rng.normal(size=ITEMS).astype(np.float32),
        },
        {
            "city": rng.integers(0, 9, USERS).astype(np.int32),
            "likes": several(rng, 20, USERS, 2),
        },
    )
    sampler = make_sampler(np.eye(ITEMS)[NEGATIVE], "popularity")
    return Tables(jax.tree.map(jnp.asarray, features), sampler)


def batch_of(seed: int, size: int = SIZE, steps: int = STEPS) -> Batch:
    """Items and users of the lower half of their tables only, the first history without an end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, steps + 1, size).astype(np.int32)
    lengths[0] = steps
    history = rng.integers(1, ITEMS // 2, (size, steps)).astype(np.int32)
    return Batch(
        history=np.where(np.arange(steps) < lengths[:, None], history, 0),
        lengths=lengths,
        item=rng.integers(1, ITEMS // 2, size).astype(np.int32),
        user=rng.integers(0, USERS // 2, size).astype(np.int32),
        label=rng.integers(0, 2, size).astype(np.float32),
        weight=np.ones(size, np.float32),
        context={
            "device": rng.integers(0, 4, size).astype(np.int32),
            "words": several(rng, 12, size, 4),
            "hour": rng.normal(size=size).astype(np.float32),
        },
    )
