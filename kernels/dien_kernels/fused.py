"""What every fused implementation shares: projections, padding of H, and the derivative.

Autodiff of a scan keeps or recomputes every intermediate of every step and adds up the weight
gradients step by step. Here only what is sequential goes to a backend's launches (see
:mod:`dien_kernels.contract`); the rest is matmuls over all steps at once: the input projections
before, each weight gradient after.

Dimensions: B batch (rows), T steps, D input, H hidden.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from dien_kernels.contract import Backend, Blocks, Gates, Gradients, Kept, Layout, Operands, Plan
from dien_kernels.launch import launch, padded, shards
from dien_kernels.reference import Cell, Form, Weights


def run(
    backend: Backend,
    cell: Cell,
    form: Form,
    x: jax.Array,
    attention: jax.Array | None,
    weights: Weights,
    lengths: jax.Array,
    initial_state: jax.Array,
    precision: jax.lax.Precision,
    *,
    blocks: Blocks | None = None,
    interpret: bool = False,
    sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All states and the last one; the same contract as :func:`dien_kernels.reference.run`."""
    batch, steps, _ = x.shape
    hidden = initial_state.shape[1]
    plan = make_plan(
        backend,
        cell,
        form,
        precision,
        rows=batch if sharding is None else -(-batch // shards(sharding)),
        steps=steps,
        hidden=hidden,
        blocks=blocks,
    )
    plan = dataclasses.replace(plan, interpret=interpret, sharding=sharding)
    wide = backend.padded_hidden(hidden)
    wider = _wider(weights, wide)

    live = jnp.arange(steps, dtype=lengths.dtype)[:, None] < lengths[None, :]
    one = live.astype(x.dtype)
    a = one if attention is None else attention.T * one
    if cell == "agru":
        offset, slope = a, jnp.zeros_like(one)
    elif form == "paper":
        offset, slope = jnp.zeros_like(one), a
    else:
        offset, slope = one, -(one if cell == "gru" else one - a)

    operands = Operands(
        _project(backend.layout, plan, x, wider),
        offset,
        slope,
        lengths.astype(jnp.int32),
        _by_gate(plan, wider.recurrent.swapaxes(0, 1)),
        padded(
            jnp.zeros(hidden, x.dtype)
            if weights.recurrent_bias is None
            else weights.recurrent_bias,
            {0: wide},
        ),
        _ordered(backend.layout, padded(initial_state, {1: wide})),
    )
    states = _recurrence(backend, plan, operands)
    last = states[-1]
    if backend.layout == "thb":
        return states.transpose(2, 0, 1)[..., :hidden], last.T[:, :hidden]
    return states.swapaxes(0, 1)[..., :hidden], last[:, :hidden]


def make_plan(
    backend: Backend,
    cell: Cell,
    form: Form,
    precision: jax.lax.Precision,
    *,
    rows: int,
    steps: int,
    hidden: int,
    blocks: Blocks | None = None,
) -> Plan:
    """How the backend runs this shape, ``rows`` being those of one device.

    Raises:
      ValueError: for blocks that cannot run.
      NotImplementedError: for a shape or precision that the backend is not written for.
    """
    plan = Plan(form, cell != "agru", precision)
    wide = backend.padded_hidden(hidden)
    blocks = blocks or backend.blocks(plan, rows, steps, wide)
    if blocks is None:
        return plan
    backend.check(plan, blocks, rows, steps, wide)
    return dataclasses.replace(plan, blocks=blocks)


def _wider(weights: Weights, wide: int) -> Weights:
    """Input, recurrent and bias with zeros up to the kernel's hidden size."""
    return Weights(
        padded(weights.input, {2: wide}),
        padded(weights.recurrent, {0: wide, 2: wide}),
        padded(weights.bias, {1: wide}),
    )


def _by_gate(plan: Plan, stacked: jax.Array) -> Gates:
    """Reset, update and candidate of an array whose first dimension is the gate."""
    return Gates(stacked[0], stacked[1] if plan.has_update else None, stacked[-1])


def _ordered(layout: Layout, rows: jax.Array) -> jax.Array:
    """``[B, H]`` as the layout has it."""
    return rows.T if layout == "thb" else rows


def _project(layout: Layout, plan: Plan, x: jax.Array, weights: Weights) -> Gates:
    """Projected inputs of all steps. Gates are separate: XLA slices a stacked one slowly."""
    by_time = x.swapaxes(0, 1) if _flattens(layout, plan) else x

    def one(gate: int) -> jax.Array:
        kernel, bias = weights.input[:, gate], weights.bias[gate]
        if _flattens(layout, plan):
            flat = by_time.reshape(-1, x.shape[-1])
            product = jnp.dot(flat, kernel, precision=plan.precision) + bias[None]
            return product.reshape(*by_time.shape[:2], -1)
        product = jnp.einsum(f"btd,dh->{layout}", x, kernel, precision=plan.precision)
        return product + (bias[None, :, None] if layout == "thb" else bias[None, None])

    return Gates(one(0), one(1) if plan.has_update else None, one(-1))


def _flattens(layout: Layout, plan: Plan) -> bool:
    """Whether matmuls run over flattened (time, batch).

    A CPU runs them faster so, but it would gather rows that are split over devices.
    """
    return layout == "tbh" and plan.sharding is None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(backend: Backend, plan: Plan, operands: Operands) -> jax.Array:
    """States of all steps, in the backend's layout."""
    return launch(backend, plan, "forward")(operands)


def _recurrence_forward(
    backend: Backend, plan: Plan, operands: Operands
) -> tuple[jax.Array, tuple]:
    states, kept = launch(backend, plan, "keep")(operands)
    return states, (operands, states, kept)


def _recurrence_backward(
    backend: Backend, plan: Plan, saved: tuple[Operands, jax.Array, Kept], d_states: jax.Array
) -> tuple[Operands]:
    operands, states, kept = saved
    gradients: Gradients = launch(backend, plan, "backward")(operands, states, kept, d_states)
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    d_inputs = gradients.inputs
    if plan.form == "paper":
        of_candidate, d_product = before, d_inputs.candidate * kept.reset
    else:
        of_candidate, d_product = kept.reset * before, d_inputs.candidate

    def outer(left: jax.Array, right: jax.Array) -> jax.Array:
        if _flattens(backend.layout, plan):
            left, right = (array.reshape(-1, array.shape[-1]) for array in (left, right))
            return jnp.dot(left.T, right, precision=plan.precision)
        layout = backend.layout
        equation = f"{layout},{layout.replace('h', 'k')}->hk"
        return jnp.einsum(equation, left, right, precision=plan.precision)

    d_recurrent = Gates(
        outer(before, d_inputs.reset),
        None if d_inputs.update is None else outer(before, d_inputs.update),
        outer(of_candidate, d_product),
    )
    if plan.form == "paper":
        d_bias = d_product.sum((0, 2) if backend.layout == "thb" else (0, 1))
    else:
        d_bias = jnp.zeros_like(operands.bias)
    return (
        Operands(
            d_inputs,
            gradients.offset,
            gradients.slope,
            _no_gradient(operands.lengths),
            d_recurrent,
            d_bias,
            gradients.initial,
        ),
    )


def _no_gradient(integers: jax.Array) -> Any:
    return jnp.zeros(integers.shape, jax.dtypes.float0)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
