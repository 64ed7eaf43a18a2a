"""The recurrences as ``jax.lax.scan`` over their equations: the oracle of every implementation.

Deliberately plain: values come from the equations as written, gradients from autodiff.

Dimensions: B batch, T steps, D input, H hidden, G gates (3; AGRU has 2: reset and candidate).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Cell = Literal["gru", "agru", "augru"]
Form = Literal["paper", "authors"]
"""Published definitions of the gates: the paper's equations, and those of the authors' program."""


class Weights(NamedTuple):
    """Parameters of one recurrence, gates ordered reset, update, candidate (AGRU has no update).

    ``input`` is ``[D, G, H]``, ``recurrent`` ``[H, G, H]``, ``bias`` ``[G, H]``.
    ``recurrent_bias``, ``[H]`` or None, is added to the candidate's recurrent product before the
    reset gate multiplies it, as in cuDNN; ``form="paper"`` only.

    >>> D, G, H = 8, 3, 16
    >>> weights = Weights(jnp.ones((D, G, H)), jnp.ones((H, G, H)), jnp.zeros((G, H)))
    >>> weights.recurrent_bias is None
    True
    """

    input: jax.Array
    recurrent: jax.Array
    bias: jax.Array
    recurrent_bias: jax.Array | None = None


class Inputs(NamedTuple):
    """Arrays of a call, as in :func:`dien_kernels.augru`; initial_state may be None at first."""

    x: jax.Array
    attention: jax.Array | None
    weights: Weights
    lengths: jax.Array
    initial_state: Any


def run(
    cell: Cell, form: Form, inputs: Inputs, precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, jax.Array]:
    """Return all states and the last one of float32 arrays."""
    x, attention, weights, lengths, initial_state = inputs
    gate_inputs = jnp.einsum("btd,dgh->tgbh", x, weights.input, precision=precision)
    gate_inputs = gate_inputs + weights.bias[None, :, None, :]
    live = jnp.arange(x.shape[1], dtype=lengths.dtype)[:, None] < lengths[None, :]
    scale = jnp.ones(live.shape, x.dtype) if attention is None else attention.T
    candidate = -1

    def recurrent(value: jax.Array, gate: int) -> jax.Array:
        return product(value, weights.recurrent[:, gate], precision)

    def next_state(h: jax.Array, gates: jax.Array, a: jax.Array) -> jax.Array:
        """Run one step: h ``[B, H]``, input projections ``[G, B, H]``, attention ``[B, 1]``."""
        r = jax.nn.sigmoid(gates[0] + recurrent(h, 0))
        if form == "paper":
            share = recurrent(h, candidate)
            if weights.recurrent_bias is not None:
                share = share + weights.recurrent_bias[None]
            c = jnp.tanh(gates[candidate] + r * share)
        else:
            c = jnp.tanh(gates[candidate] + recurrent(r * h, candidate))
        if cell == "agru":
            return (1 - a) * h + a * c
        u = jax.nn.sigmoid(gates[1] + recurrent(h, 1))
        if form == "paper":
            u = a * u if cell == "augru" else u
            return (1 - u) * h + u * c
        u = (1 - a) * u if cell == "augru" else u
        return u * h + (1 - u) * c

    def step(state: jax.Array, now: tuple) -> tuple[jax.Array, jax.Array]:
        gates, a, is_live = now
        moved = next_state(state, gates, a[:, None])
        state = jnp.where(is_live[:, None], moved, state)
        return state, state

    last, states = jax.lax.scan(step, initial_state, (gate_inputs, scale, live))
    return states.swapaxes(0, 1), last


def product(left: jax.Array, right: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """Return the product of states ``[B, H]`` and recurrent weights ``[H, H]``."""
    return jnp.dot(left, right, precision=precision)
