"""The training step, scoring and summaries on several devices: one ``jax.shard_map`` each.

    draw random numbers of the whole batch, as one device does
    on each device, for its rows of the batch:
      fetch the rows of split tables -> forward, gradients
      gradients of rows to their owners, sums of the others over devices -> update

A device's loss is its share of the whole batch's: sums of gradients over devices are those of the
whole batch. Statistics of a batch are summed over devices where the model uses them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.interest import InterestModel
from dien_jax.model.logit_map import LogitMap
from dien_jax.steps.negatives import RandomColumns, draws_shape, random_columns, unequal
from dien_jax.steps.score import probabilities_of, summary_of
from dien_jax.steps.sharding import AXIS, Placement
from dien_jax.steps.split_rows import items_drawn, look_up_split
from dien_jax.steps.split_update import SplitUpdate
from dien_jax.steps.state import Tables, TrainState
from dien_jax.steps.train import (
    Metrics,
    draws_negatives,
    make_loss,
    shown_instead,
    with_unknown_items,
    with_unknown_users,
)


class ShardedSteps(NamedTuple):
    """The train step, scores of a batch, and arrays of a batch for histograms."""

    train: Callable[[TrainState, Tables, Batch], tuple[TrainState, Metrics]]
    predict: Callable[..., jax.Array]
    summarise: Callable[..., dict[str, jax.Array]]


def make_sharded_steps(
    config: Config, schema: Schema, steps_per_epoch: int, placement: Placement
) -> ShardedSteps:
    """Return the jitted functions of a run on the devices of a placement."""
    return ShardedSteps(
        make_sharded_train_step(config, schema, steps_per_epoch, placement),
        make_sharded_predict_step(config, schema, placement),
        make_sharded_summary_step(config, schema, placement),
    )


def make_sharded_train_step(
    config: Config, schema: Schema, steps_per_epoch: int, placement: Placement
) -> Callable[[TrainState, Tables, Batch], tuple[TrainState, Metrics]]:
    """Return the step of :func:`~dien_jax.steps.train.make_train_step` on several devices.

    State, tables and batch are those of a placement. Parameters and metrics are those of one
    device, but for rounding; a further metric, ``further_rounds``, counts the exchanges of rows
    beyond the first one of each table.
    """
    items = ("item", "item")
    optimise = SplitUpdate(config, schema, steps_per_epoch, placement)

    def on_device(
        trained: tuple[Any, Any, Any],
        tables: Tables,
        batch: Batch,
        columns: RandomColumns | None,
        dropout_key: jax.Array,
    ) -> tuple[tuple[Any, Any, Any], Metrics]:
        params, batch_stats, slots = trained
        negatives = None
        if columns is not None:
            layout = placement.layouts.get(items)
            keep, alias = items_drawn(layout, tables.sampler, columns.column)
            draws = jnp.where(columns.uniform < keep, columns.column, alias)
            negatives = unequal(draws, jnp.asarray(batch.history)[:, 1:, None])
            negatives = shown_instead(config, batch, negatives)
        found = look_up_split(
            placement, config.model, schema, params, tables.features, batch, negatives
        )
        gradient = jax.grad(make_loss(config, found.schema, AXIS), has_aux=True)
        inputs = (found.features, found.batch, found.negatives)
        gradients, (batch_stats, metrics) = gradient(
            found.params, batch_stats, *inputs, dropout_key
        )
        params, slots, norm = optimise(params, slots, found.exchanges, gradients)
        metrics = {**jax.lax.psum(metrics, AXIS), "gradient_norm": norm}
        further = [exchange.further for exchange in found.exchanges.values()]
        rounds = sum(further, jnp.zeros((), jnp.int32))
        metrics["further_rounds"] = rounds.astype(jnp.float32)
        return (params, batch_stats, slots), metrics

    def train_step(state: TrainState, tables: Tables, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        sample_key, dropout_key, user_key = jax.random.split(key, 3)
        batch = with_unknown_items(config, batch, user_key)
        columns = None
        if draws_negatives(config, batch):
            shape = draws_shape(jnp.asarray(batch.history), config.model.auxiliary_negatives)
            columns = random_columns(sample_key, schema.num_items, shape)
        batch = with_unknown_users(config, batch, user_key)
        trained = (state.params, state.batch_stats, state.optimizer_state)
        specs = placement.specs(trained)
        sampler_specs = jax.tree.map(lambda _: placement.item_spec, tables.sampler)
        table_specs = Tables(placement.feature_specs(tables.features), sampler_specs)
        mapped = jax.shard_map(
            on_device,
            mesh=placement.mesh,
            in_specs=(specs, table_specs, P(AXIS), P(None, AXIS), P()),
            out_specs=(specs, P()),
            check_vma=False,
        )
        trained, metrics = mapped(trained, tables, batch, columns, dropout_key)
        return TrainState(*trained, state.step + 1, state.key), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_sharded_predict_step(
    config: Config, schema: Schema, placement: Placement
) -> Callable[..., jax.Array]:
    """Return :func:`~dien_jax.steps.score.make_predict_step` on several devices."""

    def on_device(
        params: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        logit_map: LogitMap | None,
    ) -> jax.Array:
        found = look_up_split(placement, config.model, schema, params, features, batch)
        model = InterestModel(config.model, found.schema, AXIS)
        variables = {"params": found.params, "batch_stats": batch_stats}
        inputs = (variables, found.batch, found.features)
        return probabilities_of(model, *inputs, logit_map)

    def predict(
        params: Any,
        batch_stats: Any,
        features: FeatureTables,
        batch: Batch,
        logit_map: LogitMap | None = None,
    ) -> jax.Array:
        specs = (placement.specs(params), P(), placement.feature_specs(features), P(AXIS), P())
        mapped = jax.shard_map(
            on_device, mesh=placement.mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False
        )
        return mapped(params, batch_stats, features, batch, logit_map)

    return jax.jit(predict)


def make_sharded_summary_step(
    config: Config, schema: Schema, placement: Placement
) -> Callable[..., dict[str, jax.Array]]:
    """Return :func:`~dien_jax.steps.score.make_summary_step` on several devices."""

    def on_device(params: Any, batch_stats: Any, features: FeatureTables, batch: Batch) -> dict:
        found = look_up_split(placement, config.model, schema, params, features, batch)
        variables = {"params": found.params, "batch_stats": batch_stats}
        model = InterestModel(config.model, found.schema, AXIS)
        return summary_of(model, variables, found.batch, found.features)

    def summarise(params: Any, batch_stats: Any, features: FeatureTables, batch: Batch) -> dict:
        specs = (placement.specs(params), P(), placement.feature_specs(features), P(AXIS))
        mapped = jax.shard_map(
            on_device, mesh=placement.mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False
        )
        return mapped(params, batch_stats, features, batch)

    return jax.jit(summarise)
