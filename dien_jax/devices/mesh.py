"""The devices of a run: one axis over those of all its processes, each process's in sequence."""

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
    processes = count()
    if processes == 1:
        return [jax.local_devices()]
    return [jax.local_devices(process) for process in range(processes)]


def devices_in_use(mesh: MeshConfig, batch_size: int) -> list[jax.Device]:
    """Return the devices for batches of a size, those of a process in sequence.

    Several processes have the same number of them each.

    Raises:
      UserError: for devices that are not there, or a number of them that fits not.
    """
    there = devices_there()
    if mesh.devices is not None:
        return _named(mesh.devices, there, batch_size)
    share = _number(mesh.data, there, batch_size) // len(there)
    return [device for of_process in there for device in of_process[:share]]


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh; devices of a process follow each other, as its rows of a batch do."""
    kind = (AxisType.Auto,)
    if count() == 1:
        return jax.make_mesh((len(devices),), (AXIS,), axis_types=kind, devices=devices)
    return Mesh(np.array(devices), (AXIS,), axis_types=kind)


def _number(asked: int | None, devices: list[list[jax.Device]], batch_size: int) -> int:
    """Return the number of devices to use of those of each process."""
    processes, there = len(devices), sum(map(len, devices))
    usable = [n for n in range(processes, there + 1, processes) if batch_size % n == 0]
    if not usable:
        raise UserError(
            f"train.batch_size must be a multiple of the {processes} processes of the run, got "
            f"{batch_size}"
        )
    if asked is None:
        return usable[-1]
    if asked > there:
        name = "device" if there == 1 else "devices"
        owner = "this machine has" if processes == 1 else f"the {processes} processes have"
        raise UserError(
            f"mesh.data must be at most {there}, as {owner} {there} {name}, got {asked}"
        )
    if asked % processes:
        raise UserError(
            f"mesh.data counts the devices of all processes and must be a multiple of their number "
            f"{processes}, got {asked}"
        )
    if batch_size % asked:
        *others, last = map(str, usable)
        fitting = f"{', '.join(others)} or {last}" if others else last
        raise UserError(
            f"mesh.data must divide train.batch_size {batch_size}, got {asked}; of {there} "
            f"devices {fitting} can be used, or choose {_larger_batch(batch_size, asked)}"
        )
    return asked


def _named(ids: Sequence[int], there: list[list[jax.Device]], batch_size: int) -> list[jax.Device]:
    """Return the devices with some ids, of each process in the order in which they are given."""
    known = {device.id for of_process in there for device in of_process}
    unknown = [number for number in ids if number not in known]
    if unknown:
        raise UserError(
            f"mesh.devices must be ids of devices that are there, {_ranges(sorted(known))}, got "
            f"{unknown[0]}"
        )
    chosen = [[d for number in ids for d in of_process if d.id == number] for of_process in there]
    numbers = list(map(len, chosen))
    if min(numbers) < max(numbers):
        few, many = numbers.index(min(numbers)), numbers.index(max(numbers))
        raise UserError(
            f"mesh.devices must name as many devices of each process, got {numbers[few]} of "
            f"process {few} and {numbers[many]} of process {many}; theirs are "
            f"{_ranges([d.id for d in there[few]])} and {_ranges([d.id for d in there[many]])}"
        )
    if batch_size % len(ids):
        raise UserError(
            f"the number of mesh.devices must divide train.batch_size {batch_size}, got "
            f"{len(ids)}; name fewer, or choose {_larger_batch(batch_size, len(ids))}"
        )
    return [device for of_process in chosen for device in of_process]


def _larger_batch(batch_size: int, devices: int) -> str:
    return f"--train.batch-size {-(-batch_size // devices) * devices}"


def _ranges(ids: Sequence[int]) -> str:
    """Return rising numbers as text, such as ``0 to 3, 8``."""
    ends: list[list[int]] = []
    for number in ids:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(f"{one}" if one == other else f"{one} to {other}" for one, other in ends)
