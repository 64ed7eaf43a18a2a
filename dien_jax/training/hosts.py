"""The start, the stop and the end of a run of several processes.

``jax.distributed`` connects the processes, passes SIGTERM on, and aborts the others when one has
ended. This module adds a message, which says what to do, and an exit status.
"""

import contextlib
import ctypes
import itertools
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from dien_jax.config.settings import DistributedConfig
from dien_jax.errors import Interrupted, NotFiniteError, UserError, reason
from dien_jax.utils.console import print_as_process, say_error
from dien_jax.utils.processes import SharedError, agree, check_counts, count, exchange, index

HEARTBEAT_SECONDS = 30
"""Time without a heartbeat after which a process counts as ended."""
SHUTDOWN_SECONDS = 60
"""Time that a process waits for the others when it ends."""
LOST = 3
"""Exit status of a process that cannot continue because another one has ended."""
MISTAKE = 2
"""Exit status of a process that was started wrongly."""

_FAILED_OPERATION = re.compile("[A-Z_]+: ")
"""Start of the message of an XLA error of any type: its status code."""

_handlers: list[Any] = []
"""Functions that C calls, which must not be garbage-collected."""
_is_alone = False
"""Whether this process ends without the others."""
_calls = itertools.count(1)


@contextlib.contextmanager
def processes_of(config: DistributedConfig) -> Iterator[None]:
    """Connect the processes of a run, and disconnect when the block ends.

    The block must end in the same way on every process: with a result, or with an error that all
    raise. After any other error :func:`leave` ends this process, and thereby the others. Processes
    that do not connect within ``config.timeout``, or do not match, are a ``UserError`` on every
    process.
    """
    try:
        _connect(config)
        yield
    except (Interrupted, NotFiniteError, SharedError):
        _part()
        raise
    except BaseException as error:
        _end_alone(error)
        raise
    _part()


def leave(status: int) -> int:
    """Return an exit status, or exit at once if waiting for the others would be in vain."""
    if _is_alone:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def agreed_stop(stop_signal: Callable[[], int | None]) -> Callable[[], int | None]:
    """Return a function that returns the number of a signal at the same call on all processes.

    Every process must call it equally often. JAX handles SIGTERM; ``stop_signal`` returns another
    signal that this process has received.
    """
    if count() == 1:
        return stop_signal
    is_passed_on = False

    def agreed() -> int | None:
        nonlocal is_passed_on
        number = stop_signal()
        if number is not None and not is_passed_on:
            is_passed_on = True
            os.kill(os.getpid(), signal.SIGTERM)
        if not multihost_utils.reached_preemption_sync_point(next(_calls)):
            return None
        numbers = map(int, exchange(str(number or 0)))
        return next(filter(None, numbers), int(signal.SIGTERM))

    return agreed


def resume_with(folder: Path) -> None:
    """Name the run folder in the message of a process that ends because another one did."""
    if count() == 1:
        return
    _say_when_aborted(
        "another process of the run has ended; the lines above say which, task K is process K. "
        "Nothing is lost but the steps since the last checkpoint. Resume on every host with: "
        f"python -m dien_jax.train --resume {folder}, and the same --distributed flags",
        LOST,
    )


def _connect(config: DistributedConfig) -> None:
    if not config.is_asked:
        return
    print_as_process(config.process or 0)
    wait = config.timeout
    options: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    options |= {"initialization_timeout": wait, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    if config.coordinator is not None:
        _check_port(config)
        options |= {"coordinator_address": config.coordinator, "process_id": config.process}
        options |= {"num_processes": config.processes, "cluster_detection_method": "deactivate"}
    _say_when_aborted(
        f"the processes of the run did not come together within {wait} seconds: start every "
        f"process, each with a number of its own, with the same --distributed.coordinator and "
        f"--distributed.processes; --distributed.timeout is the time to wait",
        MISTAKE,
    )
    with _signals_end_at_once():
        try:
            jax.distributed.initialize(**options)
        except Exception as error:  # JAX raises errors of every kind
            problem = f"the processes of the run cannot be connected: {reason(error)}"
            if config.auto and "should be defined" in str(error):
                problem = (
                    "distributed.auto found no cluster manager (Slurm, Open MPI, Kubernetes, Cloud "
                    "TPU); give distributed.coordinator, distributed.processes and "
                    "distributed.process instead"
                )
            raise UserError(problem) from error
    print_as_process(index())
    _say_when_aborted("another process of the run has ended; the lines above say which", LOST)
    if jax.default_backend() == "cpu":
        # JAX 0.12.1 waits forever in a step of several processes that it loads from the cache.
        jax.config.update("jax_enable_compilation_cache", False)
    check_counts()
    agree({"the version of jax": jax.__version__, "that of jaxlib": version("jaxlib")})
    numbers = sorted({len(jax.local_devices(process)) for process in range(count())})
    if len(numbers) > 1:
        raise SharedError(
            f"every process must have the same number of devices, found {numbers[0]} and "
            f"{numbers[-1]}; JAX_LOCAL_DEVICE_IDS=0,1 in the environment takes only these"
        )


def _check_port(config: DistributedConfig) -> None:
    """Refuse a port of process 0 on which another program listens; JAX would crash."""
    assert config.coordinator is not None
    port = config.coordinator.rpartition(":")[2]
    if config.process == 0:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", int(port)), 1):
            raise UserError(
                f"distributed.coordinator {config.coordinator}: another program listens at port "
                f"{port} of this host; choose another port, the same for every process"
            )


def _say_when_aborted(message: str, status: int) -> None:
    """Print a message and exit when one of JAX's threads aborts this process."""
    number = f"process {index()}: " if index() else ""
    text = f"{number}error: {message}\n".encode(errors="backslashreplace")

    def end_at_once(_: int) -> None:
        os.write(2, text)
        os._exit(status)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end_at_once)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


@contextlib.contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a process while JAX waits and Python cannot handle signals."""
    number = signal.SIGINT  # JAX handles SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


def _part() -> None:
    """Wait for the others, so that each process ends with its own status."""
    if count() > 1:
        with contextlib.suppress(Exception):  # the failure is reported, or the run is complete
            jax.distributed.shutdown()


def _end_alone(error: BaseException) -> None:
    """Note that this process ends alone; the others end once its heartbeat is missing.

    If a collective operation failed, another process has probably ended: JAX then aborts this one.
    Other errors end this process here, except errors of the user, of files and of memory.
    """
    global _is_alone
    if not jax.distributed.is_initialized():
        return
    _is_alone = True
    if isinstance(error, UserError | OSError | MemoryError) or not isinstance(error, Exception):
        return
    if _FAILED_OPERATION.match(str(error)):
        say_error(f"an operation of all processes failed: {reason(error)}")
        time.sleep(HEARTBEAT_SECONDS + 5)
    traceback.print_exc()
    leave(1)
