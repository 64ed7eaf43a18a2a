"""Attention, the auxiliary loss and candidates of one history as C++ kernels on the CPU.

The kernels (``native/src``) fill the vector lanes with live positions alone. Attention computes its
layers again on the way back. The auxiliary loss computes its gradients with its value. Those of
candidates that share one history, their attention and last states, run forward only.

Dimensions: as in :mod:`dien_kernels.xla_networks`; N candidates, H hidden, G gates.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels import xla_networks
from dien_kernels.candidates import SharedInputs, xla_last_states
from dien_kernels.launch import mappable, no_gradient
from dien_kernels.native.primitive import primitive
from dien_kernels.reference import Dense, Layers, apply_layer, masked_softmax
from dien_kernels.step import sigmoid

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
    shared, of_states = xla_networks.split_first(query, layers[0])
    arrays = states, query, shared, lengths.astype(jnp.int32)
    return _attention(*arrays, (of_states, *flat(layers[1:])))


def flat(layers: Layers) -> list[jax.Array]:
    """Return kernels and biases as operands."""
    return jax.tree.leaves(tuple(layers))


def pairs(leaves: Any) -> tuple[Dense, ...]:
    """Return the layers of operands."""
    return tuple(Dense(*pair) for pair in zip(leaves[::2], leaves[1::2], strict=True))


def _bind(states: Any, query: Any, shared: Any, lengths: Any, weights: Any) -> jax.Array:
    (attention,) = attention_p.bind(states, query, shared, lengths, *weights)
    return attention


@jax.custom_vjp
def _attention(*arguments: Any) -> jax.Array:
    # Without gradients vmap makes more rows of the mapped axis.
    return mappable(_bind, (0, 0, 0, 0, -1), 0)(*arguments)


def _attention_forward(*arguments: Any) -> tuple[jax.Array, tuple]:
    attention = jax.custom_batching.sequential_vmap(_bind)(*arguments)
    return attention, (arguments, attention)


@jax.custom_batching.sequential_vmap
def _bind_backward(arguments: tuple, attention: Any, d_attention: Any) -> tuple:
    *arrays, weights = arguments
    found = attention_backward_p.bind(*arrays, attention, d_attention, *weights)
    return tuple(found[:3]), tuple(found[3:])


def _attention_backward(saved: tuple, d_attention: jax.Array) -> tuple[Any, ...]:
    d_arrays, d_weights = _bind_backward(*saved, d_attention)
    return (*d_arrays, no_gradient(saved[0][3]), d_weights)


_attention.defvjp(_attention_forward, _attention_backward)


def _attention_by_xla(*operands: Any) -> list[jax.Array]:
    states, query, shared, lengths, of_states, *layers = operands
    arrays = query, states, shared, of_states, pairs(layers), lengths
    return [xla_networks.attention_of_shares(*arrays)]


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


# The sums over positions belong to one call, so under vmap there is one after another.
@jax.custom_batching.sequential_vmap
def _loss_and_gradients(
    states: Any, history: Any, sampled: Any, shares: Any, weights: Any
) -> tuple[jax.Array, tuple]:
    loss, *found = auxiliary_p.bind(states, history, sampled, shares, *weights)
    return loss, (*found[:3], jnp.zeros_like(shares), tuple(found[3:]))


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
        return xla_networks.xla_loss(states, history, sampled, shares, pairs(weights))

    arrays = (states, history, sampled)
    return jax.tree.leaves(jax.value_and_grad(run, (0, 1))(arrays, tuple(weights)))


def _auxiliary_shapes(*operands: Any) -> list[Any]:
    return [operands[0].update(shape=()), *operands[:3], *operands[4:]]


def _forward_only(call: Any) -> Any:
    """Return a call that runs one after another under vmap and refuses derivatives."""
    function = jax.custom_jvp(jax.custom_batching.sequential_vmap(call))

    @function.defjvp
    def refuse(*_: Any) -> Any:
        raise TypeError(
            "implementation='native' has no derivatives for candidates of one history; use "
            "implementation='reference'"
        )

    return function


def candidate_attention(
    query: jax.Array, states: jax.Array, layers: Layers, length: jax.Array
) -> jax.Array:
    """Return weights ``[N, T]`` as :func:`dien_kernels.candidate_attention` does."""
    shared, of_states = xla_networks.split_first(query, layers[0])
    operands = query, shared, states, length.astype(jnp.int32)
    return _candidates(operands, (of_states, *flat(layers[1:])))


@_forward_only
def _candidates(operands: tuple, weights: tuple) -> jax.Array:
    (found,) = candidates_p.bind(*operands, *weights)
    return found


def _candidates_by_xla(*operands: Any) -> list[jax.Array]:
    query, shared, states, length, of_states, *layers = operands
    of_state, of_product = jnp.split(of_states, 2)
    first = (states @ of_state)[None] + (query[:, None] * states[None]) @ of_product
    value = first + shared[:, None]
    for layer in pairs(layers):
        value = apply_layer(sigmoid(value), layer)
    return [masked_softmax(value[..., 0], jnp.broadcast_to(length, query.shape[:1]))]


def _candidates_shapes(*operands: Any) -> list[Any]:
    query, _, states, *_ = operands
    return [query.update(shape=(query.shape[0], states.shape[0]))]


def last_states(operands: SharedInputs, *, paper: bool, scales_inputs: bool) -> jax.Array:
    """Return last states ``[N, H]`` as :func:`dien_kernels.candidates.xla_last_states` does."""

    @_forward_only
    def call(*operands: jax.Array) -> jax.Array:
        (last,) = last_p.bind(*operands, paper=paper, scales_inputs=scales_inputs)
        return last

    return call(*operands._replace(length=operands.length.astype(jnp.int32)))


def _last_states_by_xla(*operands: Any, paper: bool, scales_inputs: bool) -> list[jax.Array]:
    given, highest = SharedInputs(*operands), jax.lax.Precision.HIGHEST
    return [xla_last_states(given, paper=paper, scales_inputs=scales_inputs, precision=highest)]


def _last_states_shapes(*operands: Any, **_: bool) -> list[Any]:
    inputs, attention, *_others = operands
    return [attention.update(shape=(attention.shape[0], inputs.shape[2]))]


attention_p = primitive("dien_kernels_attention", _attention_shapes, _attention_by_xla)
attention_backward_p = primitive(
    "dien_kernels_attention_backward", _attention_backward_shapes, _attention_backward_by_xla
)
auxiliary_p = primitive("dien_kernels_auxiliary", _auxiliary_shapes, _auxiliary_by_xla)
candidates_p = primitive("dien_kernels_candidate_attention", _candidates_shapes, _candidates_by_xla)
last_p = primitive(
    "dien_kernels_last_states", _last_states_shapes, _last_states_by_xla, ["paper", "scales_inputs"]
)
