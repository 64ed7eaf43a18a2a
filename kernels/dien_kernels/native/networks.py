"""Attention, the auxiliary loss and candidates of one history as C++ kernels on the CPU.

The kernels (``native/src``) fill the vector lanes with live positions only. The backward pass of
attention recomputes its layers. The auxiliary loss computes its gradients with its value. The
kernels for candidates of one history, attention and last states, are forward only.

Dimensions: as in :mod:`dien_kernels.xla_networks`; N candidates, H hidden, G gates.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels import xla_networks
from dien_kernels.candidates import SharedInputs, xla_last_states
from dien_kernels.fused import mappable, no_gradient
from dien_kernels.native.library import primitive
from dien_kernels.reference import Layers

MOST_LAYERS = 8
"""Layers after the first one, see native/src/arguments.h."""


def attention(query: jax.Array, states: jax.Array, layers: Layers, lengths: jax.Array) -> jax.Array:
    """Return attention weights ``[B, T]`` as :func:`dien_kernels.attention_weights` does."""
    shared, weights = xla_networks.split_first(query, layers)
    return _attention(states, query, shared, lengths.astype(jnp.int32), weights)


@jax.custom_vjp
def _attention(*arguments: Any) -> jax.Array:
    # Without gradients, vmap turns the mapped axis into rows.
    return mappable(_attention_kernel, (0, 0, 0, 0, -1), 0)(*arguments)


def _attention_forward(*arguments: Any) -> tuple[jax.Array, tuple]:
    attention = jax.custom_batching.sequential_vmap(_attention_kernel)(*arguments)
    return attention, (arguments, attention)


def _attention_backward(saved: tuple, d_attention: jax.Array) -> tuple[Any, ...]:
    (*arrays, weights), attention = saved
    backward = jax.custom_batching.sequential_vmap(_attention_backward_kernel)
    *d_arrays, d_weights = backward(*arrays, attention, d_attention, weights)
    return (*d_arrays, no_gradient(arrays[3]), d_weights)


_attention.defvjp(_attention_forward, _attention_backward)


def _attention_backward_by_xla(
    states: Any, query: Any, shared: Any, lengths: Any, _: Any, d_attention: Any, weights: Any
) -> tuple[Any, ...]:
    def run(states: Any, query: Any, shared: Any, weights: Any) -> jax.Array:
        return xla_networks.attention_of_shares(states, query, shared, lengths, weights)

    return jax.vjp(run, states, query, shared, weights)[1](d_attention)


# Sums over positions belong to one call, so vmap makes one call after another.
@jax.custom_batching.sequential_vmap
def _loss_and_gradients(*operands: Any) -> tuple[jax.Array, tuple]:
    loss, (*found, d_layers) = _auxiliary_kernel(*operands)
    return loss, (*found, jnp.zeros_like(operands[3]), d_layers)


@jax.custom_vjp
def auxiliary_loss(*arguments: Any) -> jax.Array:
    """Return the auxiliary loss as :func:`dien_kernels.auxiliary_loss` does."""
    return _loss_and_gradients(*arguments)[0]


def _loss_backward(gradients: tuple, d_loss: jax.Array) -> tuple[Any, ...]:
    return jax.tree.map(lambda gradient: d_loss * gradient, gradients)


auxiliary_loss.defvjp(_loss_and_gradients, _loss_backward)


def candidate_attention(
    query: jax.Array, states: jax.Array, layers: Layers, length: jax.Array
) -> jax.Array:
    """Return weights ``[N, T]`` as :func:`dien_kernels.candidate_attention` does."""
    shared, weights = xla_networks.split_first(query, layers)
    run = jax.custom_batching.sequential_vmap(_candidates_kernel)
    return run(query, shared, states, length.astype(jnp.int32), weights)


def _candidates_by_xla(query: Any, shared: Any, states: Any, length: Any, weights: Any) -> Any:
    lengths = jnp.broadcast_to(length, query.shape[:1])
    return xla_networks.attention_of_shares(states[None], query, shared, lengths, weights)


def last_states(operands: SharedInputs, *, paper: bool, scales_inputs: bool) -> jax.Array:
    """Return last states ``[N, H]`` as :func:`dien_kernels.candidates.xla_last_states` does."""
    call = functools.partial(_last_states_kernel, paper=paper, scales_inputs=scales_inputs)
    return jax.custom_batching.sequential_vmap(call)(operands)


_attention_kernel = primitive(
    "dien_kernels_attention",
    lambda states, *_: states.update(shape=states.shape[:2]),
    xla_networks.attention_of_shares,
)
_attention_backward_kernel = primitive(
    "dien_kernels_attention_backward",
    lambda *operands: (*operands[:3], operands[6]),
    _attention_backward_by_xla,
)
_auxiliary_kernel = primitive(
    "dien_kernels_auxiliary",
    lambda *operands: (operands[0].update(shape=()), (*operands[:3], operands[4])),
    jax.value_and_grad(xla_networks.xla_loss, (0, 1, 2, 4)),
)
_candidates_kernel = primitive(
    "dien_kernels_candidate_attention",
    lambda query, _, states, *__: query.update(shape=(query.shape[0], states.shape[0])),
    _candidates_by_xla,
)
_last_states_kernel = primitive(
    "dien_kernels_last_states",
    lambda given, **_: given.attention.update(
        shape=(given.attention.shape[0], given.inputs.shape[2])
    ),
    functools.partial(xla_last_states, precision=jax.lax.Precision.HIGHEST),
    ["paper", "scales_inputs"],
)
