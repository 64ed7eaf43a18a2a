"""Timing for all benchmarks: warm up, block, take the median, name the machine."""

import contextlib
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

WARM_UP = 3
"""Untimed rounds: JAX compiles in the first, TorchScript in the second and third."""

PAUSE = 0.002
"""Seconds before an interleaved call."""


def interleaved_milliseconds(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Return wall times of ``repeats`` rounds. A round runs each call once and waits for it.

    A disturbance of the machine slows all calls of a round, so ratios remain comparable. Every
    other round has the reverse order, so that no call always follows the same one. ``warm_up``
    rounds come first, untimed. A pause precedes each call, because threads of another library may
    spin for a while after their work.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, repeats):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def timed_row(benchmark: str, times: Sequence[float], **columns: Any) -> dict[str, Any]:
    """Return a row with the median and spread of times, and :func:`surroundings`."""
    return {
        "benchmark": benchmark,
        "system": "dien_jax",
        **columns,
        "median_ms": statistics.median(times),
        "spread_ms": quartile_spread(times),
        **surroundings(),
    }


def quartile_spread(times: Sequence[float]) -> float:
    """Return the interquartile range, 0 for a single time."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4)
    return high - low


def surroundings(versions: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return the device, threads and versions of a measurement; add ``versions`` to them."""
    device = jax.devices()[0]
    name = platform.processor() or platform.machine() if device.platform == "cpu" else ""
    return {
        "device": f"{device.platform} {device.device_kind} {name}".strip(),
        "threads": len(os.sched_getaffinity(0)),
        "versions": {**versions_of("jax", "jaxlib", "flax", "optax"), **versions},
    }


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_megabytes() -> float:
    """Return the peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)
