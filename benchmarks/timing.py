"""How every benchmark measures: warm up, block, take the median, say on what."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def milliseconds(call: Callable[[], Any], *, repeats: int) -> list[float]:
    """Wall times of ``repeats`` calls, each waited for, after one that is not counted."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
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
