"""The devices of a run: on one axis of a mesh, those of all processes, process by process."""

import jax

from dien_jax.config.settings import MeshConfig
from dien_jax.errors import UserError
from dien_jax.utils.console import say
from dien_jax.utils.processes import count

AXIS = "data"
"""Name of the axis of the mesh."""


def devices_in_use(mesh: MeshConfig, batch_size: int) -> list[jax.Device]:
    """Return the devices for a batch size, process by process; say so if it leaves some unused.

    Every process has the same number of them, at most that of the process with fewest. More devices
    than there are, or a number that does not fit, is a ``UserError``.
    """
    devices = [jax.local_devices(process) for process in range(count())]
    processes = len(devices)
    there = processes * min(map(len, devices))
    usable = [n for n in range(processes, there + 1, processes) if batch_size % n == 0]
    if not usable:
        raise UserError(
            f"train.batch_size must be a multiple of the {processes} processes of the run, got "
            f"{batch_size}"
        )
    number = usable[-1] if mesh.data is None else mesh.data
    if number not in usable:
        whole = f"a multiple of the {processes} processes, " if processes > 1 else ""
        raise UserError(
            f"mesh.data must be one of {', '.join(map(str, usable))}: a divisor of "
            f"train.batch_size {batch_size}, {whole}and at most the number of devices, {there}; "
            f"got {number}"
        )
    if mesh.data is None and number < there:
        reason = f"train.batch_size {batch_size} is a multiple of no larger number"
        say(f"{number} of {there} devices in use: {reason}")
    return [device for of_process in devices for device in of_process[: number // processes]]
