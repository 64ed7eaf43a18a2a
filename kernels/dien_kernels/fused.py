"""What every fused implementation shares: projections, padding of H, and the derivative.

Autodiff of a scan keeps or recomputes every intermediate of every step and adds up the weight
gradients step by step. Here only what is sequential goes to a backend's launches (see
:mod:`dien_kernels.contract`); the rest is matmuls over all steps at once: the input projections
before, each weight gradient after. A backend without blocks of rows has all of that done in chunks
of time instead, see :mod:`dien_kernels.chunks`.

Dimensions: B batch (rows), T steps, D input, H hidden.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from dien_kernels import chunks
from dien_kernels.contract import Backend, Blocks, Gradients, Kept, Layout, Operands, Plan
from dien_kernels.launch import launch, no_gradient, padded, shards
from dien_kernels.matmuls import by_gate, project, recurrent_gradients
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

    live = jnp.arange(steps, dtype=lengths.dtype)[:, None] < lengths[None, :]
    one = live.astype(x.dtype)
    a = one if attention is None else attention.T * one
    if cell == "agru":
        offset, slope = a, jnp.zeros_like(one)
    elif form == "paper":
        offset, slope = jnp.zeros_like(one), a
    else:
        offset, slope = one, -(one if cell == "gru" else one - a)

    lengths = lengths.astype(jnp.int32)
    if weights.recurrent_bias is None:
        weights = weights._replace(recurrent_bias=jnp.zeros(hidden, x.dtype))
    if plan.blocks is None:
        histories = chunks.Histories(x, offset, slope, lengths, weights, initial_state)
        return chunks.run(backend, plan, histories)

    x = jnp.where(live.T[..., None], x, 0)
    wide = backend.padded_hidden(hidden)
    wider = _wider(weights, wide)
    operands = Operands(
        project(backend.layout, plan, x, wider),
        offset,
        slope,
        lengths,
        by_gate(plan, wider.recurrent.swapaxes(0, 1)),
        wider.recurrent_bias,
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
    """Weights with zeros up to the kernel's hidden size."""
    assert weights.recurrent_bias is not None
    return Weights(
        padded(weights.input, {2: wide}),
        padded(weights.recurrent, {0: wide, 2: wide}),
        padded(weights.bias, {1: wide}),
        padded(weights.recurrent_bias, {0: wide}),
    )


def _ordered(layout: Layout, rows: jax.Array) -> jax.Array:
    """``[B, H]`` as the layout has it."""
    return rows.T if layout == "thb" else rows


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
    d_recurrent, d_bias = recurrent_gradients(backend.layout, plan, before, kept, d_inputs)
    return (
        Operands(
            d_inputs,
            gradients.offset,
            gradients.slope,
            no_gradient(operands.lengths),
            d_recurrent,
            d_bias,
            gradients.initial,
        ),
    )


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)
