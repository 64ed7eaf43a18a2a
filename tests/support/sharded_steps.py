"""Every kind of feature in every group, without a folder, and steps on one device and several."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.schema import GROUPS, Feature, MultiValued, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.devices import Placement
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.placement import OneDevice, is_key
from dien_jax.steps.state import Tables, TrainState, create_state
from dien_jax.steps.train import make_train_step

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
    request=(
        Feature("device", "categorical", 7),
        Feature("words", "multivalued", 25, max_values=4),
        Feature("hour", "numeric", mean=0.0, deviation=1.0),
    ),
)
TABLES_OF_VECTORS = 3
TABLES = {
    (GROUPS[group].parameters, feature.name)
    for group, features in SCHEMA.groups()
    for feature in features
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
        {"city": rng.integers(0, 9, USERS).astype(np.int32), "likes": several(rng, 20, USERS, 2)},
        vector_row=(np.arange(ITEMS) % (ITEMS - 5)).astype(np.int32),  # five items without one
        vectors=rng.normal(scale=0.1, size=(TABLES_OF_VECTORS, ITEMS - 5, 3)).astype(np.float16),
    )
    sampler = make_sampler(np.eye(ITEMS)[NEGATIVE])
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
        columns={
            "device": rng.integers(0, 4, size).astype(np.int32),
            "words": several(rng, 12, size, 4),
            "hour": rng.normal(size=size).astype(np.float32),
        },
        fold=rng.integers(0, TABLES_OF_VECTORS, size).astype(np.int32),
    )


BATCH = 16
CONFIG = Config(
    model=ModelConfig(embedding_size=3, hidden_size=4, layers=(6, 4), statistics=False),
    optim=OptimConfig(learning_rate=0.01),
    train=TrainConfig(batch_size=BATCH),
)
WITHOUT_DRAWS = with_settings(CONFIG, {"model.dropout": 0.0, "train.unknown_users": 0.0})
"""No random number but those of auxiliary negatives."""


def with_update(config: Config, update: str, **model: Any) -> Config:
    """The configuration with another update, and other fields of the model."""
    changes = {f"model.{name}": value for name, value in model.items()}
    return with_settings(config, {"optim.embedding_update": update} | changes)


class Ended(NamedTuple):
    """A state on the host in one device's form, and the metrics of each step."""

    state: TrainState
    metrics: list[dict[str, float]]


def batches(steps: int, lengths: tuple[int, ...] = (4,)) -> list[Batch]:
    """Batches of some lengths in turn, every fourth with filler rows."""
    result = []
    for step in range(steps):
        batch = batch_of(step, BATCH, lengths[step % len(lengths)])
        if step % 4 == 3:
            batch.weight[-5:] = 0
        result.append(batch)
    return result


def reordered(batch: Batch, seed: int) -> Batch:
    order = np.random.default_rng(seed).permutation(BATCH)
    return jax.tree.map(lambda leaf: leaf[order], batch)


def run(
    config: Config,
    devices: int,
    steps: list[Batch],
    *,
    one_item: bool = False,
    change: Callable[[Batch], Batch] = lambda batch: batch,
    dense_rows: int = 24,
) -> Ended:
    """Take the steps; ``one_item`` is the only auxiliary negative there is, if true.

    Items, users, tags and words are split: ids, and several values of items and of the request. The
    more tables are split, the longer the step of eight devices compiles.
    """
    popularity = np.eye(ITEMS)[7] if one_item else np.arange(ITEMS) % 7
    host = tables()._replace(sampler=make_sampler(popularity))
    place = place_of(devices, dense_rows)
    sampler = jax.tree.map(place.put_items, host.sampler)
    tables_ = Tables(place.put_features(host.features), sampler)
    step, state = _begun(config, place)
    metrics = []
    for batch in map(change, steps):
        state, found = step(state, tables_, place.put_batch(batch))
        metrics.append({name: float(value) for name, value in found.items()})
    return Ended(on_host(state, place), metrics)


def place_of(devices: int, dense_rows: int = 0) -> OneDevice:
    """The place of a run on some of the devices, where every table is large by default."""
    if devices == 1:
        return OneDevice(SCHEMA, dense_rows=dense_rows)
    return Placement(devices, SCHEMA, dense_rows)


def _begun(config: Config, place: OneDevice) -> tuple[Any, TrainState]:
    """The step and the state before the first."""
    if place.devices > 1:
        step = make_train_step(config, SCHEMA, 10, place)
        return step, create_state(config, SCHEMA, 10, 0, place)
    step, state = _of_one(config, place.dense_rows)
    return step, jax.tree.map(jnp.copy, state)  # a step takes the arrays of its state


@functools.cache
def _of_one(config: Config, dense_rows: int) -> tuple[Any, TrainState]:
    """Those of one device, which take seconds to trace."""
    place = place_of(1, dense_rows)
    step = make_train_step(config, SCHEMA, 10, place)
    return step, create_state(config, SCHEMA, 10, 0, place)


def on_host(state: TrainState, place: OneDevice) -> TrainState:
    """The state in one device's form, its key as integers."""
    state = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.array, joined(state, place))


def joined(state: TrainState, place: OneDevice) -> TrainState:
    """The state in one device's form."""
    if place.devices == 1:
        return state
    return place.in_rows(jax.tree.map(lambda a: a if is_key(a) else np.asarray(a), state))


def furthest(one: Any, other: Any) -> float:
    """The largest difference of two trees, but for the one parameter that no loss depends on."""
    paths, structure = jax.tree_util.tree_flatten_with_path(one)
    assert structure == jax.tree.structure(other)
    differences = [0.0]
    for (path, left), right in zip(paths, jax.tree.leaves(other), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "attention/score/bias" not in name and left.size:  # a softmax takes it out
            differences.append(float(np.abs(left.astype(np.float64) - right).max()))
    return max(differences)
