"""A model with all that sums over a batch, and its steps on one device and on several"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.batch import Batch
from dien_jax.devices import Placement
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables, TrainState, create_state
from dien_jax.steps.train import make_train_step
from support.every_kind import ITEMS, SCHEMA, batch_of, tables

BATCH = 16
CONFIG = Config(
    model=ModelConfig(
        embedding_size=3,
        hidden_size=4,
        layers=(6, 4),
        statistics=False,
    ),
    optim=OptimConfig(learning_rate=0.01),
    train=TrainConfig(batch_size=BATCH),
)
WITHOUT_DRAWS = dataclasses.replace(
    CONFIG,
    model=dataclasses.replace(CONFIG.model, dropout=0.0),
    train=dataclasses.replace(CONFIG.train, unknown_users=0.0),
)
"""No random number but those of auxiliary negatives."""


def with_update(config: Config, update: str, **model: Any) -> Config:
    """The configuration with another update, and other fields of the model."""
    optim = dataclasses.replace(config.optim, embedding_update=update)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, **model), optim=optim
    )


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
    """The batch with its rows in an order drawn from the seed."""
    order = np.random.default_rng(seed).permutation(BATCH)
    return jax.tree.map(lambda leaf: leaf[order], batch)


def run(
    config: Config,
    devices: int,
    steps: list[Batch],
    *,
    one_item: bool = False,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Ended:
    """Take the steps; ``one_item`` is the only auxiliary negative there is, if true."""
    popularity = np.eye(ITEMS)[7] if one_item else np.arange(ITEMS) % 7
    host = tables()._replace(sampler=make_sampler(popularity, "popularity"))
    place = place_of(devices)
    sampler = jax.tree.map(place.put_items, host.sampler)
    tables_ = Tables(place.put_features(host.features), sampler)
    step, state = _step(config, place), create_state(config, SCHEMA, 10, 0, place)
    metrics = []
    for batch in map(change, steps):
        state, found = step(state, tables_, place.put_batch(batch))
        metrics.append({name: float(value) for name, value in found.items()})
    return Ended(on_host(state, place), metrics)


def place_of(devices: int) -> OneDevice:
    """The place of a run on some of the devices."""
    return OneDevice(SCHEMA) if devices == 1 else Placement(devices, SCHEMA)


def _step(config: Config, place: OneDevice) -> Any:
    return _of_one(config) if place.devices == 1 else make_train_step(config, SCHEMA, 10, place)


_of_one = functools.cache(lambda config: make_train_step(config, SCHEMA, 10))


def on_host(state: TrainState, place: OneDevice) -> TrainState:
    """The state in one device's form, its key as integers."""
    state = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.array, place.joined(state))


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
