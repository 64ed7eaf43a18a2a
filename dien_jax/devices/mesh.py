"""The devices of a run: a mesh with one axis over those of all processes, process by process."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from dien_jax.config.settings import MeshConfig
from dien_jax.errors import UserError
from dien_jax.utils.processes import count

AXIS = "data"
"""Name of the axis of the mesh."""


def devices_there() -> list[list[jax.Device]]:
    """Return the devices of each process of the run."""
    return [jax.local_devices(process) for process in range(count())]


def devices_in_use(mesh: MeshConfig, batch_size: int) -> list[jax.Device]:
    """Return the devices for a batch size, process by process.

    Every process has the same number of them. More devices than there are, or a number that does
    not fit, is a ``UserError``.
    """
    there = devices_there()
    share = _number(mesh.data, there, batch_size) // len(there)
    return [device for of_process in there for device in of_process[:share]]


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh; devices of a process are adjacent, as are its rows of a batch."""
    kind = (AxisType.Auto,)
    if count() == 1:
        return jax.make_mesh((len(devices),), (AXIS,), axis_types=kind, devices=devices)
    return Mesh(np.array(devices), (AXIS,), axis_types=kind)


def _number(asked: int | None, devices: list[list[jax.Device]], batch_size: int) -> int:
    """Return the number of devices to use, of all processes."""
    processes, there = len(devices), sum(map(len, devices))
    usable = [n for n in range(processes, there + 1, processes) if batch_size % n == 0]
    if not usable:
        raise UserError(
            f"train.batch_size must be a multiple of the {processes} processes of the run, got "
            f"{batch_size}"
        )
    if asked is None:
        return usable[-1]
    if asked not in usable:
        whole = f"a multiple of the {processes} processes, " if processes > 1 else ""
        raise UserError(
            f"mesh.data must be one of {', '.join(map(str, usable))}: a divisor of "
            f"train.batch_size {batch_size}, {whole}and at most the number of devices, {there}; "
            f"got {asked}"
        )
    return asked
