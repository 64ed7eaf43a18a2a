"""A process of a run of several, as a program: ``SIGNAL STEP`` and the flags of ``train``.

It sends itself the signal, if that is not 0, before a step. Tables of more than two rows are split.
"""

import os
import sys
import time
from typing import Any

from dien_jax import train
from dien_jax.steps import embedding_rows


def main() -> int:
    """Train, with a short time after which a process that is not heard of has ended."""
    from dien_jax.training import hosts, loop

    embedding_rows.DENSE_ROWS = 2
    hosts.HEARTBEAT_SECONDS = 5
    number, at = map(int, sys.argv[1:3])
    take = loop.Trainer._step

    def step(self: Any, *arguments: Any) -> None:
        if number and self.progress.step == at:
            os.kill(os.getpid(), number)
        if number and self.progress.step >= at:  # JAX looks once a second whether there was SIGTERM
            time.sleep(1)
        take(self, *arguments)

    loop.Trainer._step = step  # type: ignore[method-assign]
    return train.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
