"""Signals that a process sends itself, and ends of a :class:`support.forks.Job` by them."""

import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.training import loop


def signalling(function: Callable[..., Any], call: int, *numbers: int) -> Callable[..., Any]:
    """Return a function that sends this process signals before its call of that number."""
    calls = itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return counted


def before_save(call: int) -> None:
    """Save at every report, and kill the process before the ``call``-th save."""
    loop.SAVE_SECONDS = -1.0
    save = signalling(Checkpoints.save, call, signal.SIGKILL)
    Checkpoints.save = save  # type: ignore[method-assign]


def by_two_signals(step: int) -> None:
    """Send the process SIGINT and SIGTERM before a step."""
    take = signalling(loop.Trainer._step, step, signal.SIGINT, signal.SIGTERM)
    loop.Trainer._step = take  # type: ignore[method-assign]
