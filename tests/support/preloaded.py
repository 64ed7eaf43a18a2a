"""Commands under a preloaded library that fails or kills them at their n-th change of a folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.faults import Ending

SOURCE = Path(__file__).with_name("disk_faults.c")
SERVER = Path(__file__).with_name("fork_server.py")
LIMIT = 600.0
"""Seconds after which a command hangs."""


@dataclass
class Preloaded:
    """A process with the library, which runs commands in forks of itself."""

    scratch: Path
    server: "subprocess.Popen[str]"

    def run(
        self,
        folder: Path,
        *command: str,
        at: int = 0,
        error: int = 0,
        stays: bool = False,
        seconds: float | None = None,
        kill: int = signal.SIGKILL,
    ) -> Ending:
        """Run a command in a folder.

        Args:
          folder: current folder of the command; calls on files below it are counted.
          command: name of the command, and its arguments.
          at: number of the call that fails or, without ``error``, before which the process gets a
            signal.
          error: the call's errno.
          stays: whether later calls fail too.
          seconds: time after which the process gets a signal.
          kill: number of the signal.
        """
        output, log = self.scratch / "output", self.scratch / "log"
        log.unlink(missing_ok=True)
        environment = {"FAULT_FOLDER": str(folder), "FAULT_LOG": str(log)}
        environment |= {"FAULT_AT": str(at), "FAULT_ERROR": str(error)}
        environment |= {"FAULT_STAYS": "1"} if stays else {}
        environment |= {"FAULT_SIGNAL": str(int(kill))}
        job: dict[str, Any] = {"folder": str(folder), "command": command, "output": str(output)}
        job |= {"environment": environment, "seconds": seconds, "limit": LIMIT, "kill": int(kill)}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        return Ending(status, output.read_text(errors="replace"))

    def calls(self) -> list[str]:
        """Return the calls of the last command that were counted, such as ``rename /data``."""
        log = self.scratch / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.partition(" ")[2] for line in lines]


@contextmanager
def start(scratch: Path) -> Iterator[Preloaded]:
    """Build the library and start the process."""
    library = scratch / "disk_faults.so"
    compiler = shutil.which("cc")
    assert compiler is not None
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), "JAX_PLATFORMS": "cpu"}
    environment["OMP_NUM_THREADS"] = "1"  # threads of boosted trees spin where cores are taken
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, SERVER], env=environment, text=True, **pipes) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield Preloaded(scratch, server)
        finally:
            server.kill()
