"""Attention and last states of candidates that share one history, as C++ kernels on the CPU.

Forward only. Dimensions: N candidates, T steps, H hidden, G gates.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels import network_equations as equations
from dien_kernels.candidates import SharedInputs, xla_last_states
from dien_kernels.native.networks import flat, pairs
from dien_kernels.native.primitive import primitive
from dien_kernels.network_equations import Layers, masked_softmax
from dien_kernels.step import sigmoid


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


def attention(query: jax.Array, states: jax.Array, layers: Layers, length: jax.Array) -> jax.Array:
    """Return weights ``[N, T]`` as :func:`dien_kernels.candidate_attention` does."""
    shared, of_states = equations.split_first(query, layers[0])
    operands = query, shared, states, length.astype(jnp.int32)
    return _attention(operands, (of_states, *flat(layers[1:])))


@_forward_only
def _attention(operands: tuple, weights: tuple) -> jax.Array:
    (found,) = attention_p.bind(*operands, *weights)
    return found


def _attention_by_xla(*operands: Any) -> list[jax.Array]:
    query, shared, states, length, of_states, *layers = operands
    of_state, of_product = jnp.split(of_states, 2)
    first = (states @ of_state)[None] + (query[:, None] * states[None]) @ of_product
    value = first + shared[:, None]
    for layer in pairs(layers):
        value = equations.apply_layer(sigmoid(value), layer)
    return [masked_softmax(value[..., 0], jnp.broadcast_to(length, query.shape[:1]))]


def _attention_shapes(*operands: Any) -> list[Any]:
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


attention_p = primitive("dien_kernels_candidate_attention", _attention_shapes, _attention_by_xla)
last_p = primitive(
    "dien_kernels_last_states",
    _last_states_shapes,
    _last_states_by_xla,
    ["paper", "scales_inputs"],
)
