"""Optimizers and learning-rate schedules, through optax."""

import dataclasses
from typing import Any

import jax
import optax

from dien_jax.config.settings import Config, OptimConfig
from dien_jax.data.schema import Schema
from dien_jax.model.logistic_regression import FITTED
from dien_jax.steps.rows import large_tables, scale_by_rowwise_adagrad, table_of


def learning_rate(config: OptimConfig, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """Return the learning rate of each step, warm-up included."""
    peak = config.learning_rate
    if config.schedule == "halving":
        schedule = optax.exponential_decay(peak, steps_per_epoch, 0.5, staircase=True)
    elif config.schedule == "cosine":
        total = steps_per_epoch * epochs
        schedule = optax.cosine_decay_schedule(peak, max(total - config.warmup_steps, 1))
    else:
        schedule = optax.constant_schedule(peak)
    if not config.warmup_steps:
        return schedule
    rise = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([rise, schedule], [config.warmup_steps])


def make_optimizer(
    config: Config, schema: Schema, steps_per_epoch: int, *, clips: bool = True
) -> optax.GradientTransformation:
    """Return Adam or AdamW with the configured schedule, clipping and decay.

    With ``embedding_update="rowwise_adagrad"`` large embedding tables have row-wise Adagrad.
    Without ``clips`` gradients must be clipped already; the optimizer state is the same.
    """
    optim = config.optim
    schedule = learning_rate(optim, steps_per_epoch, config.train.epochs)
    if optim.name == "adam":
        update = optax.adam(schedule)
    else:
        update = optax.adamw(schedule, weight_decay=optim.weight_decay, mask=_decayed)
    if optim.embedding_update == "rowwise_adagrad":
        table_optim = dataclasses.replace(optim, learning_rate=optim.embedding_learning_rate)
        table_schedule = learning_rate(table_optim, steps_per_epoch, config.train.epochs)
        descend = optax.scale_by_learning_rate(table_schedule)
        table_update = optax.chain(scale_by_rowwise_adagrad(), descend)
        large = large_tables(schema)

        def kinds(params: Any) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: "table" if table_of(path) in large else "rest", params
            )

        update = optax.partition({"table": table_update, "rest": update}, kinds)
    if optim.clip_norm is not None:
        clip = optax.clip_by_global_norm(optim.clip_norm) if clips else optax.identity()
        update = optax.chain(clip, update)

    def lenient(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Optax raises floats to an int32 count, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return update.update(gradients, state, params)

    return optax.GradientTransformation(update.init, lenient)


def _decayed(params: Any) -> Any:
    """Mark the parameters that weight decay changes: matrices of the networks."""

    def decays(path: tuple, leaf: jax.Array) -> bool:
        part = str(path[0].key)
        return leaf.ndim > 1 and not part.endswith("_embeddings") and part not in FITTED

    return jax.tree_util.tree_map_with_path(decays, params)
