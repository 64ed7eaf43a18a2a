"""The table of implementations: where each can run, and which one ``"auto"`` takes.

To add a kernel, write a file in ``backends/`` that exports ``BACKEND`` (see
:mod:`dien_kernels.contract`), and add its name to ``Implementation`` of :mod:`dien_kernels.options`
and to ``KERNELS`` here.
"""

import contextlib
import functools
import importlib
import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple

from dien_kernels import agreement, devices, fused
from dien_kernels.contract import Backend, Blocks, HistoryBackend, Plan, Shape
from dien_kernels.devices import Device
from dien_kernels.native import library
from dien_kernels.options import Implementation


class Kernel(NamedTuple):
    needs: str  # in words
    fits: Callable[[Device], bool]
    is_pallas: bool = True  # can be interpreted on any device


NATIVE = "DIEN_KERNELS_NATIVE"
"""Environment variable: ``"0"`` keeps ``"auto"`` from compiling and taking the native kernels."""

# In the order in which "auto" tries them.
KERNELS: dict[Implementation, Kernel] = {
    "native": Kernel("a CPU", lambda device: device.platform == "cpu", is_pallas=False),
    "mosaic_tpu": Kernel("a TPU", lambda device: device.platform == "tpu"),
    "mosaic_gpu": Kernel(
        "an NVIDIA GPU of the Hopper generation (compute capability 9)",
        lambda device: device.capability is not None and device.capability[0] == 9,
    ),
    "triton": Kernel(
        "an NVIDIA GPU of the Ampere generation or newer (compute capability 8 or more)",
        lambda device: device.capability is not None and device.capability[0] >= 8,
    ),
}


class Choice(NamedTuple):
    """The implementation that a call runs, never ``"auto"``; see :func:`dien_kernels.explain`.

    >>> import dien_kernels
    >>> choice = dien_kernels.explain("gru", batch=128, steps=100, hidden=36)
    >>> isinstance(choice, Choice)
    True
    """

    implementation: Implementation
    reason: str  # a sentence


def backend(name: Implementation) -> Backend | HistoryBackend:
    return importlib.import_module(f"dien_kernels.backends.{name}").BACKEND


def require(name: Implementation) -> None:
    """Raise ``NotImplementedError`` where the kernel cannot run on the current device."""
    kernel, device = KERNELS[name], devices.current()
    if not kernel.fits(device) and not (kernel.is_pallas and devices.is_interpreted()):
        raise NotImplementedError(
            f"implementation={name!r} needs {kernel.needs}; the device is {device.kind!r} "
            f"({device.platform})"
        )


@functools.cache
def _log(message: str) -> None:
    """Log a message once: a missing compiler is not the program's mistake."""
    logging.getLogger("dien_kernels").warning(message)


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _may_be_native() -> bool:
    """Return whether the environment allows ``"auto"`` to take native kernels."""
    value = os.environ.get(NATIVE, "")
    if value not in ("", "0", "1"):
        _log(f"${NATIVE} must be 0 or 1, got {value!r}; it is taken as 1")
    return value != "0"


def choose(plan: Plan, shape: Shape, blocks: Blocks | None = None) -> Choice:
    """Return what ``implementation="auto"`` runs on the current device, and why."""

    def prepare(name: Implementation) -> None:
        fused.with_blocks(plan, backend(name), shape, blocks)

    def outcome(name: Implementation) -> agreement.Outcome:
        is_wide = KERNELS[name].is_pallas and shape.hidden > agreement.NARROW
        hidden = agreement.WIDE if is_wide else agreement.HIDDEN
        return agreement.outcome(backend(name), plan, devices.current(), hidden)

    return first_that_agrees(plan.cell, tuple(KERNELS), prepare, outcome)


def first_that_agrees(
    what: str,
    names: tuple[Implementation, ...],
    prepare: Callable[[Implementation], object],
    outcome: Callable[[Implementation], agreement.Outcome],
) -> Choice:
    """Return the first kernel that can run on the current device, else ``"xla"``, and why.

    ``what`` is the function's name in messages; ``prepare`` raises ``NotImplementedError`` where a
    kernel cannot run; ``outcome`` returns the outcome of its check. Skip a kernel that disagrees
    with the oracle (:mod:`dien_kernels.agreement`), and warn once.
    """
    device = devices.current()

    def obstacle(name: Implementation) -> str | None:
        is_pallas = KERNELS[name].is_pallas
        if name == "native" and not _may_be_native():
            return f"${NATIVE} is 0"
        if is_pallas or device.attached:  # native compiles for this machine only
            try:
                prepare(name)
            except (ValueError, NotImplementedError) as error:
                if not is_pallas:
                    _log(f"XLA runs instead of {name}: {error}")
                return str(error)
        if not device.attached:
            return "it has not been run on a device that is not attached"
        checked = outcome(name)
        if checked.agrees:
            return None
        _warn(f"dien_kernels runs {what} by XLA instead of {name}: {checked.describe()}")
        return checked.describe()

    reasons = []
    for name in names:
        if KERNELS[name].fits(device):
            found = obstacle(name)
            if found is None:
                return Choice(name, f"it agrees with the oracle on this {device.kind}")
            reasons.append(f"{name}: {found}")
    return Choice("xla", "; ".join(reasons) or f"there is no kernel for this {device.platform}")


def load_native_in_background() -> None:
    """Start a thread that compiles and loads the native kernels where ``"auto"`` may take them.

    Call this first in a program that will use them: the first use then waits only for the rest, and
    reports any error. This package does not call it.

    >>> load_native_in_background()
    """

    def load() -> None:
        # The first use raises the same error.
        with contextlib.suppress(Exception):
            if KERNELS["native"].fits(devices.current()):
                library.instruction_set()

    if _may_be_native():
        threading.Thread(target=load, name="native kernels", daemon=True).start()
