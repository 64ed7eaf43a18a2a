"""Commands in forks of a process that has imported them, so that each takes a moment to start.

As a program: each line of standard input is a list of jobs in JSON, which run at once, and each
line of standard output the list of their exit statuses, less than 0 for the signal that ended one.
"""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

MODULES = {
    "prepare": (
        "dien_jax.preparation.pipeline.from_columns",
        "dien_jax.preparation.pipeline.write",
    ),
    "export": ("jax.export",),
    "train": ("dien_jax.training.run", "matplotlib.figure", "orbax.checkpoint"),
    "reproduce": ("dien_jax.training.run", "lightgbm", "matplotlib.figure"),
}
"""Modules that a command imports late; they are imported before its first fork."""


@dataclass(frozen=True)
class Job:
    """A command, and what comes between.

    Attributes:
      command: name of the command, and its arguments.
      folder: its current folder.
      environment: variables to set.
      moments: seconds from its start, and the number of the signal that it gets then.
      patch: ``"MODULE:FUNCTION"``, called before the command.
      given: arguments of that function.
    """

    command: tuple[str, ...]
    folder: str = "."
    environment: dict[str, str] = field(default_factory=dict)
    moments: tuple[tuple[float, int], ...] = ((600.0, signal.SIGKILL),)
    patch: str = ""
    given: tuple[Any, ...] = ()


class Ended(NamedTuple):
    """Exit status of a command, and its standard output and error."""

    status: int
    output: str
    said: str


class Forks:
    """A process whose forks run commands; it ends with this one."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *jobs: Job) -> list[Ended]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            places = [[f"{scratch}/{name}{n}" for name in ("out", "err")] for n in range(len(jobs))]
            pairs = zip(map(dataclasses.asdict, jobs), places, strict=True)
            self.process.stdin.write(json.dumps([[job, files] for job, files in pairs]) + "\n")
            self.process.stdin.flush()
            statuses = json.loads(self.process.stdout.readline())
            texts = [[Path(file).read_text(errors="replace") for file in files] for files in places]
        return [Ended(status, *pair) for status, pair in zip(statuses, texts, strict=True)]

    def end(self) -> None:
        with self.process:
            self.process.kill()


def _named(patch: str) -> Any:
    module, _, function = patch.partition(":")
    return getattr(importlib.import_module(module), function)


def _run(job: dict[str, Any], files: list[str]) -> None:
    """Run the command of a job, in a child that never returns."""
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    command, *arguments = job["command"]
    status: Any = 1
    try:
        if job["patch"]:
            _named(job["patch"])(*job["given"])
        status = importlib.import_module(f"dien_jax.{command}").main(arguments)
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def _statuses(moments: dict[int, list[tuple[float, int]]]) -> list[int]:
    """Wait for children, which get signals at their moments; return their exit statuses."""
    begun, ended = time.monotonic(), dict[int, int]()
    while len(ended) < len(moments):
        for child in moments.keys() - ended.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ended[child] = os.waitstatus_to_exitcode(status)
            elif moments[child] and time.monotonic() - begun >= moments[child][0][0]:
                os.kill(child, moments[child].pop(0)[1])
        time.sleep(0.002)
    return [ended[child] for child in moments]


def main() -> None:
    """Serve jobs until standard input ends."""
    warnings.simplefilter("ignore")  # of forks: no thread has been started
    for line in sys.stdin:
        jobs, moments = json.loads(line), {}
        for job, _ in jobs:
            command = job["command"][0]
            for name in (f"dien_jax.{command}", *MODULES.get(command, ())):
                importlib.import_module(name)
            if job["patch"]:
                _named(job["patch"])
        for job, files in jobs:
            child = os.fork()
            if not child:
                _run(job, files)
            moments[child] = sorted(job["moments"])
        print(json.dumps(_statuses(moments)), flush=True)


if __name__ == "__main__":
    main()
