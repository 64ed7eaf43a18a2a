"""Attention and interest evolution for many candidates of one history, whatever the module.

A module is called with a history in each row. To rank, one history is shared by N candidates:

- A class that defines :data:`WEIGHTS` (attention) or :data:`LAST_STATES` (evolution) itself is
  asked by that method, which can compute once what the candidates share.
- Any other module is called as in training, with a copy of the history for each candidate,
  ``CHUNK`` candidates at a time, so that memory stays bounded.

An inherited method does not count: a subclass that overrides ``__call__`` computes something else.

Dimensions: N candidates, T steps, H state, Q candidate embedding.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dien_jax.errors import UserError

CHUNK = 32
"""Candidates that are computed together: more would leave the processor's cache."""

WEIGHTS = "weights_for_candidates"
"""Method of an attention: ``(candidates [N, Q], states [T, H], length) -> [N, T]``."""
LAST_STATES = "last_states"
"""Method of an evolution: ``(states [T, H], attention [N, T], length) -> [N, H]``."""


def attention_weights(
    attention: nn.Module,
    candidates: Float[Array, "N Q"],
    states: Float[Array, "T H"],
    length: Int[Array, ""],
) -> Float[Array, "N T"]:
    """Return the attention weights of all states for each candidate.

    Raises:
      UserError: where the module cannot be called for many candidates.
    """
    if WEIGHTS in vars(type(attention)):
        return getattr(attention, WEIGHTS)(candidates, states, length)

    def call(apply: Callable, copies: jax.Array, lengths: jax.Array, rows: jax.Array) -> jax.Array:
        return _shaped(apply(rows, copies, lengths), (rows.shape[0], states.shape[0]))

    return _by_copies(attention, WEIGHTS, call, states, length, candidates)


def last_states(
    evolution: nn.Module,
    states: Float[Array, "T H"],
    attention: Float[Array, "N T"],
    length: Int[Array, ""],
) -> Float[Array, "N H"]:
    """Return the last state of a recurrence over the states, under each attention.

    Raises:
      UserError: where the module cannot be called for many candidates.
    """
    if LAST_STATES in vars(type(evolution)):
        return getattr(evolution, LAST_STATES)(states, attention, length)

    def call(apply: Callable, copies: jax.Array, lengths: jax.Array, rows: jax.Array) -> jax.Array:
        _, last = apply(copies, rows, lengths)
        return _shaped(last, (rows.shape[0], *last.shape[1:2]))

    return _by_copies(evolution, LAST_STATES, call, states, length, attention)


def in_chunks(function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
    """Return ``function(rows)``, row by row alike, computed for ``CHUNK`` rows at a time.

    A number of rows that is not known while tracing must be a multiple of ``CHUNK``, or none above.
    """
    count = rows.shape[0]
    if count <= CHUNK:
        return function(rows)
    if filler := -count % CHUNK:
        rows = jnp.pad(rows, [(0, filler)] + [(0, 0)] * (rows.ndim - 1))
    result = jax.lax.map(function, rows.reshape(-1, CHUNK, *rows.shape[1:]))
    return result.reshape(rows.shape[0], *result.shape[2:])[:count]


def _by_copies(
    module: nn.Module,
    method: str,
    call: Callable[[Callable, jax.Array, jax.Array, jax.Array], jax.Array],
    states: jax.Array,
    length: jax.Array,
    rows: jax.Array,
) -> jax.Array:
    unbound, variables = module.unbind()

    def of_chunk(rows: jax.Array) -> jax.Array:
        def apply(*arguments: Any) -> Any:
            return unbound.apply(variables, *arguments)

        count = rows.shape[0]
        copies = jnp.broadcast_to(states, (count, *states.shape))
        return call(apply, copies, jnp.broadcast_to(length, (count,)), rows)

    try:
        return in_chunks(of_chunk, rows)
    except UserError:
        raise
    except Exception as error:  # whatever the module raises
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{type(module).__name__} (model.{module.name}) cannot score the candidates of one "
            f"history: called with {rows.shape[0]} rows it raised {reason}. Make it accept any "
            f"number of rows, or give the class a method {method}"
        ) from error


def _shaped(result: Any, shape: tuple) -> jax.Array:
    if result.shape != shape:
        raise ValueError(f"expected a result of shape {shape}, got {result.shape}")
    return result
