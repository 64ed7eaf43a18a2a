"""How every benchmark measures: warm up, block, take the median, say on what."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

WARM_UP = 3
"""Rounds not counted: JAX compiles in the first, TorchScript in the second and third."""

PAUSE = 0.002
"""Seconds before an interleaved call."""


def milliseconds(call: Callable[[], Any], *, repeats: int) -> list[float]:
    """Wall times of ``repeats`` calls, each waited for, after one that is not counted."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
    return times


def interleaved_milliseconds(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int
) -> dict[str, list[float]]:
    """Wall times of ``repeats`` rounds in which every call has one turn, each waited for.

    For ratios: whatever slows the machine for a while slows all of them. Every other round goes
    backwards, so that no call always follows the same one. ``WARM_UP`` rounds before are not
    counted. A pause goes before each call: threads of another library may still spin on the
    processors after their work is done.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-WARM_UP, repeats):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def quartile_spread(times: Sequence[float]) -> float:
    """Distance between the first and the third quartile, in the unit of ``times``."""
    low, _, high = statistics.quantiles(times, n=4)
    return high - low


def surroundings() -> dict[str, Any]:
    """What a figure belongs to: device, threads, versions."""
    device = jax.devices()[0]
    name = platform.processor() or platform.machine() if device.platform == "cpu" else ""
    return {
        "device": f"{device.platform} {device.device_kind} {name}".strip(),
        "threads": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("jax", "jaxlib", "flax", "optax")},
        },
    }


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """A Markdown table of the given columns."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row[column]) for column in columns) + " |", flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a JSON list, written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(list(rows), indent=1) + "\n")
    aside.replace(path)
