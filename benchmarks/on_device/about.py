"""Properties of the device, and versions of the packages.

python -m benchmarks.on_device.about --json FILE
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from dien_kernels import devices
from dien_kernels.choice import KERNELS
from jax.extend.backend import get_backend

from benchmarks.common.report import make_parser, parse, write_rows
from benchmarks.common.timing import versions_of

QUERY = "name,memory.total,driver_version,power.limit,clocks.max.sm"
MATRIX = 2048


def about() -> dict[str, Any]:
    """Return the device, its kernels in the order that ``"auto"`` tries them, and versions."""
    device = devices.current()
    square = jnp.ones((MATRIX, MATRIX))
    first = float((square @ square)[0, 0])
    if first != MATRIX:
        raise SystemExit(f"a product of ones is {first} on this device; expected {MATRIX}")
    return {
        "platform": device.platform,
        "kind": device.kind,
        "capability": device.capability and list(device.capability),
        "devices": len(jax.devices()),
        "kernels": [name for name, kernel in KERNELS.items() if kernel.fits(device)],
        "memory_bytes": (jax.devices()[0].memory_stats() or {}).get("bytes_limit"),
        "compiler": get_backend().platform_version.splitlines()[0],
        "nvidia_smi": _nvidia_smi(),
        "processor": platform.processor() or platform.machine(),
        "versions": versions_of("jax", "jaxlib", "flax", "optax", "numpy", "torch", "triton"),
    }


def _nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    ending = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return ending.stdout.strip() or None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the properties of the device."""
    options = parse(make_parser(__doc__), arguments)
    found = about()
    for name, value in found.items():
        print(f"{name}: {value}", file=sys.stderr)
    if options.json:
        write_rows(options.json, [found])


if __name__ == "__main__":
    main()
