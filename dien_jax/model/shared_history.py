"""Attention and interest evolution for many candidates of one history, with any module.

A class that defines the method :data:`WEIGHTS` or :data:`LAST_STATES` does shared work once. The
class itself must define it: a subclass may override ``__call__``. Other modules are called as in
training, with a copy of the history for each candidate, a chunk of candidates at a time.

Dimensions: N candidates, T steps, H state, Q candidate embedding.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels.candidates import in_chunks
from jaxtyping import Array, Float, Int

from dien_jax.errors import UserError, reason
from dien_jax.model.shapes import check_attention, checked_states

WEIGHTS = "weights_for_candidates"
"""Method of an attention: ``(candidates [N, Q], states [T, H], length) -> [N, T]``."""
LAST_STATES = "last_states"
"""Method of an evolution: ``(states [T, H], attention [N, T], length) -> [N, H]``."""


class EncodedHistory(NamedTuple):
    """Encoding of a history, independent of candidates.

    Attention weighs ``states``, those of the last recurrence that does not depend on candidates.
    ``last`` has the final state of each such recurrence, from which a later call continues.
    """

    interests: Float[Array, "B T H"]
    states: Float[Array, "B T H"]
    last: tuple[Float[Array, "B H"], ...]


def attention_weights(
    attention: nn.Module,
    candidates: Float[Array, "N Q"],
    states: Float[Array, "T H"],
    length: Int[Array, ""],
) -> Float[Array, "N T"]:
    """Return the attention weights of all states for each candidate."""
    if WEIGHTS in vars(type(attention)):
        return getattr(attention, WEIGHTS)(candidates, states, length)

    def weights(call: Callable, rows: jax.Array, copies: jax.Array, lengths: jax.Array) -> Any:
        found = call(rows, copies, lengths)
        check_attention(attention, found, copies)
        return found

    return _by_copies(attention, WEIGHTS, weights, candidates, states, length)


def last_states(
    evolution: nn.Module,
    states: Float[Array, "T H"],
    attention: Float[Array, "N T"],
    length: Int[Array, ""],
) -> Float[Array, "N H"]:
    """Return the last state of a recurrence over one history, for each candidate's attention."""
    if LAST_STATES in vars(type(evolution)):
        return getattr(evolution, LAST_STATES)(states, attention, length)

    def last(call: Callable, rows: jax.Array, copies: jax.Array, lengths: jax.Array) -> Any:
        result = call(copies, rows, lengths)
        return checked_states("evolution", evolution, result, copies)[1]

    return _by_copies(evolution, LAST_STATES, last, attention, states, length)


def _by_copies(
    module: nn.Module,
    method: str,
    compute: Callable[..., jax.Array],
    rows: jax.Array,
    states: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """Call the module through ``compute``, with a copy of the history for each row."""
    unbound, variables = module.unbind()
    call = functools.partial(unbound.apply, variables)

    def of_chunk(rows: jax.Array) -> jax.Array:
        copies = jnp.broadcast_to(states, (rows.shape[0], *states.shape))
        lengths = jnp.broadcast_to(length, rows.shape[:1])
        return compute(call, rows, copies, lengths)

    try:
        return in_chunks(of_chunk, rows)
    except Exception as error:  # a module may raise anything
        raise UserError(
            f"{type(module).__name__} (model.{module.name}) cannot score the candidates of one "
            f"history: called with {rows.shape[0]} rows it gave {reason(error)}. Make it accept "
            f"any number of rows, or give the class a method {method}"
        ) from error
