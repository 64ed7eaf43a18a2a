"""The recurrences as ``jax.lax.scan`` over their equations: the oracle of every implementation.

Plain on purpose. Values come from the equations as they are written, gradients from autodiff.

Dimensions: B batch, T steps, D input, H hidden, G gates (3; AGRU has 2: reset and candidate).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Cell = Literal["gru", "agru", "augru"]
Form = Literal["paper", "authors"]


class Weights(NamedTuple):
    """Parameters of one recurrence, gates ordered reset, update, candidate (AGRU has no update).

    Attributes:
      input: ``[D, G, H]``.
      recurrent: ``[H, G, H]``.
      bias: ``[G, H]``.
      recurrent_bias: ``[H]`` or None; added to the candidate's recurrent product before the reset
        gate multiplies it, as cuDNN does. Only ``form="paper"`` has a place for it.
    """

    input: jax.Array
    recurrent: jax.Array
    bias: jax.Array
    recurrent_bias: jax.Array | None = None


def run(
    cell: Cell,
    form: Form,
    x: jax.Array,
    attention: jax.Array | None,
    weights: Weights,
    lengths: jax.Array,
    initial_state: jax.Array,
    precision: jax.lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array]:
    """All states and the last one of ``cell`` over ``x``; arguments as in :mod:`dien_kernels.api`.

    Every array is float32. ``initial_state`` is ``[B, H]``.
    """
    gate_inputs = jnp.einsum("btd,dgh->tgbh", x, weights.input, precision=precision)
    gate_inputs = gate_inputs + weights.bias[None, :, None, :]
    live = jnp.arange(x.shape[1], dtype=lengths.dtype)[:, None] < lengths[None, :]
    scale = jnp.ones(live.shape, x.dtype) if attention is None else attention.T

    def step(state: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
        gates, a, is_live = inputs
        moved = _next_state(cell, form, state, gates, a[:, None], weights, precision)
        state = jnp.where(is_live[:, None], moved, state)
        return state, state

    last, states = jax.lax.scan(step, initial_state, (gate_inputs, scale, live))
    return states.swapaxes(0, 1), last


def _next_state(
    cell: Cell,
    form: Form,
    h: jax.Array,
    gates: jax.Array,
    a: jax.Array,
    weights: Weights,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    """One step: h ``[B, H]``, input projections ``[G, B, H]``, attention ``[B, 1]``."""

    def recurrent(value: jax.Array, gate: int) -> jax.Array:
        return jnp.dot(value, weights.recurrent[:, gate], precision=precision)

    candidate = -1
    r = jax.nn.sigmoid(gates[0] + recurrent(h, 0))
    if form == "paper":
        product = recurrent(h, candidate)
        if weights.recurrent_bias is not None:
            product = product + weights.recurrent_bias[None]
        c = jnp.tanh(gates[candidate] + r * product)
    else:
        c = jnp.tanh(gates[candidate] + recurrent(r * h, candidate))

    if cell == "agru":
        return (1 - a) * h + a * c
    u = jax.nn.sigmoid(gates[1] + recurrent(h, 1))
    if form == "paper":
        if cell == "augru":
            u = a * u
        return (1 - u) * h + u * c
    if cell == "augru":
        u = (1 - a) * u
    return u * h + (1 - u) * c
