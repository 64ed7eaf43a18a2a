"""Runs commands in forks of a process that has imported them, so that each takes a moment to start.

The first argument is the folder of the output; each line of standard input is a job in JSON, and
each line of standard output its exit status, or less than 0 for the signal that ended it.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from typing import Any

MODULES = {
    "prepare": (
        "dien_jax.preparation.pipeline.from_columns",
        "dien_jax.preparation.pipeline.from_interactions",
    ),
    "export": ("jax.export",),
    "train": ("dien_jax.training.run", "matplotlib.figure"),
    "reproduce": ("dien_jax.training.run", "lightgbm", "matplotlib.figure"),
}
"""Modules that a command imports late; they are imported before its first fork."""


def run(job: dict[str, Any]) -> int:
    """Run the command of a job, in a child that never returns."""
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    command, *arguments = job["command"]
    status: Any = 1
    try:
        status = importlib.import_module(f"dien_jax.{command}").main(arguments)
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def wait(child: int, job: dict[str, Any]) -> int:
    """Wait for a child, send it a signal after some seconds if they are given, or kill it."""
    start, moments = time.monotonic(), [(job["limit"], signal.SIGKILL)]
    if job["seconds"] is not None:
        moments.insert(0, (job["seconds"], job["kill"]))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if moments and time.monotonic() - start >= moments[0][0]:
            os.kill(child, moments.pop(0)[1])
        time.sleep(0.002)


def main() -> None:
    """Serve jobs until standard input ends."""
    warnings.simplefilter("ignore")  # of forks: no thread has been started
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        command = job["command"][0]
        for name in (f"dien_jax.{command}", *MODULES.get(command, ())):
            importlib.import_module(name)
        child = os.fork()
        if not child:
            run(job)
        print(wait(child, job), flush=True)


if __name__ == "__main__":
    main()
