"""The recurrences as C++ kernels on the CPU, one call for all steps of a direction.

The kernels (``native/src``) read the inputs themselves and return the gradients of the weights, so
this backend runs whole histories. Rows are in the vector lanes, sorted by length.

A program that is exported, or lowered for another platform, runs the computation of ``xla``
instead: the machine that loads it may not have the library.

Dimensions: B batch (rows), T steps, H hidden.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dien_kernels import chunks
from dien_kernels.backends import xla
from dien_kernels.contract import HistoryBackend, Plan
from dien_kernels.launch import mappable, no_gradient
from dien_kernels.native import library
from dien_kernels.native.primitive import primitive
from dien_kernels.reference import Weights

PANEL = 32
"""Rows that the kernels keep arrays for together, see native/src/arguments.h."""
_ROW_AXES = chunks.Histories(x=0, offset=1, slope=1, lengths=0, weights=-1, initial=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(plan: Plan, histories: chunks.Histories) -> tuple[jax.Array, jax.Array]:
    """Return states ``[B, T, H]`` and the last one ``[B, H]``."""
    # Without gradients vmap makes more rows of the mapped axis. The arrays that are kept for
    # gradients, and sums over rows, belong to one call.
    forward = mappable(lambda own: _forward(plan, False, own)[0], (_ROW_AXES,), 0)
    states = forward(histories)
    return states, states[:, -1]


def _run_forward(plan: Plan, histories: chunks.Histories) -> tuple[tuple, tuple]:
    histories = jax.tree.map(lambda leaf: leaf.value, histories)
    forward = jax.custom_batching.sequential_vmap(functools.partial(_forward, plan, True))
    states, kept = forward(histories)
    return (states, states[:, -1]), (histories, kept)


def _run_backward(plan: Plan, saved: tuple, gradients: tuple) -> tuple[chunks.Histories]:
    histories, kept = saved
    d_states, d_last = gradients
    if isinstance(d_states, SymbolicZero):  # nobody reads all states
        d_states = jnp.zeros((0, 0, 0), jnp.float32)
    if isinstance(d_last, SymbolicZero):
        d_last = jnp.zeros(histories.initial.shape, jnp.float32)
    backward = jax.custom_batching.sequential_vmap(functools.partial(_backward, plan))
    d_histories = backward(histories, kept, d_states, d_last)
    return (d_histories._replace(lengths=no_gradient(histories.lengths)),)


run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


def _forward(plan: Plan, keep: bool, histories: chunks.Histories) -> tuple:
    """Return states, and what the backward kernel reads (empty unless ``keep``)."""
    operands = jax.tree.leaves(histories)
    return tuple(forward_p.bind(*operands, paper=plan.form == "paper", keep=keep))


def _backward(
    plan: Plan, histories: chunks.Histories, kept: Any, d_states: Any, d_last: Any
) -> chunks.Histories:
    operands = (*jax.tree.leaves(histories), kept, d_states, d_last)
    d_x, d_offset, d_slope, *d_weights, d_initial = backward_p.bind(
        *operands, paper=plan.form == "paper"
    )
    return chunks.Histories(d_x, d_offset, d_slope, None, Weights(*d_weights), d_initial)


def _histories(operands: tuple) -> chunks.Histories:
    x, offset, slope, lengths, *weights, initial = operands
    return chunks.Histories(x, offset, slope, lengths, Weights(*weights), initial)


def _kept_shape(histories: chunks.Histories, paper: bool) -> tuple:
    """Return panels, T + 1, arrays of a step, H, rows of a panel."""
    (batch, steps, _), (_, gates, hidden) = histories.x.shape, histories.weights.input.shape
    return -(-batch // PANEL), steps + 1, 1 + gates + paper, hidden, PANEL


def _by_xla(paper: bool, histories: chunks.Histories) -> tuple[jax.Array, jax.Array]:
    """Compute by XLA: offset and slope say of every cell with an update gate what it does."""
    cell: Any = "agru" if histories.weights.input.shape[1] == 2 else "augru"
    plan = Plan(cell, "paper" if paper else "authors", jax.lax.Precision.HIGHEST)
    return chunks.run(xla.BACKEND, plan, histories)


def _forward_by_xla(*operands: Any, paper: bool, keep: bool) -> list[jax.Array]:
    histories = _histories(operands)
    states, _ = _by_xla(paper, histories)
    shape = _kept_shape(histories, paper) if keep else (0,)
    return [states, jnp.zeros(shape, jnp.float32)]  # the backward pass computes it again


def _backward_by_xla(*operands: Any, paper: bool) -> list[jax.Array]:
    *inputs, _, d_states, d_last = operands
    histories = _histories(tuple(inputs))
    _, pull = jax.vjp(functools.partial(_by_xla, paper), histories)
    if not d_states.size:
        d_states = jnp.zeros((*histories.x.shape[:2], d_last.shape[1]), d_last.dtype)
    (d_histories,) = pull((d_states, d_last))
    return jax.tree.leaves(d_histories._replace(lengths=None))


def _forward_shapes(*operands: Any, paper: bool, keep: bool) -> list[Any]:
    histories = _histories(operands)
    shape = (*histories.x.shape[:2], histories.initial.shape[1])
    kept = _kept_shape(histories, paper) if keep else (0,)
    return [histories.x.update(shape=shape), histories.x.update(shape=kept)]


def _backward_shapes(*operands: Any, paper: bool) -> list[Any]:
    histories = _histories(operands[: len(operands) - 3])
    return jax.tree.leaves(histories._replace(lengths=None))


forward_p = primitive("dien_kernels_forward", _forward_shapes, _forward_by_xla, ["paper"])
backward_p = primitive("dien_kernels_backward", _backward_shapes, _backward_by_xla, ["paper"])
BACKEND = HistoryBackend("native", run, identity=library.identity)
