"""Attention and the auxiliary loss by XLA: the implementation called ``"xla"``.

The first layer is split, so that parts that several steps or behaviours share are computed once.
The auxiliary loss is differentiated block by block.
:mod:`dien_kernels.reference` has the equations.

Dimensions: B batch (rows), T steps, S = T - 1 positions, K behaviours of a position, P = B S, D
behaviour, H state, M first layer.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels.fused import padded
from dien_kernels.reference import (
    Dense,
    Layers,
    apply_layer,
    cross_entropy,
    masked_softmax,
    scores_of,
)
from dien_kernels.step import sigmoid

CPU_BLOCK = 1280
"""Positions per block on a CPU: some hundred kilobytes per layer."""
BLOCK = 65_536
"""Positions per block elsewhere: enough for matmuls, few enough for long histories."""


@jax.custom_vjp
def _sigmoid(value: jax.Array) -> jax.Array:
    """Return the logistic function; keep fusion from repeating it in each consumer."""
    return jax.lax.optimization_barrier(sigmoid(value))


def _sigmoid_forward(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = _sigmoid(value)
    return result, result


def _sigmoid_backward(result: jax.Array, d_result: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.optimization_barrier(d_result * result * (1 - result)),)


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


def xla_attention(
    query: jax.Array, states: jax.Array, layers: Layers, lengths: jax.Array
) -> jax.Array:
    """Return attention weights; compute the query's part of the first layer once per row."""
    shared, weights = split_first(query, layers)
    return attention_of_shares(states, query, shared, lengths, weights)


def split_first(query: jax.Array, layers: Layers) -> tuple[jax.Array, tuple]:
    """Return the query's part of the first layer ``[B, M]``, and the other weights.

    These are the kernel of [h, h o q] and the later layers. The first layer is
    ``q (W_q + W_d) + h (W_h - W_d) + (h o q) W_p``.
    """
    kernel, bias = (part.astype(query.dtype) for part in layers[0])
    of_query, of_state, of_difference, of_product = jnp.split(kernel, 4)
    shared = query @ (of_query + of_difference) + bias[None, :]
    of_states = jnp.concatenate([of_state - of_difference, of_product])
    return shared, (of_states, tuple(layers[1:]))


def attention_of_shares(
    states: jax.Array, query: jax.Array, shared: jax.Array, lengths: jax.Array, weights: tuple
) -> jax.Array:
    """Return attention weights from the results of :func:`split_first`.

    ``states`` may be ``[1, T, H]``, for all rows.
    """
    of_states, layers = weights
    of_state, of_product = jnp.split(of_states, 2)
    per_step = states @ of_state + (states * query[:, None]) @ of_product
    return masked_softmax(scores_of(per_step + shared[:, None], layers, _sigmoid), lengths)


def xla_loss(
    states: jax.Array, history: jax.Array, sampled: jax.Array, shares: jax.Array, layers: Layers
) -> jax.Array:
    """Return the auxiliary loss; compute its gradients block by block.

    A block of positions adds to the loss and to every gradient while its activations are in the
    processor's cache. No activation is kept for the backward pass, which only scales the
    gradients.
    """
    live = (shares != 0).any(0)[..., None]  # fused with the copies: dead positions may have NaN
    behaviours = jnp.where(live, jnp.concatenate([history[None, :, 1:], sampled]), 0)
    flat_states = jnp.where(live, states[:, :-1], 0).reshape(-1, states.shape[-1])
    flat_behaviours = behaviours.reshape(len(behaviours), -1, behaviours.shape[-1])
    return _loss(tuple(layers), flat_states, flat_behaviours, shares.reshape(len(shares), -1))


def _block_loss(layers: Layers, *arrays: jax.Array) -> jax.Array:
    """Return the loss of states ``[P, H]``, behaviours ``[K, P, D]`` and shares ``[K, P]``."""
    states, behaviours, shares = arrays
    kernel, bias = layers[0]
    of_state, of_behaviour = jnp.split(kernel.astype(states.dtype), [states.shape[-1]])
    of_states = apply_layer(states, Dense(of_state, bias))
    first = of_states[None] + behaviours @ of_behaviour
    return cross_entropy(scores_of(first, layers[1:], _sigmoid), shares)


_loss: Any = jax.custom_vjp(_block_loss)


def _with_gradients(
    block: int, layers: Layers, *arrays: jax.Array
) -> tuple[jax.Array, tuple[Any, ...]]:
    differentiated = jax.value_and_grad(_block_loss, argnums=(0, 1, 2))
    states, behaviours, shares = arrays
    positions = len(states)
    count = -(-positions // block)
    if count <= 1:
        return differentiated(layers, *arrays)
    size = -(-positions // count)

    def split(array: jax.Array, axis: int) -> jax.Array:
        whole = padded(array, {axis: count * size})
        shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(whole.reshape(shape), axis, 0)

    def add_block(totals: tuple, parts: tuple) -> tuple[tuple, tuple]:
        loss, (d_layers, d_states, d_behaviours) = differentiated(layers, *parts)
        return jax.tree.map(jnp.add, totals, (loss, d_layers)), (d_states, d_behaviours)

    start = (jnp.zeros((), shares.dtype), jax.tree.map(jnp.zeros_like, layers))
    parts = (split(states, 0), split(behaviours, 1), split(shares, 1))
    (loss, d_layers), (d_states, d_behaviours) = jax.lax.scan(add_block, start, parts)
    d_states = d_states.reshape(-1, states.shape[-1])[:positions]
    joined = jnp.moveaxis(d_behaviours, 0, 1)
    d_behaviours = joined.reshape(len(behaviours), -1, behaviours.shape[-1])[:, :positions]
    return loss, (d_layers, d_states, d_behaviours)


def _loss_forward(*arguments: Any) -> tuple[jax.Array, tuple]:
    cpu, default = (functools.partial(_with_gradients, block) for block in (CPU_BLOCK, BLOCK))
    loss, gradients = jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)
    return loss, (gradients, arguments[-1])


def _loss_backward(saved: tuple, d_loss: jax.Array) -> tuple[Any, ...]:
    gradients, shares = saved
    scaled = jax.tree.map(lambda array: d_loss.astype(array.dtype) * array, gradients)
    return (*scaled, jnp.zeros_like(shares))


_loss.defvjp(_loss_forward, _loss_backward)
