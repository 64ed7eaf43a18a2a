"""Attention and the auxiliary loss as C++ kernels on the CPU.

The kernels (``native/src``) fill the vector lanes with live positions alone. Attention computes its
layers again on the way back. The auxiliary loss computes its gradients with its value.

Dimensions: as in :mod:`dien_kernels.network_equations`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels import network_equations as equations
from dien_kernels.launch import mappable, no_gradient
from dien_kernels.native.primitive import primitive
from dien_kernels.network_equations import Dense, Layers

MOST_LAYERS = 8
"""Layers after the first one, see native/src/arguments.h."""


def check_layers(hidden: int) -> None:
    """Raise ``NotImplementedError`` for more hidden layers than the kernels have room for."""
    if hidden > MOST_LAYERS:
        raise NotImplementedError(
            f"its kernels are for networks of 1 to {MOST_LAYERS} hidden layers, this one has "
            f"{hidden}"
        )


def attention(query: jax.Array, states: jax.Array, layers: Layers, lengths: jax.Array) -> jax.Array:
    """Return attention weights ``[B, T]`` as :func:`dien_kernels.attention_weights` does."""
    shared, of_states = equations.split_first(query, layers[0])
    arrays = states, query, shared, lengths.astype(jnp.int32)
    return _attention(*arrays, (of_states, *flat(layers[1:])))


def flat(layers: Layers) -> list[jax.Array]:
    """Return kernels and biases as operands."""
    return jax.tree.leaves(tuple(layers))


def pairs(leaves: Any) -> tuple[Dense, ...]:
    """Return the layers of operands."""
    return tuple(Dense(*pair) for pair in zip(leaves[::2], leaves[1::2], strict=True))


@jax.custom_vjp
def _attention(*arguments: Any) -> jax.Array:
    # Without gradients vmap makes more rows of the mapped axis.
    def call(states: Any, query: Any, shared: Any, lengths: Any, weights: Any) -> jax.Array:
        (attention,) = attention_p.bind(states, query, shared, lengths, *weights)
        return attention

    return mappable(call, (0, 0, 0, 0, -1), 0)(*arguments)


def _attention_forward(*arguments: Any) -> tuple[jax.Array, tuple]:
    @jax.custom_batching.sequential_vmap
    def call(states: Any, query: Any, shared: Any, lengths: Any, weights: Any) -> jax.Array:
        (attention,) = attention_p.bind(states, query, shared, lengths, *weights)
        return attention

    attention = call(*arguments)
    return attention, (arguments, attention)


def _attention_backward(saved: tuple, d_attention: jax.Array) -> tuple[Any, ...]:
    @jax.custom_batching.sequential_vmap
    def call(arguments: tuple, attention: Any, d_attention: Any) -> tuple:
        *arrays, weights = arguments
        found = attention_backward_p.bind(*arrays, attention, d_attention, *weights)
        return tuple(found[:3]), tuple(found[3:])

    d_arrays, d_weights = call(*saved, d_attention)
    return (*d_arrays, no_gradient(saved[0][3]), d_weights)


_attention.defvjp(_attention_forward, _attention_backward)


def _attention_by_xla(*operands: Any) -> list[jax.Array]:
    states, query, shared, lengths, of_states, *layers = operands
    arrays = query, states, shared, of_states, pairs(layers), lengths
    return [equations.attention_of_shares(*arrays)]


def _attention_backward_by_xla(*operands: Any) -> list[jax.Array]:
    states, query, shared, lengths, _, d_attention, *weights = operands

    def run(arrays: tuple, weights: tuple) -> jax.Array:
        return _attention_by_xla(*arrays, lengths, *weights)[0]

    _, pull = jax.vjp(run, (states, query, shared), tuple(weights))
    return jax.tree.leaves(pull(d_attention))


def _attention_shapes(*operands: Any) -> list[Any]:
    return [operands[0].update(shape=operands[0].shape[:2])]


def _attention_backward_shapes(*operands: Any) -> list[Any]:
    return [*operands[:3], *operands[6:]]


def auxiliary_loss(
    states: jax.Array, history: jax.Array, sampled: jax.Array, shares: jax.Array, layers: Layers
) -> jax.Array:
    """Return the auxiliary loss as :func:`dien_kernels.auxiliary_loss` does."""
    return _loss(states, history, sampled, shares, tuple(flat(layers)))


def _loss_and_gradients(*arguments: Any) -> tuple[jax.Array, tuple]:
    # The sums over positions belong to one call, so under vmap there is one after another.
    @jax.custom_batching.sequential_vmap
    def call(
        states: Any, history: Any, sampled: Any, shares: Any, weights: Any
    ) -> tuple[jax.Array, tuple]:
        loss, *found = auxiliary_p.bind(states, history, sampled, shares, *weights)
        return loss, (*found[:3], jnp.zeros_like(shares), tuple(found[3:]))

    return call(*arguments)


@jax.custom_vjp
def _loss(*arguments: Any) -> jax.Array:
    return _loss_and_gradients(*arguments)[0]


def _loss_backward(gradients: tuple, d_loss: jax.Array) -> tuple[Any, ...]:
    return jax.tree.map(lambda gradient: d_loss * gradient, gradients)


_loss.defvjp(_loss_and_gradients, _loss_backward)


def _auxiliary_by_xla(*operands: Any) -> list[jax.Array]:
    states, history, sampled, shares, *weights = operands

    def run(arrays: tuple, weights: tuple) -> jax.Array:
        states, history, sampled = arrays
        return equations.xla_loss(states, history, sampled, shares, pairs(weights))

    arrays = (states, history, sampled)
    return jax.tree.leaves(jax.value_and_grad(run, (0, 1))(arrays, tuple(weights)))


def _auxiliary_shapes(*operands: Any) -> list[Any]:
    return [operands[0].update(shape=()), *operands[:3], *operands[4:]]


attention_p = primitive("dien_kernels_attention", _attention_shapes, _attention_by_xla)
attention_backward_p = primitive(
    "dien_kernels_attention_backward", _attention_backward_shapes, _attention_backward_by_xla
)
auxiliary_p = primitive("dien_kernels_auxiliary", _auxiliary_shapes, _auxiliary_by_xla)
