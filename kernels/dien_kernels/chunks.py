"""The recurrence in chunks of time, up to the longest history of the batch.

For backends without blocks of rows. Within a chunk the projections, the recurrence and the
gradients follow each other while its arrays are in the processor's cache. Chunks in which no
history is alive are never run, so that time grows with the longest history, not with T.

Dimensions: B batch (rows), T steps, K steps of a chunk, D input, H hidden.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_kernels.contract import Backend, Gates, Kept, Operands, Plan
from dien_kernels.launch import Pass, no_gradient, padded
from dien_kernels.reference import Weights
from dien_kernels.step import by_gate, project, recurrent_gradients

# Most steps of a chunk: arrays of some hundred kilobytes, and few steps past the longest one.
LONGEST_CHUNK = 20


class Histories(NamedTuple):
    """Operands of the recurrence; offset and slope are as in :mod:`dien_kernels.contract`."""

    x: Any  # [B, T, D]
    offset: Any  # [T, B]
    slope: Any  # [T, B]
    lengths: Any  # int32 [B]
    weights: Any  # Weights, with a recurrent bias
    initial: Any  # [B, H]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(backend: Backend, plan: Plan, histories: Histories) -> tuple[jax.Array, jax.Array]:
    """Return states ``[B, T, H]`` and the last one ``[B, H]``."""
    states, last, _ = _call(backend, plan, "forward")(histories)
    return states, last


def _run_forward(backend: Backend, plan: Plan, histories: Histories) -> tuple[tuple, tuple]:
    states, last, kept = _call(backend, plan, "keep")(histories)
    return (states, last), (histories, states, kept)


def _run_backward(backend: Backend, plan: Plan, saved: tuple, gradients: tuple) -> tuple[Histories]:
    d_histories = _call(backend, plan, "backward")(*saved, *gradients)
    return (d_histories._replace(lengths=no_gradient(saved[0].lengths)),)


run.defvjp(_run_forward, _run_backward)


def _call(backend: Backend, plan: Plan, kind: Pass) -> Callable:
    """Return one direction, also under vmap.

    There each example would stop by itself, which copies everything at every chunk; so all
    chunks run where lengths are mapped.
    """
    if kind == "backward":
        function: Callable = functools.partial(_backward, backend, plan)
    else:
        function = functools.partial(_forward, backend, plan, kind == "keep")
    mapped = jax.custom_batching.custom_vmap(functools.partial(function, True))

    def rule(size: int, batched: Any, *parts: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        call = functools.partial(function, not batched[0].lengths)
        out = jax.vmap(call, in_axes=axes, axis_size=size)(*parts)
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped


def _forward(
    backend: Backend, plan: Plan, keep: bool, up_to_longest: bool, histories: Histories
) -> tuple[jax.Array, jax.Array, Kept | None]:
    steps = histories.x.shape[1]
    count, size = _cut(steps)
    whole = _whole(histories, count * size)
    needed = _needed(histories.lengths, count, size) if up_to_longest else count

    def chunk(index: Any, carry: tuple) -> tuple:
        last, states, kept = carry
        operands, _ = _operands(plan, whole, index * size, size, last)
        chunk_states, gates = backend.forward(plan, operands, keep)
        put, last = functools.partial(_put, at=index * size), chunk_states[-1]
        states = put(states, chunk_states.swapaxes(0, 1), axis=1)
        return last, states, jax.tree.map(put, kept, gates)

    rows, hidden = histories.initial.shape
    empty = jnp.zeros((count * size, rows, hidden), histories.x.dtype)
    states = jnp.zeros((rows, count * size, hidden), histories.x.dtype)
    start = (histories.initial, states, plan.kept(empty) if keep else None)
    if count == 1:
        last, states, kept = chunk(0, start)
    else:
        last, states, kept = jax.lax.fori_loop(0, needed, chunk, start)
        ran = jnp.arange(count * size)[None, :, None] < needed * size
        states = jnp.where(ran, states, last[:, None])
    return states[:, :steps], last, kept


def _backward(backend: Backend, plan: Plan, up_to_longest: bool, *saved: Any) -> Histories:
    histories, states, kept, d_states, d_last = saved
    steps = histories.x.shape[1]
    count, size = _cut(steps)
    whole = _whole(histories, count * size)
    states, d_states = (padded(array, {1: count * size}) for array in (states, d_states))
    needed = _needed(histories.lengths, count, size) if up_to_longest else count

    def chunk(index: Any, carry: tuple) -> tuple:
        d_last, d_x, d_offset, d_slope, d_weights = carry
        start = index * size
        last_before = jnp.maximum(start - 1, 0)
        previous = jax.lax.dynamic_index_in_dim(states, last_before, axis=1, keepdims=False)
        initial = jnp.where(start == 0, histories.initial, previous)
        operands, x = _operands(plan, whole, start, size, initial)
        chunk_states = _slice(states, start, size, axis=1).swapaxes(0, 1)
        d_chunk_states = _slice(d_states, start, size, axis=1).swapaxes(0, 1)
        gates = jax.tree.map(lambda array: _slice(array, start, size), kept)
        d_chunk_states = d_chunk_states.at[-1].add(d_last)
        gradients = backend.backward(plan, operands, chunk_states, gates, d_chunk_states)
        before = jnp.concatenate([initial[None], chunk_states[:-1]])
        d_chunk_x, d_chunk_weights = _matmul_gradients(
            plan, whole.weights, x, before, gates, gradients.inputs
        )
        d_x = _put(d_x, d_chunk_x, at=start, axis=1)
        d_offset = _put(d_offset, gradients.offset, at=start)
        d_slope = _put(d_slope, gradients.slope, at=start)
        d_weights = jax.tree.map(jnp.add, d_weights, d_chunk_weights)
        return gradients.initial, d_x, d_offset, d_slope, d_weights

    if count > 1:  # states past the chunks that ran repeat the last one
        past = jnp.arange(count * size)[None, :, None] >= needed * size
        d_last = d_last + jnp.where(past, d_states, 0).sum(1)
    zeros = jax.tree.map(jnp.zeros_like, (whole.x, whole.offset, whole.slope, whole.weights))
    end = (d_last, *zeros)
    if count == 1:
        end = chunk(0, end)
    else:
        end = jax.lax.fori_loop(0, needed, lambda ran, carry: chunk(needed - 1 - ran, carry), end)
    d_initial, d_x, d_offset, d_slope, d_weights = end
    return Histories(d_x[:, :steps], d_offset[:steps], d_slope[:steps], None, d_weights, d_initial)


def _matmul_gradients(
    plan: Plan, weights: Weights, x: jax.Array, before: jax.Array, kept: Kept, d_inputs: Gates
) -> tuple[jax.Array, Weights]:
    """Return a chunk's gradients of x ``[B, K, D]`` and of all weights."""
    dot = functools.partial(jnp.dot, precision=plan.precision)
    d_recurrent, d_bias = recurrent_gradients("tbh", plan, before, kept, d_inputs)
    flat = [gate.reshape(-1, gate.shape[-1]) for gate in d_inputs if gate is not None]
    inputs = x.swapaxes(0, 1).reshape(-1, x.shape[-1])
    d_input = jnp.stack([dot(inputs.T, gate) for gate in flat], axis=1)
    shares = [dot(gate, weights.input[:, number].T) for number, gate in enumerate(flat)]
    d_stacked = jnp.stack(jax.tree.leaves(d_recurrent), axis=1)
    d_weights = Weights(d_input, d_stacked, jnp.stack([gate.sum(0) for gate in flat]), d_bias)
    by_time = functools.reduce(jnp.add, shares).reshape(x.shape[1], -1, x.shape[-1])
    return by_time.swapaxes(0, 1), d_weights


def _cut(steps: int) -> tuple[int, int]:
    """Return the number of chunks and their steps; ``steps`` may be symbolic, as in an export."""
    count = -(-steps // LONGEST_CHUNK)
    return count, -(-steps // count) if isinstance(steps, int) else LONGEST_CHUNK


def _needed(lengths: jax.Array, count: int, size: int) -> jax.Array:
    return jnp.minimum(-(-lengths.max(initial=0) // size), count)


def _whole(histories: Histories, steps: int) -> Histories:
    """Append dead steps up to a whole number of chunks."""
    x = padded(histories.x, {1: steps})
    offset, slope = (padded(row, {0: steps}) for row in (histories.offset, histories.slope))
    return histories._replace(x=x, offset=offset, slope=slope)


def _operands(
    plan: Plan, whole: Histories, start: Any, size: int, initial: jax.Array
) -> tuple[Operands, jax.Array]:
    """Return the backend's operands for one chunk, and its inputs ``[B, K, D]``, 0 where dead."""
    x = _slice(whole.x, start, size, axis=1)
    live = (start + jnp.arange(size))[None, :, None] < whole.lengths[:, None, None]
    x = jnp.where(live, x, 0)
    inputs = project("tbh", plan, x, whole.weights)
    offset, slope = (_slice(array, start, size) for array in (whole.offset, whole.slope))
    lengths, bias = whole.lengths - start, whole.weights.recurrent_bias
    recurrent = by_gate(plan, whole.weights.recurrent.swapaxes(0, 1))
    return Operands(inputs, offset, slope, lengths, recurrent, bias, initial), x


def _slice(array: jax.Array, start: Any, size: int, axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, start, size, axis)


def _put(array: jax.Array, part: jax.Array, *, at: Any, axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, at, axis)
