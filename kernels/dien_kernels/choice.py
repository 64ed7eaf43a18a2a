"""The table of implementations: which can run where, and which one ``"auto"`` takes.

To add one, write a file that exports ``BACKEND`` (see :mod:`dien_kernels.contract`) and give it
a line in ``KERNELS``. To remove one, delete both.
"""

import dataclasses
import importlib
import warnings
from collections.abc import Callable
from typing import Literal

import jax

from dien_kernels import agreement, devices, fused
from dien_kernels.contract import Backend, Blocks
from dien_kernels.devices import Device
from dien_kernels.reference import Cell, Form

Implementation = Literal["auto", "reference", "xla", "mosaic_tpu", "mosaic_gpu", "triton"]


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """A Pallas kernel: what it needs, in words and as a test of a device."""

    needs: str
    fits: Callable[[Device], bool]


# In the order in which "auto" tries them.
KERNELS: dict[str, _Kernel] = {
    "mosaic_tpu": _Kernel("a TPU", lambda device: device.platform == "tpu"),
    "mosaic_gpu": _Kernel(
        "an NVIDIA GPU of the Hopper generation (compute capability 9)",
        lambda device: device.capability is not None and device.capability[0] == 9,
    ),
    "triton": _Kernel(
        "an NVIDIA GPU of the Ampere generation or newer (compute capability 8 or more)",
        lambda device: device.capability is not None and device.capability[0] >= 8,
    ),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a call runs.

    Attributes:
      implementation: never ``"auto"``.
      reason: why this one, in a sentence.
    """

    implementation: str
    reason: str


def backend(name: str) -> Backend:
    """The implementation's two launches and their limits."""
    module = importlib.import_module(f"dien_kernels.backends.{name}")
    found = module.BACKEND
    assert isinstance(found, Backend)
    return found


def require(name: str) -> None:
    """Raises ``NotImplementedError`` where the kernel cannot run on the current device."""
    kernel, device = KERNELS[name], devices.current()
    if not kernel.fits(device) and not devices.is_interpreted():
        raise NotImplementedError(
            f"implementation={name!r} needs {kernel.needs}; the device is {device.kind!r} "
            f"({device.platform})"
        )


def choose(
    cell: Cell,
    form: Form,
    *,
    rows: int,
    steps: int,
    hidden: int,
    precision: jax.lax.Precision,
    blocks: Blocks | None = None,
) -> Choice:
    """What ``implementation="auto"`` runs for this shape on the current device.

    A Pallas kernel is taken only where it has agreed with the oracle, see
    :mod:`dien_kernels.agreement`; where it did not, this warns, once.

    Args:
      cell: ``"gru"``, ``"agru"`` or ``"augru"``.
      form: ``"paper"`` or ``"authors"``.
      rows: of the batch, on one device.
      steps: T.
      hidden: H.
      precision: of the recurrent matmuls.
      blocks: as the caller gives them, or None.
    """
    device = devices.current()
    reasons = []
    for name, kernel in KERNELS.items():
        if not kernel.fits(device):
            continue
        kernel_backend = backend(name)
        obstacle = None
        try:
            fused.make_plan(
                kernel_backend,
                cell,
                form,
                precision,
                rows=rows,
                steps=steps,
                hidden=hidden,
                blocks=blocks,
            )
        except (ValueError, NotImplementedError) as error:
            obstacle = str(error)
        if obstacle is None and not device.attached:
            obstacle = "it has not been run on a device that is not here"
        if obstacle is None:
            outcome = agreement.outcome(kernel_backend, cell, form, precision, device)
            if outcome.agrees:
                return Choice(name, f"it agrees with the oracle on this {device.kind}")
            obstacle = outcome.describe()
            _warn_once(f"dien_kernels runs {cell} by XLA instead of {name}: {obstacle}")
        reasons.append(f"{name}: {obstacle}")
    if not reasons:
        reasons = [f"no kernel is written for this {device.platform}"]
    return Choice("xla", "; ".join(reasons))


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
