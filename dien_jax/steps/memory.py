"""Least memory of a run on the device, estimated before anything is allocated or compiled."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.steps.embedding_rows import large_tables, table_of, tables_by_row
from dien_jax.utils.memory import machine_bytes, require_memory
from dien_jax.utils.processes import count


def require_state_memory(
    shapes: Any, config: Config, schema: Schema, shardings: Any = None
) -> None:
    """Refuse parameters and optimizer state that are larger than the device's memory.

    ``shapes`` are parameters first, then everything else; ``shardings`` say what each of several
    devices has of them. What is updated densely also needs room for its gradient, at least for the
    largest one; tables that are updated by row do not.
    """
    update, devices = config.optim.embedding_update, 1
    by_row = tables_by_row(update, schema)
    named = jax.tree_util.tree_flatten_with_path(shapes)[0]
    parts = [leaf.shape for _, leaf in named]
    if shardings is not None:
        placed = jax.tree.leaves(shardings)
        parts = [on.shard_shape(part) for on, part in zip(placed, parts, strict=True)]
        devices = placed[0].num_devices
    counts = [math.prod(part) for part in parts]
    sizes = [n * leaf.dtype.itemsize for n, (_, leaf) in zip(counts, named, strict=True)]
    parameters = len(jax.tree.leaves(shapes[0]))
    dense = [
        size
        for size, (path, _) in zip(sizes[:parameters], named, strict=False)
        if table_of(path) not in by_row
    ]
    where = f" on each of {devices} devices" if devices > 1 else ""
    subject = f"{sum(counts[:parameters]):,} parameters{where} and their optimizer state"
    advice = "choose smaller model sizes"
    if large_tables(schema) and update != "rowwise_adagrad":
        advice += " or optim.embedding_update rowwise_adagrad"
    require_memory(sum(sizes) + max(dense), _device_bytes(devices), subject, advice)


def require_step_memory(
    config: Config, schema: Schema, rows: int, steps: int, devices: int = 1
) -> None:
    """Refuse a training step on ``rows`` histories of ``steps`` events that exceeds the memory.

    Each of several devices has its share of the rows.
    """
    rows = -(-rows // devices)
    subject = f"the activations of {rows:,} histories of {steps:,} events"
    names = ["train.batch_size"] * (rows > 1) + ["train.max_history"]
    if config.model.auxiliary_weight:
        names.append("model.auxiliary_negatives")
    advice = f"choose a smaller {', '.join(names)} or model"
    needed = step_bytes(config, schema, rows, steps)
    require_memory(needed, _device_bytes(devices), subject, advice)


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
    return rows * (of_row + steps * 4 * ids)


def _device_bytes(devices: int = 1) -> int | None:
    """Return the memory of one of the devices of a run; None where it is unknown.

    The CPUs of a process share that of its machine.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    memory = machine_bytes()
    return None if memory is None else memory // max(1, devices // count())
