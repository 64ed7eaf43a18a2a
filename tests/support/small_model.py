"""A model small enough to compile in a second, and batches that it can learn"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables

SCHEMA = Schema(
    item=(Feature("item", "categorical", 20), Feature("category", "categorical", 4)),
    user=(Feature("user", "categorical", 5),),
)
MODEL = ModelConfig(
    embedding_size=4,
    hidden_size=6,
    layers=(8,),
    statistics=False,
    dropout=0.0,
)


CONFIG = Config(
    model=MODEL,
    optim=OptimConfig(learning_rate=0.01),
    train=TrainConfig(unknown_users=0.0),
)


LIGHT = dataclasses.replace(CONFIG, model=member("base_model", MODEL))
"""For what no recurrence and no auxiliary loss has a part in."""


def tables() -> Tables:
    category = jnp.arange(20, dtype=jnp.int32) % 4
    return Tables(
        FeatureTables({"category": category}, {}), make_sampler(np.ones(20), "popularity")
    )


def batch_of(steps: int, size: int = 16, seed: int = 0) -> Batch:
    """A click is a candidate of the category of the last behaviour."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, size).astype(np.int32)
    live = np.arange(steps)[None] < lengths[:, None]
    history = np.where(live, rng.integers(1, 20, (size, steps)), 0).astype(np.int32)
    item = rng.integers(1, 20, size).astype(np.int32)
    last = history[np.arange(size), lengths - 1]
    item[::2] = last[::2]
    return Batch(
        history=history,
        lengths=lengths,
        item=item,
        user=np.zeros(size, np.int32),
        label=(item % 4 == last % 4).astype(np.float32),
        weight=np.ones(size, np.float32),
        context={},
    )
