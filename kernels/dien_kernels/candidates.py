"""Many candidates of one history in XLA: attention and last states, oracle and ``"xla"``.

Dimensions: N candidates, T steps, H state, M first layer, G gates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_kernels.reference import Layers, masked_softmax, reference_attention
from dien_kernels.step import sigmoid

CHUNK = 32
"""Candidates that are computed together; more would not fit in the processor's cache."""


def in_chunks(function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    """Return ``function(rows)``, computed for ``CHUNK`` rows at a time.

    A symbolic number of rows must be at most ``CHUNK``, or a multiple of it.
    """
    count = rows.shape[0]
    if count <= CHUNK:
        return function(rows)
    if filler := -count % CHUNK:
        rows = jnp.pad(rows, [(0, filler)] + [(0, 0)] * (rows.ndim - 1))
    result = jax.lax.map(function, rows.reshape(-1, CHUNK, *rows.shape[1:]))
    return result.reshape(rows.shape[0], *result.shape[2:])[:count]


def reference_candidates(
    query: jax.Array, states: jax.Array, layers: Layers, length: jax.Array
) -> jax.Array:
    """Return attention weights ``[N, T]``; each candidate has a copy of the history."""
    copies = jnp.broadcast_to(states, (query.shape[0], *states.shape))
    return reference_attention(query, copies, layers, jnp.broadcast_to(length, query.shape[:1]))


def xla_candidates(
    query: jax.Array, states: jax.Array, layers: Layers, length: jax.Array
) -> jax.Array:
    """Return attention weights ``[N, T]``; the first layer becomes one matrix per candidate."""
    layers = jax.tree.map(lambda part: part.astype(query.dtype), tuple(layers))
    with_ones = jnp.concatenate([states, jnp.ones_like(states[:, :1])], axis=1)
    scores = in_chunks(lambda rows: _chunk_scores(layers, with_ones, rows), query)
    return masked_softmax(scores.astype(jnp.float32), jnp.broadcast_to(length, query.shape[:1]))


def _chunk_scores(layers: Layers, states: jax.Array, query: jax.Array) -> jax.Array:
    """Return scores up to a constant, which the softmax removes; the last state column is 1."""
    # Sigmoids are (1 + tanh(x / 2)) / 2, with the factors folded into the layers around them.
    steps, rows = states.shape[0], query.shape[0]
    w_query, w_state, w_difference, w_product = jnp.split(layers[0].kernel, 4)
    per_row = query @ (w_query + w_difference) + layers[0].bias[None]
    # [N, H + 1, M]: the first layer as applied to states, a matrix for each candidate.
    per_candidate = (w_state - w_difference)[None] + query[:, :, None] * w_product[None]
    first = 0.5 * jnp.concatenate([per_candidate, per_row[:, None]], axis=1)
    matrix = first.swapaxes(0, 1).reshape(first.shape[1], rows * first.shape[2])
    value = jnp.tanh((states @ matrix).reshape(steps * rows, first.shape[2]))
    for kernel, bias in layers[1:-1]:
        value = jnp.tanh(value @ (0.25 * kernel) + (0.25 * kernel.sum(0) + 0.5 * bias)[None])
    scores = (value * (0.5 * layers[-1].kernel[:, 0])[None]).sum(-1)
    return scores.reshape(steps, rows).T


class SharedInputs(NamedTuple):
    """Operands of the last states of candidates; weights as in :class:`dien_kernels.Weights`."""

    inputs: jax.Array  # [T, G, H], projected, without the bias
    attention: jax.Array  # [N, T]
    length: jax.Array  # scalar
    recurrent: jax.Array
    bias: jax.Array
    recurrent_bias: Any  # zeros where there is none


def xla_last_states(
    operands: SharedInputs, *, paper: bool, scales_inputs: bool, precision: Any
) -> jax.Array:
    """Return the last state ``[N, H]`` of a recurrence under each candidate's attention.

    A step is one matmul for all candidates, and steps past the length are not run.
    ``scales_inputs`` is AIGRU, whose attention multiplies the inputs.
    """
    inputs, attention, length, recurrent, bias, recurrent_bias = operands
    turned = recurrent.transpose(1, 2, 0)  # [G, H, H], rows are the next state's
    by_time = attention.T
    gates = recurrent.shape[1]

    def dot(gate: int, h: jax.Array) -> jax.Array:
        return jnp.dot(turned[gate], h, precision=precision)

    def step(time: Any, h: jax.Array) -> jax.Array:  # h is [H, N]
        a = by_time[time][None]
        now = inputs[time][:, :, None]
        now = (now * a[None] if scales_inputs else now) + bias[:, :, None]
        r = sigmoid(now[0] + dot(0, h))
        if paper:
            c = jnp.tanh(now[-1] + r * (dot(-1, h) + recurrent_bias[:, None]))
        else:
            c = jnp.tanh(now[-1] + dot(-1, r * h))
        if gates == 2:
            return h + a * (c - h)
        u = sigmoid(now[1] + dot(1, h))
        share = 1 if scales_inputs else a if paper else 1 - a
        strength = share * u if paper else 1 - share * u
        return h + strength * (c - h)

    start = jnp.zeros((recurrent.shape[0], attention.shape[0]), jnp.float32)
    return jax.lax.fori_loop(0, length, step, start).T
