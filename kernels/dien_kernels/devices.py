"""Which device programs are made for: the default one, one that is not there, or none at all."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax


@dataclasses.dataclass(frozen=True)
class Device:
    """What the choice of an implementation depends on.

    Attributes:
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
      kind: the maker's name of it, as ``jax.Device.device_kind``.
      capability: CUDA compute capability of an NVIDIA GPU, ``(9, 0)`` say; None elsewhere.
      attached: False where programs are only compiled for it.
    """

    platform: str
    kind: str
    capability: tuple[int, int] | None = None
    attached: bool = True


_assumed: contextvars.ContextVar[Device | None] = contextvars.ContextVar("assumed", default=None)
_interpreted: contextvars.ContextVar[bool] = contextvars.ContextVar("interpreted", default=False)


def current() -> Device:
    """The device that a call would run on: the assumed one, or JAX's default."""
    assumed = _assumed.get()
    if assumed is not None:
        return assumed
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if not isinstance(device, jax.Device):
        device = jax.devices(device)[0]  # the name of a platform, or None for the default one
    capability = None
    if device.platform == "gpu":
        major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
        if major.isdecimal() and minor.isdecimal():  # AMD's are names
            capability = int(major), int(minor)
    return Device(device.platform, device.device_kind, capability)


@contextlib.contextmanager
def assume(device: Device) -> Iterator[None]:
    """Within the context, calls are made for a device that need not be there.

    For compiling ahead of time. A function that ``jax.jit`` has traced already keeps what it was
    traced for: trace a fresh one.
    """
    token = _assumed.set(dataclasses.replace(device, attached=False))
    try:
        yield
    finally:
        _assumed.reset(token)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Within the context, kernels that are named run in Pallas's interpreter, on any device.

    Slow; for tests and for looking into a kernel. A function that ``jax.jit`` has traced already
    keeps what it was traced for: trace a fresh one.
    """
    token = _interpreted.set(True)
    try:
        yield
    finally:
        _interpreted.reset(token)


def is_interpreted() -> bool:
    """Whether :func:`interpreted` is in force."""
    return _interpreted.get()
