"""Starts the processes of a run as forks of one that has imported what they need.

Each line of standard input is a list of processes in JSON, each line of standard output the list of
their exit statuses, less than 0 for a signal. A process may send itself a signal before a step.
Tables of more than two rows are split.
"""

import importlib
import json
import os
import signal
import sys
import time
import warnings
from typing import Any

from dien_jax import train
from dien_jax.steps import rows as embedding_rows
from dien_jax.training import hosts, loop

LATE = ("dien_jax.training.run", "matplotlib.figure", "orbax.checkpoint")
"""Modules that a run imports late; they are imported before the first fork."""


def prepare(job: dict[str, Any]) -> None:
    """Make this process one of a run."""
    for stream, name in ((1, "output"), (2, "said")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.update(job["environment"])
    embedding_rows.DENSE_ROWS = 2
    hosts.HEARTBEAT_SECONDS = 5
    number, at = job["signal"]
    take = loop.Trainer._step

    def step(self: Any, *arguments: Any) -> None:
        if number > 0 and self.progress.step == at:
            os.kill(os.getpid(), number)
        if number > 0 and self.progress.step >= at:  # JAX looks for SIGTERM once a second
            time.sleep(1)
        take(self, *arguments)

    loop.Trainer._step = step  # type: ignore[method-assign]


def wait(child: int, deadline: float) -> int:
    """Wait for the end of a child, which is killed at the deadline; return its exit status."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def main() -> int:
    """Serve until standard input ends."""
    warnings.simplefilter("ignore")  # of forks: no thread has been started
    for name in LATE:
        importlib.import_module(name)
    for line in sys.stdin:
        children, stopped = [], set()
        for job in json.loads(line):
            child = os.fork()
            if not child:
                prepare(job)
                return train.main(job["flags"])
            children.append(child)
            if job["signal"][0] == signal.SIGSTOP:
                stopped.add(child)  # it would never end
        deadline = time.monotonic() + float(sys.argv[1])
        ended = {child: wait(child, deadline) for child in children if child not in stopped}
        ended |= {child: wait(child, time.monotonic()) for child in stopped}
        print(json.dumps([ended[child] for child in children]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
