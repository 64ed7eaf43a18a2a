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

from dien_kernels.backends import xla
from dien_kernels.contract import Histories, HistoryBackend, Plan
from dien_kernels.fused import mappable, no_gradient
from dien_kernels.native import library
from dien_kernels.native.library import primitive

PANEL = 32
"""Rows whose kept arrays are stored together, see native/src/arguments.h."""
_ROW_AXES = Histories(x=0, offset=1, slope=1, lengths=0, weights=-1, initial=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(plan: Plan, histories: Histories) -> tuple[jax.Array, jax.Array]:
    """Return states ``[B, T, H]`` and the last one ``[B, H]``."""
    # Without gradients, vmap turns the mapped axis into rows. Arrays that are kept for gradients,
    # and sums over rows, belong to one call.
    paper = plan.form == "paper"
    forward = mappable(lambda own: _forward(own, paper=paper, keep=False)[0], (_ROW_AXES,), 0)
    states = forward(histories)
    return states, states[:, -1]


def _run_forward(plan: Plan, histories: Histories) -> tuple[tuple, tuple]:
    histories = jax.tree.map(lambda leaf: leaf.value, histories)
    forward = functools.partial(_forward, paper=plan.form == "paper", keep=True)
    states, kept = jax.custom_batching.sequential_vmap(forward)(histories)
    return (states, states[:, -1]), (histories, kept)


def _run_backward(plan: Plan, saved: tuple, gradients: tuple) -> tuple[Histories]:
    histories, kept = saved
    d_states, d_last = gradients
    if isinstance(d_states, SymbolicZero):  # only the last state is used
        d_states = jnp.zeros((0, 0, 0), jnp.float32)
    if isinstance(d_last, SymbolicZero):
        d_last = jnp.zeros(histories.initial.shape, jnp.float32)
    backward = functools.partial(_backward, paper=plan.form == "paper")
    found = jax.custom_batching.sequential_vmap(backward)(histories, kept, d_states, d_last)
    return (found._replace(lengths=no_gradient(histories.lengths)),)


run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)


def _kept_shape(histories: Histories, paper: bool, keep: bool) -> tuple:
    """Return panels, T + 1, arrays per step, H, rows per panel; ``(0,)`` unless ``keep``."""
    (batch, steps, _), (_, gates, hidden) = histories.x.shape, histories.weights.input.shape
    return (-(-batch // PANEL), steps + 1, 1 + gates + paper, hidden, PANEL) if keep else (0,)


def _by_xla(paper: bool, histories: Histories) -> tuple[jax.Array, jax.Array]:
    """Compute by XLA; offset and slope define every cell that has an update gate."""
    cell: Any = "agru" if histories.weights.input.shape[1] == 2 else "augru"
    plan = Plan(cell, "paper" if paper else "authors", jax.lax.Precision.HIGHEST)
    return xla.run(plan, histories)


def _forward_by_xla(histories: Histories, *, paper: bool, keep: bool) -> tuple:
    states, _ = _by_xla(paper, histories)
    # The backward pass recomputes what the kernels keep.
    return states, jnp.zeros(_kept_shape(histories, paper, keep), jnp.float32)


def _backward_by_xla(
    histories: Histories, _: Any, d_states: Any, d_last: Any, *, paper: bool
) -> Histories:
    _, pull = jax.vjp(functools.partial(_by_xla, paper), histories)
    if not d_states.size:
        d_states = jnp.zeros((*histories.x.shape[:2], d_last.shape[1]), d_last.dtype)
    (d_histories,) = pull((d_states, d_last))
    return d_histories._replace(lengths=None)


def _forward_shapes(histories: Histories, *, paper: bool, keep: bool) -> tuple:
    states = histories.x.update(shape=(*histories.x.shape[:2], histories.initial.shape[1]))
    return states, states.update(shape=_kept_shape(histories, paper, keep))


def _backward_shapes(histories: Histories, *_: Any, paper: bool) -> Histories:
    return histories._replace(lengths=None)


_forward = primitive("dien_kernels_forward", _forward_shapes, _forward_by_xla, ["paper"])
_backward = primitive("dien_kernels_backward", _backward_shapes, _backward_by_xla, ["paper"])
BACKEND = HistoryBackend("native", run, identity=library.identity)
