"""The sharded train step compiled for several devices that are not attached.

A slice of TPUs has a description in libtpu. XLA's CUDA compiler needs one of each device and the
number of devices.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from dien_kernels import Device, assume
from jax.experimental import topologies

from benchmarks.aot import cuda as aot_cuda
from benchmarks.aot import tpu as aot_tpu
from benchmarks.common.cases import schema_of
from benchmarks.common.compiled_text import collectives, kinds
from dien_jax.config.preset_files import with_settings
from dien_jax.config.settings import Config
from dien_jax.data.batch import example_batch
from dien_jax.data.schema import FeatureTables
from dien_jax.steps.negatives import Sampler
from dien_jax.steps.sharded import make_sharded_train_step
from dien_jax.steps.sharding import Placement
from dien_jax.steps.state import Tables, create_state

SLICES = {
    "tpu-v5e-4x4": ("tpu-v5e", "v5e:4x4"),
    "h100-x8": ("h100", "8"),
}
"""Target of one device, and the topology of a slice of TPUs or the number of GPUs."""
SURROUNDINGS = {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "LIBTPU_INIT_ARGS": ""}
"""Environment of libtpu for a slice."""
USERS, CATEGORIES = 1_000_000, 4000
COLUMNS = (
    "devices", "update", "rows", "batch", "collectives", "sent_mb", "further_round_mb", "peak_gb",
    "gflop", "whole_tables", "table_copies",
)  # fmt: skip


def devices(target: str) -> list[Any]:
    """Return the absent devices of a target in ``SLICES``.

    Raises:
      ModuleNotFoundError, RuntimeError: without the compiler.
    """
    of_one, topology = SLICES[target]
    if of_one in aot_tpu.TARGETS:
        aot_tpu.device(of_one)  # with its message where there is no compiler
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    return aot_cuda.devices(of_one, int(topology))


def train_step(
    config: Config, chips: list[Any], device: Device, rows: int, batch: int, steps: int
) -> dict[str, Any]:
    """Return what the compiled train step of the items' table of ``rows`` rows sends and holds.

    ``chips`` are :func:`devices`, each of which is a ``device``; ``batch`` are the examples of one.
    """
    schema = schema_of(rows, CATEGORIES, USERS)
    config = with_settings(config, {"train.batch_size": batch * len(chips)})
    with mock.patch.object(jax, "local_devices", return_value=chips):
        placement = Placement(len(chips), schema)
    with assume(device), _memory_unknown():
        step, arguments = _step(config, schema, placement, steps)
        program = step.lower(*arguments).compile()
    text = program.as_text()
    found = collectives(text, len(chips))
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    ordinary = [one for one in found if not one.in_loop]
    return {
        "devices": len(chips),
        "rows": rows,
        "batch": batch * len(chips),
        "steps": steps,
        "update": config.optim.embedding_update,
        "collectives": ", ".join(f"{n} {kind}" for kind, n in kinds(ordinary).items()),
        "sent_mb": sum(one.sent for one in ordinary) / 1e6,
        "further_round_mb": sum(one.sent for one in found if one.in_loop) / 1e6,
        "peak_gb": memory.peak_memory_in_bytes / 1e9,
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "temporary_gb": memory.temp_size_in_bytes / 1e9,
        "gflop": cost["flops"] / 1e9 if "flops" in cost else None,
        "whole_tables": len(re.findall(rf"\[(?:\d+,)*{rows}(?:,\d+)*\]", text)),
        "table_copies": _copies(text, placement.layouts["item", "item"].owned),
    }


def _copies(text: str, rows: int) -> int:
    """Return how often a program copies an array with a row for each of a device's items."""
    copies = re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|copy-start|transpose)\(", text)
    return sum(str(rows) in sizes.split(",") for sizes in copies)


@contextlib.contextmanager
def _memory_unknown() -> Iterator[None]:
    """Make no check of the memory of this machine, on which nothing runs."""
    with (
        mock.patch("dien_jax.steps.state.require_state_memory"),
        mock.patch("dien_jax.steps.state.require_step_memory"),
    ):
        yield


def _step(config: Config, schema: Any, placement: Placement, steps: int) -> tuple[Any, tuple]:
    """Return the step and the shapes of its arguments, with their places."""
    state = jax.eval_shape(lambda: create_state(config, schema, 100, 0, placement))
    specs = placement.specs(state._replace(key=state.step))._replace(key=None)
    shardings = placement.shardings(specs._replace(key=specs.step))

    def placed(tree: Any, on: Any) -> Any:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            on,
        )

    layout = placement.layouts["item", "item"]
    of_items: Any = jax.ShapeDtypeStruct((layout.owned * layout.devices,), jnp.int32)
    keep: Any = jax.ShapeDtypeStruct(of_items.shape, jnp.float32)
    by_row = jax.sharding.NamedSharding(placement.mesh, placement.item_spec)
    tables = Tables(FeatureTables({"category": of_items}, {}), Sampler(keep, of_items))
    tables = placed(tables, jax.tree.map(lambda _: by_row, tables))
    batch = example_batch(schema, batch_size=config.train.batch_size, steps=steps)
    rows = jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec("data"))
    batch = placed(batch, jax.tree.map(lambda _: rows, batch))
    step = make_sharded_train_step(config, schema, 100, placement)
    return step, (placed(state, shardings), tables, batch)


def without_statistics(config: Config, update: str) -> Config:
    """Return settings with an update of embeddings and without counts, which are not split."""
    model = dataclasses.replace(config.model, statistics=False, factors=False)
    optim = dataclasses.replace(config.optim, embedding_update=update)  # type: ignore[arg-type]
    return dataclasses.replace(config, model=model, optim=optim)
