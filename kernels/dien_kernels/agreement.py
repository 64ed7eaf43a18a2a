"""A check that a kernel agrees with the oracle on the current device, run once and remembered.

On a device or with a compiler that it was not tested with, a kernel may fail to compile, or compute
wrong results. Before ``implementation="auto"`` takes one, all results and every gradient of a small
case are compared with the oracle on that device. The outcome is kept in a file, one for each
kernel, device kind and version.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.backend import get_backend

from dien_kernels import adam, candidates, fused, reference
from dien_kernels.contract import Backend, HistoryBackend, Plan, Shape
from dien_kernels.devices import Device
from dien_kernels.native import library, networks
from dien_kernels.native.build import cache_folder
from dien_kernels.reference import Dense, Inputs, Weights

Network = Literal["attention", "auxiliary", "candidates", "adam"]
"""What has a native kernel: attention, auxiliary loss, candidates of one history, the optimizer."""

EXACT = jax.lax.Precision.HIGHEST
# Largest allowed deviation of an array, relative to its largest entry. True float32 deviates by
# about 1e-6 here. Operands of bfloat16 have 8 significant bits, and a dozen steps and a product of
# two gradients amplify their rounding. A wrong gate, layout or mask deviates by a tenth or more.
TOLERANCES = {EXACT: 1e-4, jax.lax.Precision.HIGH: 1e-3, jax.lax.Precision.DEFAULT: 5e-2}
# The number of rows is between one and two blocks; H is no multiple of any tile. Pallas kernels run
# other code, and need other memory, for more than NARROW units: for these, H is WIDE in the check.
BATCH, STEPS, INPUT, HIDDEN = 70, 9, 12, 36
NARROW, WIDE = 64, 100
# For networks: no multiples of a panel or a tile.
NETWORK_BATCH, STATE, LAYERS = 23, 20, (26, 17)


@dataclasses.dataclass(frozen=True)
class Outcome:
    deviation: float | None  # the largest one; None if the kernel raised
    tolerance: float  # the largest deviation allowed
    error: str | None  # the kernel's exception
    file: str | None = None  # contains the outcome; None if it could not be written

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
def outcome(
    backend: Backend | HistoryBackend, plan: Plan, device: Device, hidden: int = HIDDEN
) -> Outcome:
    """Return the outcome of the check of a recurrence from its file, or run the check."""
    identity = backend.identity() if isinstance(backend, HistoryBackend) else ""
    name = f"{backend.name}-{plan.cell}-{plan.form}-{plan.precision.name.lower()}-{hidden}"
    results = functools.partial(recurrence_results, backend, plan, hidden)
    check = functools.partial(_compare, results, TOLERANCES[plan.precision])
    return remembered(key_of(name, device, identity), check)


@functools.cache
def network_outcome(network: Network, device: Device) -> Outcome:
    """Return the outcome of the check of a native network from its file, or run the check."""
    key = key_of(f"native-{network}", device, library.identity())
    check = functools.partial(_compare, NETWORK_RESULTS[network], TOLERANCES[EXACT])
    return remembered(key, check)


def remembered(key: str, check: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of a check from its file, or run the check on the default device."""
    file = cache_folder() / f"{key}.json"
    if (kept := _read(file)) is not None:
        return kept
    default = jax.config.jax_default_device  # type: ignore[attr-defined]

    def run() -> Outcome:
        with jax.default_device(default):  # a new thread would not inherit it
            return check()

    # In a new thread, which has no trace: the first call may come while jit traces.
    with ThreadPoolExecutor(1) as thread:
        checked = thread.submit(run).result()
    # Other programs may hold the memory of the device: that says nothing about the kernel.
    return checked if "out of memory" in str(checked.error).lower() else _written(file, checked)


def _read(file: Path) -> Outcome | None:
    """Return the outcome in a file; None without one, or for a malformed one."""
    try:
        found = Outcome(**json.loads(file.read_text()), file=str(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = {"deviation": float | None, "tolerance": float, "error": str | None}
    is_whole = all(isinstance(getattr(found, name), kind) for name, kind in kinds.items())
    return found if is_whole and found.deviation == found.deviation else None


def key_of(name: str, device: Device, identity: str) -> str:
    """Return the name with a digest of all that the outcome depends on."""
    here = Path(__file__).parent
    sources = sorted(file for file in here.rglob("*.*") if file.suffix in (".py", ".h", ".cc"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    versions = [jax.__version__, jax.lib.__version__, get_backend().platform_version]
    whole = json.dumps([code, device.kind, str(device.capability), versions, identity])
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def _written(file: Path, checked: Outcome) -> Outcome:
    """Save an outcome: write a temporary file and rename it, so that nobody reads half a file."""
    content = {name: getattr(checked, name) for name in ("deviation", "tolerance", "error")}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            temporary = Path(folder) / file.name
            temporary.write_text(json.dumps(content))
            temporary.replace(file)
    except OSError:
        return checked  # a read-only home: the check runs again in the next process
    return dataclasses.replace(checked, file=str(file))


def _compare(results: Callable[[], tuple[Any, Any]], tolerance: float) -> Outcome:
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
    """Return the largest difference relative to the largest entry, or infinity if not finite."""
    # On the host: JAX would compile each operation.
    computed, correct = jax.device_get((result, expected))
    difference = float(abs(computed - correct).max()) / max(float(abs(correct).max()), 1e-3)
    return difference if math.isfinite(difference) else float("inf")


def recurrence_results(
    backend: Backend | HistoryBackend, plan: Plan, hidden: int
) -> tuple[Any, Any]:
    """Return all states, last states and gradients of all operands, of a kernel and the oracle."""
    whole = fused.with_blocks(plan, backend, Shape(BATCH, STEPS, hidden))

    def inputs() -> tuple:
        gates = 2 + plan.has_update
        shapes = [(BATCH, STEPS, INPUT), (BATCH, hidden), (BATCH, STEPS), (INPUT, gates, hidden)]
        shapes += [(hidden, gates, hidden), (gates, hidden), *[(hidden,)] * (plan.form == "paper")]
        x, initial, noise, *weights = (0.6 * array for array in _arrays(*shapes))
        attention = None if plan.cell == "gru" else jnp.abs(noise)
        return (x, attention, Weights(*weights), initial), _lengths(BATCH)

    def results(run: Callable, differentiable: tuple, lengths: jax.Array) -> Any:
        def objective(differentiable: tuple) -> tuple[jax.Array, Any]:
            x, attention, weights, initial = differentiable
            states, last = run(Inputs(x, attention, weights, lengths, initial))
            return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum(), (states, last)

        return jax.grad(objective, has_aux=True)(differentiable)

    oracle = functools.partial(reference.run, plan.cell, plan.form, precision=EXACT)
    return _both(inputs, results, functools.partial(fused.run, backend, whole), oracle)


def attention_results() -> tuple[Any, Any]:
    """Return attention and its gradients, of the kernel and of the oracle."""

    def inputs() -> tuple:
        query, states = _arrays((NETWORK_BATCH, STATE), (NETWORK_BATCH, STEPS, STATE))
        return query, states, _layers(4 * STATE), _lengths(NETWORK_BATCH)

    def results(run: Callable, *arguments: Any) -> Any:
        def objective(*arguments: Any) -> tuple[jax.Array, jax.Array]:
            attention = run(*arguments)
            return jnp.sin(3 * attention).sum(), attention

        differentiated = jax.grad(objective, (0, 1, 2), has_aux=True)
        (*gradients, d_layers), attention = differentiated(*arguments)
        # The softmax cancels the last bias: its gradient is only rounding.
        return attention, gradients, d_layers[:-1], d_layers[-1].kernel

    return _both(inputs, results, networks.attention, reference.reference_attention)


def auxiliary_results() -> tuple[Any, Any]:
    """Return the auxiliary loss and its gradients, of the kernel and of the oracle."""

    def inputs() -> tuple:
        *arrays, noise = _arrays(
            (NETWORK_BATCH, STEPS, STATE),
            (NETWORK_BATCH, STEPS, INPUT),
            (2, NETWORK_BATCH, STEPS - 1, INPUT),
            (3, NETWORK_BATCH, STEPS - 1),
        )
        following = jnp.arange(1, STEPS, dtype=jnp.int32)
        shares = jnp.where(following[None] < _lengths(NETWORK_BATCH)[:, None], jnp.abs(noise), 0)
        return *arrays, shares, _layers(STATE + INPUT)

    def results(run: Callable, *arguments: Any) -> Any:
        return jax.value_and_grad(lambda *given: 3 * run(*given), (0, 1, 2, 4))(*arguments)

    return _both(inputs, results, networks.auxiliary_loss, reference.reference_loss)


def candidate_results() -> tuple[Any, Any]:
    """Return attention and last states of candidates, of the kernels and of XLA.

    The cells differ only in the last line of a step; tests compare each.
    """
    length = jnp.int32(STEPS - 2)

    def inputs() -> tuple:
        attention, projected, recurrent, bias, recurrent_bias, query, states = _arrays(
            (NETWORK_BATCH, STEPS),
            (STEPS, 3, STATE),
            (STATE, 3, STATE),
            (3, STATE),
            (STATE,),
            (NETWORK_BATCH, STATE),
            (STEPS, STATE),
        )
        weights = 0.3 * recurrent, bias, recurrent_bias
        return (query, states, _layers(4 * STATE)), (projected, jnp.abs(attention)), weights

    def results(run: tuple[Callable, Callable], first: tuple, second: tuple, weights: tuple) -> Any:
        attend, last = run
        inputs, attentions = second
        operands = candidates.SharedInputs(inputs, attentions, length, *weights)
        both = [last(operands, paper=paper, scales_inputs=False) for paper in (True, False)]
        return attend(*first, length), both

    kernels = networks.candidate_attention, networks.last_states
    highest = functools.partial(candidates.xla_last_states, precision=EXACT)
    return _both(inputs, results, kernels, (candidates.reference_candidates, highest))


def adam_results() -> tuple[Any, Any]:
    """Return an update by Adam, of the kernel and of XLA."""

    def inputs() -> tuple:
        arrays = tuple(_arrays(*[(130, 150), (7,)] * 3))
        return adam.scales_of(0.1, 3), arrays[:2], arrays[2:4], arrays[4:]

    def results(run: Callable, scales: Any, params: Any, means: Any, gradients: Any) -> Any:
        return run(scales, params, means, tuple(map(jnp.square, means)), gradients)

    return _both(inputs, results, adam.native_adam, adam.xla_adam)


NETWORK_RESULTS: dict[Network, Callable[[], tuple[Any, Any]]] = {
    "attention": attention_results,
    "auxiliary": auxiliary_results,
    "candidates": candidate_results,
    "adam": adam_results,
}


def _both(inputs: Callable, results: Callable, kernel: Any, oracle: Any) -> tuple[Any, Any]:
    # As arguments: XLA would evaluate a program without any while compiling it.
    arguments = jax.jit(inputs)()
    found, expected = (jax.jit(functools.partial(results, run)) for run in (kernel, oracle))
    return found(*arguments), expected(*arguments)


def _arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    """Return irregular arrays; random ones would take a second to compile."""
    return [
        0.7 * jnp.sin((1.3 + number) * jnp.arange(1.0, math.prod(shape) + 1)).reshape(shape)
        for number, shape in enumerate(shapes)
    ]


def _layers(inputs: int) -> tuple[Dense, ...]:
    widths = (inputs, *LAYERS, 1)
    shapes = [(*pair,) for pair in itertools.pairwise(widths)]
    arrays = _arrays(*shapes, *[(width,) for width in widths[1:]])
    return tuple(map(Dense, arrays[: len(shapes)], arrays[len(shapes) :]))


def _lengths(batch: int) -> jax.Array:
    return jnp.arange(batch, dtype=jnp.int32) % (STEPS + 1)
