"""Tests that need libtpu, a compiler for TPUs, but no TPU."""

import importlib.util

import pytest
from support.programs import printed

SHARDED = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dien_kernels import Device, assume
from support.recurrences import call, operands

devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
mesh = Mesh(np.array(devices), ("data",))
rows, specs = P("data"), (P("data"), P("data"), P(), P("data"), P("data"))
x, attention, weights, lengths, initial = operands("augru", batch=512, steps=16, hidden=36)

def run(x, attention, weights, initial, lengths):
    return call("augru", x, attention, weights, lengths, initial, implementation="mosaic_tpu")

def loss(*arrays):
    split = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    states, last = split(*arrays)
    return (states ** 2).sum() + last.sum(), states

def placed(tree, spec):
    sharding = NamedSharding(mesh, spec)
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(shape, tree)

arguments = map(placed, (x, attention, weights, initial, lengths), specs)
with assume(Device("tpu", "TPU v5 lite")):
    step = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))
    compiled = step.lower(*arguments).compile()
(d_x, d_attention, _, d_initial), states = compiled.output_shardings
assert all(each.spec[0] == "data" for each in (d_x, d_attention, d_initial, states))
program = compiled.as_text()
assert program.count('custom_call_target="tpu_custom_call"') == 2
gathered = re.findall(r"= (\\S+) all-gather", program)
assert not [each for each in gathered if each.count(",") >= 2], gathered
assert "all-reduce" in program
print("compiled for", len(devices))
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_rows_split_over_four_tpus_compile() -> None:
    """One launch in each direction on each device's own rows; weight gradients are summed."""
    shown = printed(
        SHARDED,
        JAX_PLATFORMS="cpu",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    assert shown.split()[-1:] == ["4"]
