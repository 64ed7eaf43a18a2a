"""Whether a kernel agrees with the oracle on the device at hand, asked once and remembered.

A kernel that was never run on some device, or that meets a compiler it was not written for, may
fail to compile there or compute something else. Before ``implementation="auto"`` takes one, a
small case runs through it and through the oracle on that device: all states, the last ones, and
every gradient. The outcome is kept in a file, one for each kernel, device kind and version.
"""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.backend import get_backend

from dien_kernels import fused, reference
from dien_kernels.contract import Backend
from dien_kernels.devices import Device
from dien_kernels.reference import Cell, Form, Weights

TOLERANCES = {
    jax.lax.Precision.HIGHEST: 1e-4,
    jax.lax.Precision.HIGH: 1e-3,
    jax.lax.Precision.DEFAULT: 5e-2,
}
"""Largest deviation allowed of an array, over its largest entry; see ``_deviation``.

True float32 leaves 1e-6 or so here. Operands of bfloat16 have 8 bits, which a dozen steps and a
product of two gradients multiply; a wrong gate, layout or mask deviates by a tenth or more.
"""

BATCH, STEPS, INPUT, HIDDEN = 70, 9, 12, 36
"""More rows than a block has, fewer than a second one needs; H not a multiple of any tile."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the check found.

    Attributes:
      deviation: the largest one, or None where the kernel raised.
      tolerance: what was allowed.
      error: what it raised, or None.
      file: where the outcome is kept, or None where that file could not be written.
    """

    deviation: float | None
    tolerance: float
    error: str | None
    file: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the kernel may be taken."""
        return self.deviation is not None and self.deviation <= self.tolerance

    def describe(self) -> str:
        """A sentence on what went wrong, and how to have it looked at again."""
        if self.error is not None:
            what = f"it failed on this device ({self.error})"
        else:
            what = (
                f"it deviates from the oracle by {self.deviation:.1e} on this device, "
                f"more than {self.tolerance:.0e}"
            )
        return what if self.file is None else f"{what}; delete {self.file} to check again"


def cache_folder() -> Path:
    """Where outcomes are kept: ``$DIEN_KERNELS_CACHE``, or the user's cache folder."""
    if chosen := os.environ.get("DIEN_KERNELS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dien_kernels"


@functools.cache
def outcome(
    backend: Backend,
    cell: Cell,
    form: Form,
    precision: jax.lax.Precision,
    device: Device,
) -> Outcome:
    """The outcome of the check, from its file where one is there, or else by running it."""
    file = cache_folder() / f"{_key(backend, cell, form, precision, device)}.json"
    try:
        return Outcome(**json.loads(file.read_text()), file=str(file))
    except (OSError, ValueError, TypeError):
        pass  # no file, or not one of ours: it is made anew
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    # In a thread of its own: the first call may come while jit traces, and a thread has no trace.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(_check, backend, cell, form, precision, default).result()
    return dataclasses.replace(found, file=str(file) if _write(file, found) else None)


def _key(
    backend: Backend, cell: Cell, form: Form, precision: jax.lax.Precision, device: Device
) -> str:
    """Names the kernel, the device and every version that the outcome depends on."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    client = get_backend()
    versions = [jax.__version__, jax.lib.__version__, client.platform_version]
    identity = json.dumps([code, device.kind, str(device.capability), versions])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return f"{backend.name}-{cell}-{form}-{precision.name.lower()}-{digest}"


def _write(file: Path, found: Outcome) -> bool:
    """Writes aside and renames, so that no process ever reads half a file."""
    content = {"deviation": found.deviation, "tolerance": found.tolerance, "error": found.error}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as aside:
            json.dump(content, aside)
        Path(aside.name).replace(file)
    except OSError:
        return False  # a read-only home: the check runs again in the next process
    return True


def _check(
    backend: Backend, cell: Cell, form: Form, precision: jax.lax.Precision, default: Any
) -> Outcome:
    """Runs the case on the default device, which a new thread would not know."""
    tolerance = TOLERANCES[precision]
    try:
        with jax.default_device(default):
            kernel = _gradients(functools.partial(fused.run, backend), cell, form, precision)
            oracle = _gradients(reference.run, cell, form, jax.lax.Precision.HIGHEST)
            pairs = zip(jax.tree.leaves(kernel), jax.tree.leaves(oracle), strict=True)
            deviation = max(_deviation(found, wanted) for found, wanted in pairs)
    except Exception as error:  # whatever a compiler raises: the caller falls back and says so
        lines = f"{type(error).__name__}: {error}".strip().splitlines()
        return Outcome(None, tolerance, lines[0][:300])
    return Outcome(deviation, tolerance, None)


def _deviation(found: jax.Array, wanted: jax.Array) -> float:
    """The largest difference over the largest entry; infinite where either is not finite."""
    difference = float(jnp.abs(found - wanted).max() / jnp.maximum(jnp.abs(wanted).max(), 1e-3))
    return difference if difference == difference else float("inf")


def _gradients(run: Any, cell: Cell, form: Form, precision: jax.lax.Precision) -> Any:
    """States, the last ones, and gradients of a function of both for every operand."""
    gates = 2 if cell == "agru" else 3
    shapes = {
        "x": (BATCH, STEPS, INPUT),
        "input": (INPUT, gates, HIDDEN),
        "recurrent": (HIDDEN, gates, HIDDEN),
        "bias": (gates, HIDDEN),
        "recurrent_bias": (HIDDEN,),
        "initial": (BATCH, HIDDEN),
    }
    keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
    arrays = {
        name: 0.3 * jax.random.normal(key, shape, jnp.float32)
        for (name, shape), key in zip(shapes.items(), keys, strict=False)
    }
    if cell != "gru":
        arrays["attention"] = jax.random.uniform(keys[-1], (BATCH, STEPS), jnp.float32)
    lengths = jnp.arange(BATCH, dtype=jnp.int32) % (STEPS + 1)
    live = jnp.arange(STEPS, dtype=jnp.int32)[None, :] < lengths[:, None]

    def objective(arrays: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        bias = arrays["recurrent_bias"] if form == "paper" else None
        weights = Weights(arrays["input"], arrays["recurrent"], arrays["bias"], bias)
        attention = arrays.get("attention")
        if attention is not None:
            attention = jnp.where(live, attention, 0)
        outputs = run(
            cell,
            form,
            jnp.where(live[..., None], arrays["x"], 0),
            attention,
            weights,
            lengths,
            arrays["initial"],
            precision,
        )
        return jnp.sin(3 * outputs[0]).sum() + jnp.cos(2 * outputs[1]).sum(), outputs

    return jax.jit(jax.grad(objective, has_aux=True))(arrays)
