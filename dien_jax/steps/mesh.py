"""The devices of a run: one axis over those of all its processes, each process's in sequence."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dien_jax.config.settings import MeshConfig
from dien_jax.errors import UserError
from dien_jax.utils.processes import count

AXIS = "data"
"""Name of the axis of the mesh."""


def devices_in_use(mesh: MeshConfig, batch_size: int) -> int:
    """Return the number of devices for batches of a size; a ``UserError`` for one that fits not.

    Several processes have the same number of them each.
    """
    processes = count()
    there = jax.local_device_count() if processes == 1 else jax.device_count()
    usable = [n for n in range(processes, there + 1, processes) if batch_size % n == 0]
    if not usable:
        raise UserError(
            f"train.batch_size must be a multiple of the {processes} processes of the run, got "
            f"{batch_size}"
        )
    if mesh.data is None:
        return usable[-1]
    if mesh.data > there:
        devices = "device" if there == 1 else "devices"
        owner = "this machine has" if processes == 1 else f"the {processes} processes have"
        raise UserError(
            f"mesh.data must be at most {there}, as {owner} {there} {devices}, got {mesh.data}"
        )
    if mesh.data % processes:
        raise UserError(
            f"mesh.data counts the devices of all processes and must be a multiple of their number "
            f"{processes}, got {mesh.data}"
        )
    if batch_size % mesh.data:
        *others, last = map(str, usable)
        fitting = f"{', '.join(others)} or {last}" if others else last
        more = -(-batch_size // mesh.data) * mesh.data
        raise UserError(
            f"mesh.data must divide train.batch_size {batch_size}, got {mesh.data}; of {there} "
            f"devices {fitting} can be used, or choose --train.batch-size {more}"
        )
    return mesh.data


def mesh_of(devices: int, processes: int) -> Mesh:
    """Return the mesh; devices of a process follow each other, as its rows of a batch do."""
    kind = (AxisType.Auto,)
    if processes == 1:
        chosen = jax.local_devices()[:devices]
        return jax.make_mesh((devices,), (AXIS,), axis_types=kind, devices=chosen)
    share = devices // processes
    chosen = [d for process in range(processes) for d in jax.local_devices(process)[:share]]
    return Mesh(np.array(chosen), (AXIS,), axis_types=kind)
