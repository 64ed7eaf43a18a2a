"""What the tests of attention and the auxiliary loss share: operands, gradients and the oracle.

Dimensions: B batch, T steps, N sampled behaviours, D behaviour, H state.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Dense, attention_weights, auxiliary_loss

from support.recurrences import lengths_of

# B, T, N, D, H and widths of the hidden layers near panels of 32 positions, 4 to 16 lanes and tiles
# of 6 and 12 columns; a sum of some hundred positions, and one of none.
NETWORK_SIZES = [
    (1, 1, 1, 1, 1, (1,)),
    (1, 2, 1, 1, 1, (1,)),
    (2, 15, 1, 3, 5, (7,)),
    (31, 16, 2, 15, 11, (13, 6)),
    (33, 4, 1, 17, 13, (12, 16)),
    (3, 100, 1, 36, 36, (80, 40)),
    (40, 9, 3, 5, 20, (17, 33, 15)),
    (130, 21, 1, 8, 8, (24, 12)),
    (5, 6, 2, 130, 70, (140, 2)),
    (9, 9, 1, 4, 6, (5, 3, 4, 2, 6, 3, 7, 2)),
]


def layers_of(rng, inputs, widths):
    sizes = itertools.pairwise((inputs, *widths, 1))
    return tuple(
        Dense(normal(rng, rows, columns) / rows**0.5, normal(rng, columns))
        for rows, columns in sizes
    )


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def attention_operands(batch, steps, hidden, widths, live="mixed", seed=0):
    """Query, states, layers and lengths."""
    rng = np.random.default_rng(seed)
    query, states = normal(rng, batch, hidden), normal(rng, batch, steps, hidden)
    arrays = query, states, layers_of(rng, 4 * hidden, widths), lengths_of(rng, batch, steps, live)
    return jax.tree.map(jnp.asarray, arrays)


def candidate_operands(rows, steps, hidden, widths):
    """Query, states of one history, and layers."""
    rng = np.random.default_rng(0)
    arrays = normal(rng, rows, hidden), normal(rng, steps, hidden)
    return jax.tree.map(jnp.asarray, (*arrays, layers_of(rng, 4 * hidden, widths)))


def auxiliary_operands(batch, steps, count, depth, hidden, widths, live="mixed"):
    """States, history, sampled, shares and layers; some live samples have no share."""
    rng = np.random.default_rng(0)
    states, history = normal(rng, batch, steps, hidden), normal(rng, batch, steps, depth)
    sampled = normal(rng, count, batch, steps - 1, depth)
    lengths = lengths_of(rng, batch, steps, live)
    counted = np.arange(1, steps)[None] < lengths[:, None]
    shares = rng.uniform(0.1, 1, (1 + count, batch, steps - 1)) * counted
    shares[1:] *= rng.uniform(size=shares[1:].shape) < 0.8
    layers = layers_of(rng, hidden + depth, widths)
    arrays = states, history, sampled, shares.astype(np.float32) / max(counted.sum(), 1), layers
    return jax.tree.map(jnp.asarray, arrays)


@functools.cache
def attention_gradients(run):
    """Jitted: attention by ``run``, and gradients of a function of it for all but the lengths.

    That of the last bias is left out: the softmax takes the bias out, and it is rounding.
    """

    def evaluate(query, states, layers, lengths):
        def objective(query, states, layers):
            attention = run(query, states, layers, lengths)
            weights = np.sin(0.7 * np.arange(attention.size)).reshape(attention.shape)
            return (weights.astype(attention.dtype) * attention).sum(), attention

        differentiated = jax.grad(objective, (0, 1, 2), has_aux=True)
        (*gradients, d_layers), attention = differentiated(query, states, layers)
        return attention, *gradients, d_layers[:-1], d_layers[-1].kernel

    return jax.jit(evaluate)


@functools.cache
def auxiliary_gradients(run):
    """Jitted: the loss by ``run``, and gradients of three times it for all but the shares."""
    return jax.jit(jax.value_and_grad(lambda *operands: 3 * run(*operands), (0, 1, 2, 4)))


@functools.cache
def attention_by(implementation):
    return lambda query, states, layers, lengths: attention_weights(
        query, states, layers, lengths=lengths, implementation=implementation
    )


@functools.cache
def auxiliary_by(implementation):
    return functools.partial(auxiliary_loss, implementation=implementation)


def oracle_attention(query, states, layers, lengths):
    """Attention by the equations as they are written, in the precision of its arrays."""
    live = jnp.arange(states.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
    states = jnp.where(live[..., None], states, 0)
    query = jnp.broadcast_to(query[:, None], states.shape)
    inputs = jnp.concatenate([query, states, query - states, query * states], -1)
    powers = jnp.where(live, jnp.exp(scores_of(inputs, layers)), 0)
    return powers / jnp.maximum(powers.sum(1, keepdims=True), 1e-300)


def oracle_loss(states, history, sampled, shares, layers):
    behaviours = jnp.concatenate([history[None, :, 1:], sampled])
    before = jnp.broadcast_to(states[None, :, :-1], (*behaviours.shape[:3], states.shape[-1]))
    signs = jnp.asarray([-1.0] + [1.0] * len(sampled))[:, None, None]
    scores = scores_of(jnp.concatenate([before, behaviours], -1), layers)
    return (shares * jnp.logaddexp(0, signs * scores)).sum()


def scores_of(value, layers):
    for number, (kernel, bias) in enumerate(layers):
        value = jax.nn.sigmoid(value) if number else value
        value = value @ kernel + bias.reshape((1,) * (value.ndim - 1) + (-1,))
    return value[..., 0]


def in_float64(evaluate, operands):
    """Evaluate a function of float32 arrays in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: np.asarray(leaf).astype(np.float64) if leaf.dtype == jnp.float32 else leaf,
            operands,
        )
        return jax.tree.map(np.asarray, evaluate(*wide))
