"""The device that programs are compiled for: the default one, an absent one, or the interpreter."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Device:
    """Properties of a device that decide the implementation.

    ``platform`` and ``kind`` are as in ``jax.Device``; ``capability`` is the CUDA compute
    capability of an NVIDIA GPU. ``attached`` is False if programs are only compiled for it.

    >>> Device("gpu", "NVIDIA H100 80GB HBM3", (9, 0)).capability
    (9, 0)
    """

    platform: str
    kind: str
    capability: tuple[int, int] | None = None
    attached: bool = True


_assumed: contextvars.ContextVar[Device | None] = contextvars.ContextVar("assumed", default=None)
_interpreted: contextvars.ContextVar[bool] = contextvars.ContextVar("interpreted", default=False)


def current() -> Device:
    """Return the assumed device, or JAX's default."""
    assumed = _assumed.get()
    if assumed is not None:
        return assumed
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if not isinstance(device, jax.Device):
        device = jax.devices(device)[0]  # the name of a platform, or None for the default one
    capability = None
    if device.platform == "gpu":
        major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
        if major.isdecimal() and minor.isdecimal():  # AMD's capabilities are names
            capability = int(major), int(minor)
    return Device(device.platform, device.device_kind, capability)


@contextlib.contextmanager
def _within(variable: contextvars.ContextVar, value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def assume(device: Device) -> contextlib.AbstractContextManager[None]:
    """Trace programs within the context for a device that need not be attached.

    For ahead-of-time compilation. A function that ``jax.jit`` has traced before keeps the device of
    that trace: trace a fresh one.

    >>> import dien_kernels
    >>> with assume(Device("tpu", "TPU v5 lite")):
    ...     dien_kernels.explain("augru", batch=128, steps=100, hidden=36).reason
    'mosaic_tpu: it has not been run on a device that is not attached'
    """
    return _within(_assumed, dataclasses.replace(device, attached=False))


def interpreted() -> contextlib.AbstractContextManager[None]:
    """Run named kernels within the context in Pallas's interpreter, on any device.

    Slow; for tests and for debugging a kernel. A function that ``jax.jit`` has traced before keeps
    its kernel: trace a fresh one.

    >>> import jax.numpy as jnp
    >>> from dien_kernels import Weights, gru
    >>> weights = Weights(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 4)), jnp.zeros((3, 4)))
    >>> x, lengths = jnp.ones((1, 3, 2)), jnp.array([2])
    >>> with interpreted():
    ...     gru(x, weights, lengths=lengths, implementation="mosaic_tpu")[1].shape
    (1, 4)
    """
    return _within(_interpreted, True)


def is_interpreted() -> bool:
    return _interpreted.get()
