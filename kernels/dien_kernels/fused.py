"""Parts that all fused implementations share: projections, padding of H, and the derivative.

Only the sequential part goes to a backend's launches (:mod:`dien_kernels.contract`). The rest is
matmuls over all steps at once: the input projections before, each weight gradient after, which
autodiff of a scan would add up step by step. A ``HistoryBackend`` does all of that itself.

Kernels see whole blocks of rows: a launch pads them, and under vmap the mapped axis becomes more
rows. Row axes of arguments and results are given as prefixes of their trees; -1 stands for arrays
without rows.

Dimensions: B batch (rows), T steps, D input, H hidden.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels.contract import (
    Backend,
    Blocks,
    Gradients,
    Histories,
    HistoryBackend,
    Operands,
    Plan,
    Shape,
)
from dien_kernels.reference import Inputs, Weights, with_bias
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

    lengths = lengths.astype(jnp.int32).clip(0, x.shape[1])  # kernels use them as addresses
    weights = with_bias(weights)
    if isinstance(backend, HistoryBackend):
        return backend.run(plan, Histories(x, offset, slope, lengths, weights, initial))

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
    return _forward(backend, plan, False, operands)[0]


def _recurrence_forward(backend: Backend, plan: Plan, operands: Operands) -> tuple:
    states, kept = _forward(backend, plan, True, operands)
    return states, (operands, states, kept)


def _recurrence_backward(backend: Backend, plan: Plan, saved: tuple, d_states: Any) -> tuple:
    operands, states, kept = saved
    rows, axes = _row_axes(backend)
    results = Gradients(rows, offset=1, slope=1, initial=rows - 1)
    backward = functools.partial(backend.backward, plan)
    launch = _launch(plan, backward, (axes, rows, rows, rows), results)
    d_inputs, d_offset, d_slope, d_initial = launch(*saved, d_states)
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    d_recurrent, d_bias = recurrent_gradients(backend.layout, plan, before, kept, d_inputs)
    d_lengths = no_gradient(operands.lengths)
    return (Operands(d_inputs, d_offset, d_slope, d_lengths, d_recurrent, d_bias, d_initial),)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _forward(backend: Backend, plan: Plan, keep: bool, operands: Operands) -> tuple:
    rows, axes = _row_axes(backend)
    forward = functools.partial(backend.forward, plan, keep=keep)
    return _launch(plan, forward, (axes,), (rows, rows))(operands)


def _row_axes(backend: Backend) -> tuple[Any, Any]:
    """Return the row axis of the states of all steps, and those of operands."""
    rows: Any = backend.layout.index("b")
    no_rows: Any = -1
    return rows, Operands(rows, 1, 1, 0, recurrent=no_rows, bias=no_rows, initial=rows - 1)


def _launch(plan: Plan, call: Callable, arguments: tuple, results: Any) -> Callable:
    """Return a launch for any number of rows: pad to whole blocks, with a rule for vmap."""
    assert plan.blocks is not None
    block = plan.blocks.rows

    def filled(*parts: Any) -> Any:
        rows = parts[0].lengths.shape[0]
        whole = -(-rows // block) * block
        if whole == rows:
            return call(*parts)

        def pad(axis: int, array: jax.Array) -> jax.Array:
            return array if axis < 0 else padded(array, {axis: whole})

        def unpad(axis: int, array: jax.Array) -> jax.Array:
            return jax.lax.slice_in_dim(array, 0, rows, axis=axis)

        return _map(unpad, results, call(*_map(pad, arguments, parts)))

    return mappable(filled, arguments, results)


def _map(function: Callable, axes: Any, *trees: Any) -> Any:
    """Map ``function(axis, *leaves)`` over trees of which ``axes`` is a prefix; None stays None."""

    def inner(axis: int, *parts: Any) -> Any:
        return jax.tree.map(functools.partial(function, axis), *parts)

    return jax.tree.map(inner, axes, *trees)


def mappable(call: Callable, arguments: tuple, results: Any) -> Callable:
    """Return ``call`` with a vmap rule: the mapped axis becomes rows, unless weights are mapped."""
    mapped = jax.custom_batching.custom_vmap(call)

    def rule(size: int, batched: Any, *parts: Any) -> tuple[Any, Any]:
        def repeated(axis: int, array: jax.Array, is_batched: bool) -> jax.Array:
            return array if is_batched else jnp.broadcast_to(array[None], (size, *array.shape))

        def fold(axis: int, array: jax.Array, is_batched: bool) -> jax.Array:
            if axis < 0:
                return array
            array = jnp.moveaxis(repeated(axis, array, is_batched), 0, axis)
            return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])

        def unfold(axis: int, array: jax.Array) -> jax.Array:
            apart = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(apart, axis, 0)

        flags = tuple(batched)
        mapped_weights = _map(lambda axis, flag: axis < 0 and flag, arguments, flags)
        if any(jax.tree.leaves(mapped_weights)):
            whole = _map(repeated, arguments, parts, flags)
            out = jax.lax.map(lambda example: mapped(*example), whole)
        else:
            out = _map(unfold, results, mapped(*_map(fold, arguments, parts, flags)))
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped


def no_gradient(integers: jax.Array) -> Any:
    return jnp.zeros(integers.shape, jax.dtypes.float0)


def padded(array: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Append zeros to some axes, up to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(array.shape)]
    return jnp.pad(array, widths) if any(after for _, after in widths) else array
