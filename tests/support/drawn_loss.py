"""The loss of a train step as one function, with the draws that the step makes."""

from collections.abc import Callable
from typing import Any

import jax

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Schema
from dien_jax.steps import train
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables


def make_loss(config: Config, schema: Schema) -> Callable[..., tuple[jax.Array, tuple]]:
    """Return ``loss(params, batch_stats, tables, batch, key)``: loss, (batch_stats, metrics)."""
    loss_of_draws, place = train.make_loss(config, schema), OneDevice(schema)

    def loss(params: Any, stats: Any, tables: Tables, batch: Batch, key: jax.Array) -> Any:
        batch, random, dropout_key = train.randomised(config, schema, batch, key)
        negatives = train.negatives_of(config, place, tables.sampler, batch, random)
        return loss_of_draws(params, stats, tables.features, batch, negatives, dropout_key)

    return loss
