"""The table of implementations: where each can run, and which one ``"auto"`` takes.

To add a kernel, write a file in ``backends/`` that exports ``BACKEND`` (see
:mod:`dien_kernels.contract`), and add its name to ``Implementation`` and to ``KERNELS`` here.
"""

import importlib
import logging
import os
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

from dien_kernels import agreement, devices, fused
from dien_kernels.contract import Backend, Blocks, HistoryBackend, Plan, Shape
from dien_kernels.devices import Device

Implementation = Literal["auto", "reference", "xla", "native", "mosaic_tpu", "mosaic_gpu", "triton"]
"""Names of the implementations; auto chooses one for the device and the shape."""


class Kernel(NamedTuple):
    needs: str  # in words
    fits: Callable[[Device], bool]
    is_pallas: bool = True  # its interpreter runs it on any device


NATIVE = "DIEN_KERNELS_NATIVE"
"""Environment variable: ``"0"`` keeps ``"auto"`` from compiling and taking the native kernels."""
_NOT_ATTACHED = "it has not been run on a device that is not attached"
_warned: set[str] = set()

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


def _log(message: str) -> None:
    """Log a message once: a machine without a compiler is no mistake of a program."""
    if message not in _warned:
        _warned.add(message)
        logging.getLogger("dien_kernels").warning(message)


def choose(plan: Plan, shape: Shape, blocks: Blocks | None = None) -> Choice:
    """Return what ``implementation="auto"`` runs on the current device, and why.

    A kernel that disagrees with the oracle (:mod:`dien_kernels.agreement`) is not taken; warn once.
    """
    device = devices.current()
    reasons = []
    for name, kernel in KERNELS.items():
        if not kernel.fits(device):
            continue
        if name == "native" and os.environ.get(NATIVE) == "0":
            reasons.append(f"native: ${NATIVE} is 0")
            continue
        if not kernel.is_pallas and not device.attached:  # nothing is compiled for it
            reasons.append(f"{name}: {_NOT_ATTACHED}")
            continue
        kernel_backend = backend(name)
        try:
            fused.with_blocks(plan, kernel_backend, shape, blocks)
        except (ValueError, NotImplementedError) as error:
            reasons.append(f"{name}: {error}")
            if not kernel.is_pallas:
                _log(f"the recurrences run by XLA instead of {name}: {error}")
            continue
        if not device.attached:
            reasons.append(f"{name}: {_NOT_ATTACHED}")
            continue
        outcome = agreement.outcome(kernel_backend, plan, device)
        if outcome.agrees:
            return Choice(name, f"it agrees with the oracle on this {device.kind}")
        obstacle = outcome.describe()
        message = f"dien_kernels runs {plan.cell} by XLA instead of {name}: {obstacle}"
        if message not in _warned:
            _warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        reasons.append(f"{name}: {obstacle}")
    return Choice("xla", "; ".join(reasons) or f"there is no kernel for this {device.platform}")
