"""The recurrence in chunks of time, no further than the longest history of the batch.

For a backend without blocks of rows. Within a chunk the projections, the recurrence and the
gradients follow each other while its arrays are in the processor's cache; chunks in which no
history is alive are never run, so that time falls with the longest history, not with T.

Dimensions: B batch (rows), T steps, K steps of a chunk, D input, H hidden.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_kernels.contract import Backend, Kept, Operands, Plan
from dien_kernels.launch import no_gradient, padded, sharded
from dien_kernels.matmuls import by_gate, project, recurrent_gradients
from dien_kernels.reference import Weights

LONGEST_CHUNK = 20
"""Steps of a chunk at most: some hundred kilobytes an array, and little run past the longest."""


class Histories(NamedTuple):
    """What a recurrence reads.

    Attributes:
      x: ``[B, T, D]``.
      offset: ``[T, B]``, see :mod:`dien_kernels.contract`.
      slope: ``[T, B]``.
      lengths: int32 ``[B]``.
      weights: with a recurrent bias.
      initial: ``[B, H]``.
    """

    x: Any
    offset: Any
    slope: Any
    lengths: Any
    weights: Any
    initial: Any


_WEIGHT_AXES = Weights(-1, -1, -1, -1)  # type: ignore[arg-type]  # no rows
_ROWS = Histories(x=0, offset=1, slope=1, lengths=0, weights=_WEIGHT_AXES, initial=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(backend: Backend, plan: Plan, histories: Histories) -> tuple[jax.Array, jax.Array]:
    """States ``[B, T, H]`` and the last one ``[B, H]``."""
    states, last, _ = _call(plan, functools.partial(_forward, backend, keep=False), "forward")(
        histories
    )
    return states, last


def _run_forward(backend: Backend, plan: Plan, histories: Histories) -> tuple[tuple, tuple]:
    states, last, kept = _call(plan, functools.partial(_forward, backend, keep=True), "keep")(
        histories
    )
    return (states, last), (histories, states, kept)


def _run_backward(backend: Backend, plan: Plan, saved: tuple, gradients: tuple) -> tuple[Histories]:
    call = _call(plan, functools.partial(_backward, backend), "backward")
    found = call(*saved, *gradients)
    return (found._replace(lengths=no_gradient(saved[0].lengths)),)


run.defvjp(_run_forward, _run_backward)


def _cut(steps: int) -> tuple[int, int]:
    """How many chunks, and the steps of each; of a symbolic number, as in an export, both too."""
    count = -(-steps // LONGEST_CHUNK)
    if not isinstance(steps, int):  # symbolic, as in jax.export
        return count, LONGEST_CHUNK
    return count, -(-steps // count)


def _forward(
    backend: Backend, plan: Plan, up_to_longest: bool, histories: Histories, *, keep: bool
) -> tuple[jax.Array, jax.Array, Kept | None]:
    steps, hidden = histories.x.shape[1], histories.initial.shape[1]
    count, size = _cut(steps)
    whole = _whole(histories, count * size)
    needed = _needed(histories.lengths, count, size) if up_to_longest else count

    def chunk(index: Any, carry: tuple) -> tuple:
        last, states, kept = carry
        operands, _ = _operands(plan, whole, index * size, size, last)
        found, gates = backend.forward(plan, operands, keep)
        put = functools.partial(_put, at=index * size)
        return found[-1], put(states, found.swapaxes(0, 1), axis=1), jax.tree.map(put, kept, gates)

    rows = histories.initial.shape[0]
    empty = jnp.zeros((count * size, rows, hidden), histories.x.dtype)
    has_product = plan.form == "paper"
    kept = (
        Kept(empty, empty if plan.has_update else None, empty, empty if has_product else None)
        if keep
        else None
    )
    states = jnp.zeros((rows, count * size, hidden), histories.x.dtype)
    start = (histories.initial, states, kept)
    if count == 1:
        last, states, kept = chunk(0, start)
    else:
        last, states, kept = jax.lax.fori_loop(0, needed, chunk, start)
        ran = jnp.arange(count * size)[None, :, None] < needed * size
        states = jnp.where(ran, states, last[:, None])
    return states[:, :steps], last, kept


def _backward(
    backend: Backend,
    plan: Plan,
    up_to_longest: bool,
    histories: Histories,
    states: jax.Array,
    kept: Kept,
    d_states: jax.Array,
    d_last: jax.Array,
) -> Histories:
    steps = histories.x.shape[1]
    count, size = _cut(steps)
    whole = _whole(histories, count * size)
    states, d_states = (padded(array, {1: count * size}) for array in (states, d_states))
    needed = _needed(histories.lengths, count, size) if up_to_longest else count
    dot = functools.partial(jnp.dot, precision=plan.precision)

    def chunk(index: Any, carry: tuple) -> tuple:
        d_last, d_x, d_offset, d_slope, d_weights = carry
        start = index * size
        previous = jax.lax.dynamic_index_in_dim(
            states, jnp.maximum(start - 1, 0), axis=1, keepdims=False
        )
        initial = jnp.where(start == 0, histories.initial, previous)
        operands, x = _operands(plan, whole, start, size, initial)
        of_chunk = jax.lax.dynamic_slice_in_dim(states, start, size, 1).swapaxes(0, 1)
        d_of_chunk = jax.lax.dynamic_slice_in_dim(d_states, start, size, 1).swapaxes(0, 1)
        gates_then = jax.tree.map(
            lambda array: jax.lax.dynamic_slice_in_dim(array, start, size), kept
        )
        found = backend.backward(
            plan, operands, of_chunk, gates_then, d_of_chunk.at[-1].add(d_last)
        )
        before = jnp.concatenate([initial[None], of_chunk[:-1]])
        d_recurrent, d_bias = recurrent_gradients("tbh", plan, before, gates_then, found.inputs)
        flat = [
            gradient.reshape(-1, gradient.shape[-1])
            for gradient in found.inputs
            if gradient is not None
        ]
        inputs = x.swapaxes(0, 1).reshape(-1, x.shape[-1])
        d_input = jnp.stack([dot(inputs.T, gradient) for gradient in flat], axis=1)
        shares = [dot(one, whole.weights.input[:, gate].T) for gate, one in enumerate(flat)]
        of_weights = Weights(
            d_input,
            jnp.stack([gate for gate in d_recurrent if gate is not None], axis=1),
            jnp.stack([gradient.sum(0) for gradient in flat]),
            d_bias,
        )
        by_time = functools.reduce(jnp.add, shares).reshape(size, -1, x.shape[-1])
        return (
            found.initial,
            _put(d_x, by_time.swapaxes(0, 1), at=start, axis=1),
            _put(d_offset, found.offset, at=start),
            _put(d_slope, found.slope, at=start),
            jax.tree.map(jnp.add, d_weights, of_weights),
        )

    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    if count == 1:
        ended = d_last
    else:  # states that no chunk gave repeat the last one
        past = jnp.arange(count * size)[None, :, None] >= needed * size
        ended = d_last + jnp.where(past, d_states, 0).sum(1)
    start = (ended, *zeros((whole.x, whole.offset, whole.slope, whole.weights)))
    if count == 1:
        found = chunk(0, start)
    else:
        found = jax.lax.fori_loop(
            0, needed, lambda number, carry: chunk(needed - 1 - number, carry), start
        )
    d_initial, d_x, d_offset, d_slope, d_weights = found
    return Histories(d_x[:, :steps], d_offset[:steps], d_slope[:steps], None, d_weights, d_initial)


def _needed(lengths: jax.Array, count: int, size: int) -> jax.Array:
    """Chunks up to the longest history."""
    return jnp.minimum(-(-lengths.max(initial=0) // size), count)


def _whole(histories: Histories, steps: int) -> Histories:
    """The histories with dead steps up to a whole number of chunks."""
    return histories._replace(
        x=padded(histories.x, {1: steps}),
        offset=padded(histories.offset, {0: steps}),
        slope=padded(histories.slope, {0: steps}),
    )


def _operands(
    plan: Plan, whole: Histories, start: Any, size: int, initial: jax.Array
) -> tuple[Operands, jax.Array]:
    """What the backend reads of one chunk, and its inputs ``[B, K, D]``, 0 where dead."""
    x = jax.lax.dynamic_slice_in_dim(whole.x, start, size, 1)
    live = (start + jnp.arange(size))[None, :, None] < whole.lengths[:, None, None]
    x = jnp.where(live, x, 0)
    local = dataclasses.replace(plan, sharding=None)
    return (
        Operands(
            project("tbh", local, x, whole.weights),
            jax.lax.dynamic_slice_in_dim(whole.offset, start, size),
            jax.lax.dynamic_slice_in_dim(whole.slope, start, size),
            whole.lengths - start,
            by_gate(plan, whole.weights.recurrent.swapaxes(0, 1)),
            whole.weights.recurrent_bias,
            initial,
        ),
        x,
    )


def _put(array: jax.Array, part: jax.Array, *, at: Any, axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, at, axis)


def _call(plan: Plan, function: Callable, what: str) -> Callable:
    """``function(plan, up_to_longest, ...)`` on each device's own rows, and under vmap.

    Under vmap each example would stop by itself, which costs a copy of everything at every
    chunk; so then all chunks run.
    """
    kept: Any = Kept(1, 1 if plan.has_update else None, 1, 1 if plan.form == "paper" else None)
    arguments: tuple = (_ROWS,) if what != "backward" else (_ROWS, 0, kept, 0, 0)
    results: Any = _ROWS if what == "backward" else (0, 0, kept if what == "keep" else None)

    def on_devices(up_to_longest: bool) -> Callable:
        return sharded(plan, functools.partial(function, plan, up_to_longest), arguments, results)

    mapped = jax.custom_batching.custom_vmap(on_devices(True))

    def rule(size: int, batched: Any, *parts: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        call = on_devices(not batched[0].lengths)
        out = jax.vmap(call, in_axes=axes, axis_size=size)(*parts)
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped
