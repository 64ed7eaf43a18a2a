"""Parts that all fused implementations share: projections, padding of H, and the derivative.

Only the sequential part goes to a backend's launches (:mod:`dien_kernels.contract`). The rest is
matmuls over all steps at once: the input projections before, each weight gradient after, which
autodiff of a scan would add up step by step. A backend without blocks of rows does all of that in
chunks of time, see :mod:`dien_kernels.chunks`; a ``HistoryBackend`` does it itself.

Dimensions: B batch (rows), T steps, D input, H hidden.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels import chunks
from dien_kernels.contract import Backend, Blocks, HistoryBackend, Operands, Plan, Shape
from dien_kernels.launch import launch, no_gradient, padded
from dien_kernels.reference import Inputs, Weights
from dien_kernels.step import by_gate, project, recurrent_gradients


def with_blocks(
    plan: Plan, backend: Backend | HistoryBackend, shape: Shape, blocks: Blocks | None = None
) -> Plan:
    """Return the plan with the given blocks or the backend's choice, after the backend's check."""
    if isinstance(backend, HistoryBackend):
        backend.identity()
        return plan
    wide = backend.padded_hidden(shape.hidden)
    blocks = blocks or backend.blocks(plan, shape.rows, shape.steps, wide)
    if blocks is None:
        return plan
    backend.check(plan, blocks, shape.rows, shape.steps, wide)
    return dataclasses.replace(plan, blocks=blocks)


def run(
    backend: Backend | HistoryBackend, plan: Plan, inputs: Inputs
) -> tuple[jax.Array, jax.Array]:
    """Return all states and the last one, as :func:`dien_kernels.reference.run` does."""
    x, attention, weights, lengths, initial = inputs
    hidden = initial.shape[1]
    live = jnp.arange(x.shape[1], dtype=lengths.dtype)[:, None] < lengths[None, :]
    one = live.astype(x.dtype)
    a = one if attention is None else attention.T * one
    if plan.cell == "agru":
        offset, slope = a, jnp.zeros_like(one)
    elif plan.form == "paper":
        offset, slope = jnp.zeros_like(one), a
    else:
        offset, slope = one, -(one if plan.cell == "gru" else one - a)

    lengths = lengths.astype(jnp.int32).clip(0, x.shape[1])  # kernels take them for addresses
    if weights.recurrent_bias is None:
        weights = weights._replace(recurrent_bias=jnp.zeros(hidden, x.dtype))
    if isinstance(backend, HistoryBackend) or plan.blocks is None:
        histories = chunks.Histories(x, offset, slope, lengths, weights, initial)
        if isinstance(backend, HistoryBackend):
            return backend.run(plan, histories)
        return chunks.run(backend, plan, histories)

    x = jnp.where(live.T[..., None], x, 0)
    wide = backend.padded_hidden(hidden)
    sizes: Any = {2: wide}, {0: wide, 2: wide}, {1: wide}, {0: wide}
    wider, rows_last = jax.tree.map(padded, weights, Weights(*sizes)), backend.layout == "thb"
    projected = project(backend.layout, plan, x, wider)
    recurrent = by_gate(plan, wider.recurrent.swapaxes(0, 1))
    initial = padded(initial, {1: wide}).T if rows_last else padded(initial, {1: wide})
    bias = wider.recurrent_bias
    operands = Operands(projected, offset, slope, lengths, recurrent, bias, initial)
    states = _recurrence(backend, plan, operands)
    last = states[-1]
    if rows_last:
        return states.transpose(2, 0, 1)[..., :hidden], last.T[:, :hidden]
    return states.swapaxes(0, 1)[..., :hidden], last[:, :hidden]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(backend: Backend, plan: Plan, operands: Operands) -> jax.Array:
    return launch(backend, plan, "forward")(operands)


def _recurrence_forward(backend: Backend, plan: Plan, operands: Operands) -> tuple:
    states, kept = launch(backend, plan, "keep")(operands)
    return states, (operands, states, kept)


def _recurrence_backward(backend: Backend, plan: Plan, saved: tuple, d_states: Any) -> tuple:
    operands, states, kept = saved
    d_inputs, d_offset, d_slope, d_initial = launch(backend, plan, "backward")(*saved, d_states)
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    d_recurrent, d_bias = recurrent_gradients(backend.layout, plan, before, kept, d_inputs)
    d_lengths = no_gradient(operands.lengths)
    return (Operands(d_inputs, d_offset, d_slope, d_lengths, d_recurrent, d_bias, d_initial),)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
