"""The recurrences as two scans in chunks of time, up to the longest history of the batch.

Within a chunk the projections, the recurrence and the gradients follow each other while its arrays
are in the processor's cache. Chunks in which no history is alive are never run, so that time grows
with the longest history, not with T. See :mod:`dien_kernels.contract`.

Dimensions: B batch (rows), T steps, K steps of a chunk, D input, H hidden.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import dynamic_slice_in_dim as part_of
from jax.lax import dynamic_update_slice_in_dim as put

from dien_kernels.contract import Gates, Gradients, Histories, HistoryBackend, Kept, Operands, Plan
from dien_kernels.fused import no_gradient, padded
from dien_kernels.reference import Weights
from dien_kernels.step import by_gate, project, recurrent_gradients, sigmoid, strength

# Most steps of a chunk: arrays of some hundred kilobytes, and few steps past the longest history.
LONGEST_CHUNK = 20


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(plan: Plan, histories: Histories) -> tuple[jax.Array, jax.Array]:
    """Return states ``[B, T, H]`` and the last one ``[B, H]``."""
    states, last, _ = _mapped(_forward, plan, False)(histories)
    return states, last


def _run_forward(plan: Plan, histories: Histories) -> tuple[tuple, tuple]:
    states, last, kept = _mapped(_forward, plan, True)(histories)
    return (states, last), (histories, states, kept)


def _run_backward(plan: Plan, saved: tuple, gradients: tuple) -> tuple[Histories]:
    d_histories = _mapped(_backward, plan)(*saved, *gradients)
    return (d_histories._replace(lengths=no_gradient(saved[0].lengths)),)


run.defvjp(_run_forward, _run_backward)


def _mapped(direction: Callable, *options: Any) -> Callable:
    """Return one direction with a vmap rule.

    If lengths are mapped, all chunks run: stopping each example at its own length would copy
    everything at every chunk.
    """
    function = functools.partial(direction, *options)
    mapped = jax.custom_batching.custom_vmap(functools.partial(function, True))

    def rule(size: int, batched: Any, *parts: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        call = functools.partial(function, not batched[0].lengths)
        out = jax.vmap(call, in_axes=axes, axis_size=size)(*parts)
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped


def _forward(
    plan: Plan, keep: bool, up_to_longest: bool, histories: Histories
) -> tuple[jax.Array, jax.Array, Kept | None]:
    steps = histories.x.shape[1]
    count, size, needed, whole = _cut(histories, up_to_longest)

    def chunk(index: Any, carry: tuple) -> tuple:
        last, states, kept = carry
        start = index * size
        operands, _ = _operands(plan, whole, start, size, last)
        chunk_states, gates = scan_forward(plan, operands, keep)
        states = put(states, chunk_states.swapaxes(0, 1), start, 1)
        kept = jax.tree.map(lambda array, own: put(array, own, start, 0), kept, gates)
        return chunk_states[-1], states, kept

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


def _backward(plan: Plan, up_to_longest: bool, *saved: Any) -> Histories:
    histories, states, kept, d_states, d_last = saved
    steps = histories.x.shape[1]
    count, size, needed, whole = _cut(histories, up_to_longest)
    states, d_states = (padded(array, {1: count * size}) for array in (states, d_states))

    def chunk(index: Any, carry: tuple) -> tuple:
        d_last, d_x, d_offset, d_slope, d_weights = carry
        start = index * size
        last_before = jnp.maximum(start - 1, 0)
        previous = jax.lax.dynamic_index_in_dim(states, last_before, axis=1, keepdims=False)
        initial = jnp.where(start == 0, histories.initial, previous)
        operands, x = _operands(plan, whole, start, size, initial)
        chunk_states = part_of(states, start, size, axis=1).swapaxes(0, 1)
        d_chunk_states = part_of(d_states, start, size, axis=1).swapaxes(0, 1)
        gates = jax.tree.map(lambda array: part_of(array, start, size), kept)
        d_chunk_states = d_chunk_states.at[-1].add(d_last)
        gradients = scan_backward(plan, operands, chunk_states, gates, d_chunk_states)
        before = jnp.concatenate([initial[None], chunk_states[:-1]])
        d_chunk_x, d_chunk_weights = _matmul_gradients(
            plan, whole.weights, x, before, gates, gradients.inputs
        )
        d_x = put(d_x, d_chunk_x, start, 1)
        d_offset = put(d_offset, gradients.offset, start, 0)
        d_slope = put(d_slope, gradients.slope, start, 0)
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


def _cut(histories: Histories, up_to_longest: bool) -> tuple[int, int, Any, Histories]:
    """Return the number of chunks, their steps, how many to run, and whole chunks of histories.

    Dead steps fill the last chunk. T may be symbolic, as in an export.
    """
    steps = histories.x.shape[1]
    count = -(-steps // LONGEST_CHUNK)
    size = -(-steps // count) if isinstance(steps, int) else LONGEST_CHUNK
    needed = -(-histories.lengths.max(initial=0) // size) if up_to_longest else count
    x = padded(histories.x, {1: count * size})
    offset, slope = (padded(row, {0: count * size}) for row in (histories.offset, histories.slope))
    return count, size, needed, histories._replace(x=x, offset=offset, slope=slope)


def _operands(
    plan: Plan, whole: Histories, start: Any, size: int, initial: jax.Array
) -> tuple[Operands, jax.Array]:
    """Return the backend's operands for one chunk, and its inputs ``[B, K, D]``, 0 where dead."""
    x = part_of(whole.x, start, size, axis=1)
    live = (start + jnp.arange(size))[None, :, None] < whole.lengths[:, None, None]
    x = jnp.where(live, x, 0)
    inputs = project("tbh", plan, x, whole.weights)
    offset, slope = (part_of(array, start, size) for array in (whole.offset, whole.slope))
    lengths, bias = whole.lengths - start, whole.weights.recurrent_bias
    recurrent = by_gate(plan, whole.weights.recurrent.swapaxes(0, 1))
    return Operands(inputs, offset, slope, lengths, recurrent, bias, initial), x


def scan_forward(plan: Plan, operands: Operands, keep: bool) -> tuple[jax.Array, Kept | None]:
    dot = functools.partial(jnp.dot, precision=plan.precision)
    recurrent = operands.recurrent

    def step(h: jax.Array, now: tuple) -> tuple[jax.Array, tuple]:
        inputs, offset, slope = now
        r = sigmoid(inputs.reset + dot(h, recurrent.reset))
        u = sigmoid(inputs.update + dot(h, recurrent.update)) if plan.has_update else None
        if plan.form == "authors":
            product = None
            c = jnp.tanh(inputs.candidate + dot(r * h, recurrent.candidate))
        else:
            product = dot(h, recurrent.candidate) + operands.bias[None]
            c = jnp.tanh(inputs.candidate + r * product)
        h = h + strength(offset, slope, u) * (c - h)
        return h, (h, Kept(r, u, c, product) if keep else None)

    scanned = (operands.inputs, operands.offset, operands.slope)
    return jax.lax.scan(step, operands.initial, scanned)[1]


def scan_backward(
    plan: Plan, operands: Operands, states: jax.Array, kept: Kept, d_states: jax.Array
) -> Gradients:
    """Run one short reverse scan between element-wise work on all steps at once."""
    dot = functools.partial(jnp.dot, precision=plan.precision)
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    r, u, c, product = kept
    offset, slope = operands.offset, operands.slope
    z = strength(offset, slope, u)
    d_strength = c - before  # of z, per unit of dh
    to_candidate = z * (1 - c * c)
    to_update = None if u is None else d_strength * slope[..., None] * (u * (1 - u))
    if product is not None:
        # dh reaches the reset gate and the candidate's product element by element.
        to_product = to_candidate * r
        to_reset = to_candidate * product * (r * (1 - r))
    else:
        # dh reaches the reset gate through U_c: only the element-wise factor is known here.
        to_product = None
        to_reset = before * (r * (1 - r))
    keep = jnp.broadcast_to(1 - z, before.shape)
    # The barriers pin values with several consumers: XLA's CPU fusion would otherwise evaluate
    # them again in each one.
    factors = jax.lax.optimization_barrier((keep, to_candidate, to_update, to_product, to_reset))
    turned = jax.tree.map(jnp.transpose, operands.recurrent)

    def step(dh: jax.Array, now: tuple) -> tuple[jax.Array, tuple]:
        d_state, (keep, to_candidate, to_update, to_product, to_reset), r = now
        dh = dh + d_state
        d_before = dh * keep
        if to_product is not None:
            d_reset = dh * to_reset
            d_before = d_before + dot(dh * to_product, turned.candidate)
            emitted: tuple = (dh,)
        else:
            d_masked = dot(dh * to_candidate, turned.candidate)
            d_reset = d_masked * to_reset
            d_before = d_before + d_masked * r
            emitted = (dh, d_reset)
        d_before = d_before + dot(d_reset, turned.reset)
        if to_update is not None:
            d_before = d_before + dot(dh * to_update, turned.update)
        return d_before, emitted

    scanned = (d_states, factors, r if product is None else None)
    d_initial, emitted = jax.lax.scan(step, jnp.zeros_like(operands.initial), scanned, reverse=True)
    dh = emitted[0]
    d_reset = emitted[1] if product is None else dh * to_reset
    d_update = None if to_update is None else dh * to_update
    d_inputs = jax.lax.optimization_barrier(Gates(d_reset, d_update, dh * to_candidate))
    d_z = dh * d_strength
    d_slope = jnp.zeros_like(slope) if u is None else (d_z * u).sum(-1)
    return Gradients(d_inputs, d_z.sum(-1), d_slope, d_initial)


BACKEND = HistoryBackend("xla", run)
