"""The equations, written plainly: the oracle of every implementation.

Recurrences are ``jax.lax.scan``; the networks of attention and the auxiliary loss read the
concatenation in their equation. Gradients are those of autodiff.

Dimensions: B batch, T steps, S = T - 1 positions, K behaviours of a position, D input or behaviour,
H hidden, M a layer of a network, G gates (3; AGRU has 2: reset and candidate).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from dien_kernels.options import Form

Cell = Literal["gru", "agru", "augru"]


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


def with_bias(weights: Weights) -> Weights:
    """Return float32 weights with a recurrent bias, zeros if there was none."""
    if weights.recurrent_bias is not None:
        return weights
    return weights._replace(recurrent_bias=jnp.zeros(weights.recurrent.shape[0], jnp.float32))


class Inputs(NamedTuple):
    """Arguments of a call, as in :func:`dien_kernels.augru`; initial_state may be None at first."""

    x: jax.Array
    attention: jax.Array | None
    weights: Weights
    lengths: jax.Array
    initial_state: Any


def run(
    cell: Cell, form: Form, inputs: Inputs, precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, jax.Array]:
    """Return all states and the last one, for float32 arrays."""
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


class Dense(NamedTuple):
    """A layer of a network: ``kernel`` is ``[D, M]``, ``bias`` is ``[M]``.

    >>> layer = Dense(jnp.ones((4, 3)), jnp.zeros(3))
    >>> layer.kernel.shape
    (4, 3)
    """

    kernel: jax.Array
    bias: jax.Array


Layers = Sequence[Dense]
"""Layers of an MLP: sigmoids after each but the last one, which has one column."""


def masked_softmax(scores: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return the softmax over live steps; dead steps and rows of length 0 are exactly 0.

    Scores are ``[B, T]``, lengths ``[B]``.

    >>> masked_softmax(jnp.zeros((2, 3)), jnp.array([2, 0])).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    steps = jnp.arange(scores.shape[1], dtype=jnp.int32)
    live = steps[None, :] < lengths.astype(jnp.int32)[:, None]
    highest = jnp.where(live, scores, -jnp.inf).max(-1, keepdims=True)
    highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    powers = jnp.where(live, jnp.exp(jnp.where(live, scores - highest, 0)), 0)
    return powers / jnp.maximum(powers.sum(-1, keepdims=True), jnp.finfo(scores.dtype).tiny)


def apply_layer(value: jax.Array, layer: Dense) -> jax.Array:
    """Return ``value kernel + bias``, in the dtype of the value."""
    kernel, bias = (part.astype(value.dtype) for part in layer)
    return value @ kernel + bias.reshape((1,) * (value.ndim - 1) + (-1,))


def scores_of(value: jax.Array, layers: Layers, activation: Callable) -> jax.Array:
    """Return float32 scores from the first layer's value and the layers after it."""
    for layer in layers:
        value = apply_layer(activation(value), layer)
    return value[..., 0].astype(jnp.float32)


def reference_attention(
    query: jax.Array, states: jax.Array, layers: Layers, lengths: jax.Array
) -> jax.Array:
    """Return attention weights ``[B, T]`` as :func:`dien_kernels.attention_weights` does."""
    live = jnp.arange(states.shape[1], dtype=lengths.dtype)[None, :] < lengths[:, None]
    states = jnp.where(live[..., None], states, 0.0)
    query = jnp.broadcast_to(query[:, None], states.shape)
    inputs = jnp.concatenate([query, states, query - states, query * states], axis=-1)
    first = apply_layer(inputs, layers[0])
    return masked_softmax(scores_of(first, layers[1:], jax.nn.sigmoid), lengths)


def reference_loss(
    states: jax.Array, history: jax.Array, sampled: jax.Array, shares: jax.Array, layers: Layers
) -> jax.Array:
    """Return the auxiliary loss as :func:`dien_kernels.auxiliary_loss` does."""
    behaviours = jnp.concatenate([history[None, :, 1:], sampled])
    before = jnp.broadcast_to(states[None, :, :-1], (*behaviours.shape[:3], states.shape[-1]))
    inputs = jnp.concatenate([before, behaviours], axis=-1)
    inputs = jnp.where((shares != 0).any(0)[None, ..., None], inputs, 0)
    logits = scores_of(apply_layer(inputs, layers[0]), layers[1:], jax.nn.sigmoid)
    return cross_entropy(logits, shares)


def cross_entropy(logits: jax.Array, shares: jax.Array) -> jax.Array:
    """Return the sum of ``share softplus(-l)`` over real, ``share softplus(l)`` over sampled."""
    real, sampled = jax.nn.softplus(-logits[0]), jax.nn.softplus(logits[1:])
    return (shares[0] * real).sum() + (shares[1:] * sampled).sum()
