"""A check that a kernel agrees with the oracle on the current device, run once and remembered.

A kernel on a device or compiler that it was not tested on may fail to compile or compute something
else. Before ``implementation="auto"`` takes one, a small case runs through it and through the
oracle on that device: all states, the last ones, and every gradient. The outcome is kept in a
file, one for each kernel, device kind and version.
"""

import dataclasses
import functools
import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.backend import get_backend

from dien_kernels import fused, reference
from dien_kernels.cache import cache_folder
from dien_kernels.contract import Backend, HistoryBackend, Plan, Shape
from dien_kernels.devices import Device
from dien_kernels.reference import Inputs, Weights

EXACT = jax.lax.Precision.HIGHEST
# Largest deviation allowed of an array, relative to its largest entry. True float32 deviates by
# about 1e-6 here. Operands of bfloat16 have 8 bits, and a dozen steps and a product of two
# gradients multiply their rounding. A wrong gate, layout or mask deviates by a tenth or more.
TOLERANCES = {EXACT: 1e-4, jax.lax.Precision.HIGH: 1e-3, jax.lax.Precision.DEFAULT: 5e-2}
# More rows than one block and fewer than two have; H is no multiple of any tile.
BATCH, STEPS, INPUT, HIDDEN = 70, 9, 12, 36


@dataclasses.dataclass(frozen=True)
class Outcome:
    deviation: float | None  # the largest one; None where the kernel raised
    tolerance: float  # the largest deviation allowed
    error: str | None  # the kernel's exception
    file: str | None = None  # keeps the outcome; None where it could not be written

    @property
    def agrees(self) -> bool:
        return self.deviation is not None and self.deviation <= self.tolerance

    def describe(self) -> str:
        failure = f"it failed on this device ({self.error})"
        if self.error is None:
            deviation = f"{self.deviation:.1e} on this device, more than {self.tolerance:.0e}"
            failure = f"it deviates from the oracle by {deviation}"
        return failure if self.file is None else f"{failure}; delete {self.file} to check again"


@functools.cache
def outcome(backend: Backend | HistoryBackend, plan: Plan, device: Device) -> Outcome:
    """Return the outcome of the check of a recurrence from its file, or run the check."""
    return remembered(_key(backend, plan, device), functools.partial(_check, backend, plan))


def remembered(key: str, check: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of a check from its file, or run the check on the default device."""
    folder = cache_folder()
    file = None if folder is None else folder / f"{key}.json"
    if (kept := _read(file)) is not None:
        return kept
    default = jax.config.jax_default_device  # type: ignore[attr-defined]

    def run() -> Outcome:
        with jax.default_device(default):  # which a new thread would not know
            return check()

    # In a thread of its own: the first call may come while jit traces, and a thread has no trace.
    with ThreadPoolExecutor(1) as thread:
        checked = thread.submit(run).result()
    return dataclasses.replace(checked, file=str(file) if _write(file, checked) else None)


def _read(file: Path | None) -> Outcome | None:
    """Return the outcome in a file; None without one, or for a malformed one."""
    if file is None:
        return None
    try:
        found = Outcome(**json.loads(file.read_text()), file=str(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = {"deviation": float | None, "tolerance": float, "error": str | None}
    is_whole = all(isinstance(getattr(found, name), kind) for name, kind in kinds.items())
    return found if is_whole and found.deviation == found.deviation else None


def _key(backend: Backend | HistoryBackend, plan: Plan, device: Device) -> str:
    own = backend.identity() if isinstance(backend, HistoryBackend) else ""
    name = f"{backend.name}-{plan.cell}-{plan.form}-{plan.precision.name.lower()}"
    return key_of(name, device, own)


def key_of(name: str, device: Device, identity: str) -> str:
    """Return the name with a digest of all that the outcome depends on."""
    here = Path(__file__).parent
    sources = sorted(file for file in here.rglob("*.*") if file.suffix in (".py", ".h", ".cc"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    versions = [jax.__version__, jax.lib.__version__, get_backend().platform_version]
    whole = json.dumps([code, device.kind, str(device.capability), versions, identity])
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def _write(file: Path | None, checked: Outcome) -> bool:
    """Write a temporary file and rename it, so that no process reads half a file."""
    if file is None:
        return False
    content = dataclasses.asdict(checked)
    del content["file"]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            temporary = Path(folder) / file.name
            temporary.write_text(json.dumps(content))
            temporary.replace(file)
    except OSError:
        return False  # a read-only home: the check runs again in the next process
    return True


def _check(backend: Backend | HistoryBackend, plan: Plan) -> Outcome:
    oracle = functools.partial(reference.run, plan.cell, plan.form, precision=EXACT)

    def results() -> tuple[Any, Any]:
        whole = fused.with_blocks(plan, backend, Shape(BATCH, STEPS, HIDDEN))
        kernel = functools.partial(fused.run, backend, whole)
        return _results(kernel, plan), _results(oracle, plan)

    return compare(results, TOLERANCES[plan.precision])


def compare(results: Callable[[], tuple[Any, Any]], tolerance: float) -> Outcome:
    """Compare the results of a kernel with those of the oracle, leaf by leaf."""
    try:
        found, expected = results()
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        deviation = max(_deviation(*pair) for pair in pairs)
    except Exception as error:  # any error of a compiler: the caller falls back and says so
        lines = f"{type(error).__name__}: {error}".strip().splitlines()
        return Outcome(None, tolerance, lines[0][:300])
    return Outcome(deviation, tolerance, None)


def _deviation(result: jax.Array, expected: jax.Array) -> float:
    """Return the largest difference over the largest entry; infinity where one is not finite."""
    # Arrays of the host: JAX would compile each operation.
    computed, correct = jax.device_get((result, expected))
    difference = float(abs(computed - correct).max()) / max(float(abs(correct).max()), 1e-3)
    return difference if math.isfinite(difference) else float("inf")


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    """Return arrays without a pattern; drawing them would take a second to compile."""
    return [
        0.7 * jnp.sin((1.3 + number) * jnp.arange(1.0, math.prod(shape) + 1)).reshape(shape)
        for number, shape in enumerate(shapes)
    ]


def _inputs(plan: Plan) -> Inputs:
    gates = 2 + plan.has_update
    shapes = [(BATCH, STEPS, INPUT), (BATCH, HIDDEN), (BATCH, STEPS), (INPUT, gates, HIDDEN)]
    shapes += [(HIDDEN, gates, HIDDEN), (gates, HIDDEN), *[(HIDDEN,)] * (plan.form == "paper")]
    behaviours, initial, noise, *weights = (0.6 * array for array in arrays(*shapes))
    lengths = jnp.arange(BATCH, dtype=jnp.int32) % (STEPS + 1)
    live = jnp.arange(STEPS, dtype=jnp.int32)[None, :] < lengths[:, None]
    attention = None if plan.cell == "gru" else jnp.where(live, jnp.abs(noise), 0)
    x = jnp.where(live[..., None], behaviours, 0)
    return Inputs(x, attention, Weights(*weights), lengths, initial)


def _results(run: Callable, plan: Plan) -> Any:
    """Return states, the last ones, and gradients of a function of both for every operand."""
    inputs = jax.jit(functools.partial(_inputs, plan))()

    def objective(differentiable: tuple) -> tuple[jax.Array, Any]:
        x, attention, weights, initial = differentiable
        states, last = run(Inputs(x, attention, weights, inputs.lengths, initial))
        return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum(), (states, last)

    differentiable = inputs.x, inputs.attention, inputs.weights, inputs.initial_state
    return jax.jit(jax.grad(objective, has_aux=True))(differentiable)
