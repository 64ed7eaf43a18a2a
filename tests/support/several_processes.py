"""Runs of several processes on this machine, which talk over the loopback interface."""

import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from dien_jax.training import hosts, loop
from support import tiny_run
from support.forks import Ended, Forks, Job
from support.programs import free_port

LIBRARIES = ("[Gloo]", "I1", "W1", "E1", "F1")
"""Starts of lines that libraries print: the level and the month of those of XLA."""
LIMIT = 240
"""Seconds after which processes hang."""
NEEDS_NEWER_JAX = pytest.mark.skipif(
    jax.__version_info__ < (0, 12),
    reason="several processes on CPUs need JAX 0.12: before, one that waits 30 seconds fails",
)


Signals = dict[int, tuple[int, int]]
"""By process, a signal that it sends itself and the step before which it does."""
forks = functools.cache(Forks)
"""The process whose forks the processes are."""


def distributed(process: int, port: int) -> list[str]:
    """The flags of one of two processes."""
    return [
        f"--distributed.coordinator=localhost:{port}",
        "--distributed.processes=2",
        f"--distributed.process={process}",
    ]


def run_together(
    *given: Sequence[str | Path],
    devices: int = 1,
    signals: Signals | None = None,
    variables: Callable[[int], dict[str, str]] = lambda process: {},
) -> list[Ended]:
    """Run a process for each list of flags at once, and wait for all."""
    environment = {}
    if devices > 1:
        count = f"--xla_force_host_platform_device_count={devices}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
    return forks().run(
        *(
            Job(
                ("train", *map(str, arguments)),
                environment=environment | variables(process),
                moments=((LIMIT, int(signal.SIGKILL)),),
                patch="support.several_processes:be_one_of_several",
                given=tuple(map(int, (signals or {}).get(process, (0, 0)))),
            )
            for process, arguments in enumerate(given)
        )
    )


def be_one_of_several(number: int, at: int) -> None:
    """Make a process one of a run: a loss of another is soon seen.

    Unless ``number`` is 0, the process sends itself that signal before step ``at``.
    """
    hosts.HEARTBEAT_SECONDS = 5
    take = loop.Trainer._step

    def step(self: Any, *arguments: Any) -> None:
        if number > 0 and self.progress.step == at:
            os.kill(os.getpid(), number)
        if number > 0 and self.progress.step >= at:  # JAX looks for SIGTERM once a second
            time.sleep(1)
        take(self, *arguments)

    loop.Trainer._step = step  # type: ignore[method-assign]


def run_two(given: Sequence[str | Path], signals: Signals | None = None) -> list[Ended]:
    """Run two processes of one device each, with the same flags."""
    port = free_port()
    both = ([*given, *distributed(process, port)] for process in range(2))
    return run_together(*both, signals=signals)


def flags(data: Path, folder: Path) -> list[str]:
    """A whole command line of a small model whose large tables are updated by row."""
    return [*tiny_run.light_flags(data, folder), "--optim.embedding-update=lazy_adam"]


def assert_same(folder: Path, other: Path) -> None:
    tiny_run.assert_same(folder, other, "versions")


def lines_of(text: str) -> list[str]:
    """The lines of an output, without those of libraries."""
    return [line for line in text.splitlines() if not line.startswith(LIBRARIES)]
