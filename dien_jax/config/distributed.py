"""The processes of a run on several hosts: settings that check themselves."""

import re
from dataclasses import dataclass
from typing import Annotated

import msgspec

from dien_jax.config.settings import check_values
from dien_jax.errors import UserError
from dien_jax.utils.json_values import Positive

LARGEST_PORT = 65535

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class DistributedConfig:
    """Processes of a run, one or more a host. They do not change what is trained.

    >>> from dien_jax.config import DistributedConfig
    >>> DistributedConfig("10.0.0.1:5000", processes=2, process=0).is_asked
    True
    >>> DistributedConfig().is_asked
    False

    Attributes:
      is_asked: whether the run has several processes, as far as the settings know.
    """

    coordinator: str | None = None
    """Address HOST:PORT where process 0 listens, a free port of its host. The same on every
    process; needs --distributed.processes and --distributed.process."""
    processes: Positive | None = None
    """Number of processes of the run, the same on every process. 1 is the program of one."""
    process: int | None = None
    """Number of this process, from 0. Process 0 writes the run folder and prints."""
    auto: bool = False
    """Take coordinator, number of processes and number of this process from the cluster manager:
    Slurm, Open MPI, Kubernetes or Cloud TPU."""
    timeout: Annotated[int, msgspec.Meta(ge=1, le=24 * 3600)] = 300
    """Seconds that a process waits at the start for all others."""

    def __post_init__(self) -> None:
        check_values(self, "distributed")
        three = {name: getattr(self, name) for name in ("coordinator", "processes", "process")}
        given = [f"distributed.{name}" for name, value in three.items() if value is not None]
        missing = [f"distributed.{name}" for name, value in three.items() if value is None]
        if self.auto and given:
            raise UserError(
                f"distributed.auto finds {', '.join(given)} by itself; give it alone, or all of "
                f"distributed.coordinator, distributed.processes and distributed.process"
            )
        if given and missing:
            raise UserError(
                f"distributed.coordinator, distributed.processes and distributed.process go "
                f"together; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            )
        if self.coordinator is not None:
            _check_address(self.coordinator)
        last = (self.processes or 1) - 1
        if self.process is not None and not 0 <= self.process <= last:
            raise UserError(
                f"distributed.process must be 0 to {last}, as distributed.processes is "
                f"{self.processes}, got {self.process}"
            )

    @property
    def is_asked(self) -> bool:
        return self.auto or (self.processes or 1) > 1


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= LARGEST_PORT:
        raise UserError(
            f"distributed.coordinator must be HOST:PORT with a port of 1 to {LARGEST_PORT}, such "
            f"as 10.0.0.1:5000, got {address!r}"
        )
