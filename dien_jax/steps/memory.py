"""Least memory of a run on the device, estimated before anything is allocated or compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.steps.embedding_rows import large_tables, table_of, tables_by_row
from dien_jax.utils.memory_limit import machine_bytes, require_memory


def require_state_memory(shapes: Any, config: Config, schema: Schema) -> None:
    """Refuse parameters and optimizer state that are larger than the device's memory.

    ``shapes`` are parameters first, then everything else. What is updated densely also needs room
    for its gradient, at least for the largest one; tables that are updated by row do not.
    """
    update = config.optim.embedding_update
    by_row = tables_by_row(update, schema)
    leaves = jax.tree_util.tree_flatten_with_path(shapes[0])[0]
    dense = [
        leaf.size * leaf.dtype.itemsize for path, leaf in leaves if table_of(path) not in by_row
    ]
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) + max(dense)
    subject = f"{sum(leaf.size for _, leaf in leaves):,} parameters and their optimizer state"
    advice = "choose smaller model sizes"
    if large_tables(schema) and update != "rowwise_adagrad":
        advice += " or optim.embedding_update rowwise_adagrad"
    require_memory(needed, _device_bytes(), subject, advice)


def require_step_memory(config: Config, schema: Schema, rows: int, steps: int) -> None:
    """Refuse a training step on ``rows`` histories of ``steps`` events that exceeds the memory."""
    subject = f"the activations of {rows:,} histories of {steps:,} events"
    names = ["train.batch_size"] * (rows > 1) + ["train.max_history"]
    if config.model.auxiliary_weight:
        names.append("model.auxiliary_negatives")
    if config.model.ensemble > 1:
        names.append("model.ensemble")
    advice = f"choose a smaller {', '.join(names)} or model"
    require_memory(step_bytes(config, schema, rows, steps), _device_bytes(), subject, advice)


def step_bytes(config: Config, schema: Schema, rows: int, steps: int) -> int:
    """Return the size of arrays that the gradient of a step reads: embeddings, states, layers.

    It leaves out what a compiler may compute again or never store.
    """
    model = config.model
    embedding = len(schema.item) * model.embedding_size
    numbers, ids = embedding, 1
    if model.extractor == "gru":
        numbers += model.hidden_size
    if model.evolution not in ("none", "attention"):
        numbers += model.hidden_size
    if model.evolution != "none" and model.attention == "mlp":
        numbers += sum(model.attention_layers)
    if model.auxiliary_weight:
        numbers += (1 + model.auxiliary_negatives) * embedding
        ids += model.auxiliary_negatives
    size = jnp.dtype(model.compute).itemsize
    of_row = steps * numbers * size + sum(model.layers) * size
    return rows * (model.ensemble * of_row + steps * 4 * ids)


def _device_bytes() -> int | None:
    """Return the memory of the device, of the machine for a CPU; None where it is unknown."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    return machine_bytes()
