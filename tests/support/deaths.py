"""Ends of a process that trains: patches of a :class:`support.forks.Job`."""

import itertools
import os
import signal
from typing import Any

from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.training import loop, parts


def before_save(call: int) -> None:
    """Save at every report, and kill the process before the ``call``-th save."""
    save, calls = Checkpoints.save, itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments, **options)

    loop.SAVE_SECONDS = -1.0
    Checkpoints.save = counted  # type: ignore[method-assign]


def by_two_signals(step: int) -> None:
    """Send the process SIGINT and SIGTERM after a step."""
    take, calls = parts.make_train_step, itertools.count(1)

    def counted(*arguments: Any) -> Any:
        made = take(*arguments)

        def taken(*of_step: Any) -> Any:
            result = made(*of_step)
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
            return result

        return taken

    parts.make_train_step = counted  # type: ignore[assignment]
