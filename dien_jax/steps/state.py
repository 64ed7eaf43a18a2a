"""The state that a train step carries, and the tables it reads"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_jax.config.settings import Config
from dien_jax.data.batch import example_batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import FeatureTables, MultiValued, Schema
from dien_jax.errors import UserError
from dien_jax.model.interest import InterestModel
from dien_jax.steps.negatives import Sampler, make_sampler
from dien_jax.steps.optimizer import make_optimizer


class TrainState(NamedTuple):
    """Everything a run carries from step to step.

    Attributes:
      params: the model's parameters, a plain tree of float32 arrays.
      batch_stats: running statistics; empty where the model has none.
      optimizer_state: optax's.
      step: int32 scalar, steps taken.
      key: typed PRNG key, never changed: step k uses ``fold_in(key, k)``.
    """

    params: Any
    batch_stats: Any
    optimizer_state: Any
    step: jax.Array
    key: jax.Array


class Tables(NamedTuple):
    """What a step reads besides state and batch, on the device once."""

    features: FeatureTables
    sampler: Sampler


def device_tables(dataset: Dataset, config: Config) -> Tables:
    """Feature tables and the auxiliary sampler of a dataset, copied to the default device."""
    features = FeatureTables(dataset.item_tables(), dataset.user_tables())
    return Tables(
        jax.tree.map(jnp.asarray, features),
        make_sampler(dataset.popularity, config.model.auxiliary_distribution),
    )


def create_state(config: Config, schema: Schema, steps_per_epoch: int, seed: int) -> TrainState:
    """A fresh state; every array is a function of the configuration, the schema and the seed.

    Raises:
      UserError: where the configured implementation of the recurrences cannot run here.
    """
    key = jax.random.key(seed)
    init_key, run_key = jax.random.split(key)
    model = InterestModel(config.model, schema)
    optimizer = make_optimizer(config, schema, steps_per_epoch)

    def initialise(key: jax.Array) -> tuple[Any, Any, Any]:
        def zeros(size: int, kind: str, max_values: int | None) -> Any:
            ids = jnp.zeros(size, jnp.int32)
            if kind == "numeric":
                return jnp.zeros(size, jnp.float32)
            if kind == "categorical":
                return ids
            return MultiValued(jnp.zeros((size, max_values or 1), jnp.int32), ids)

        tables = FeatureTables(
            {f.name: zeros(1, f.kind, f.max_values) for f in schema.item[1:]},
            {f.name: zeros(1, f.kind, f.max_values) for f in schema.user[1:]},
        )
        negatives = jnp.zeros((1, 1, config.model.auxiliary_negatives), jnp.int32)
        batch = example_batch(schema)
        variables = model.init({"params": key, "dropout": key}, batch, tables, negatives)
        params = variables["params"]
        return params, variables.get("batch_stats", {}), optimizer.init(params)

    try:
        params, batch_stats, optimizer_state = jax.jit(initialise)(init_key)
    except NotImplementedError as error:
        raise UserError(f"model.recurrence: {error}") from error
    return TrainState(params, batch_stats, optimizer_state, jnp.zeros((), jnp.int32), run_key)
