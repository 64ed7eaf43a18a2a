"""Attention and interest evolution for many candidates of one history, with any module.

A class that defines a method of :data:`METHODS` does shared work once. The class itself must define
it: a subclass may override ``__call__``. Other modules are called as in training, with a copy of
the history for each candidate, a chunk of candidates at a time.

Dimensions: N candidates, T steps, H state, Q candidate embedding; R is Q or T, and S is T or H.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels.candidates import in_chunks
from jaxtyping import Array, Float, Int

from dien_jax.errors import UserError, reason
from dien_jax.model.shapes import checked_attention, checked_states

METHODS = {"attention": "weights_for_candidates", "evolution": "last_states"}
"""Methods ``weights_for_candidates(candidates [N, Q], states [T, H], length) -> [N, T]`` of an
attention and ``last_states(states [T, H], attention [N, T], length) -> [N, H]`` of an evolution."""


class EncodedHistory(NamedTuple):
    """Encoding of a history, independent of candidates.

    Attention weighs ``states``, those of the last recurrence that does not depend on candidates.
    ``last`` has the final state of each such recurrence, from which a later call continues. Each
    recurrence has states of its own width.
    """

    interests: Float[Array, "B T _"]
    states: Float[Array, "B T H"]
    last: tuple[Float[Array, "B _"], ...]


def for_candidates(
    module: nn.Module,
    part: Literal["attention", "evolution"],
    rows: Float[Array, "N R"],
    states: Float[Array, "T H"],
    length: Int[Array, ""],
) -> Float[Array, "N S"]:
    """Return what a part of the network gives for each candidate of one history.

    An attention gives the weights of states, ``[N, T]``, for the embedded candidates ``rows``; an
    evolution its last states, ``[N, H]``, for the attention weights ``rows``.
    """
    method, rows_first = METHODS[part], part == "attention"
    if method in vars(type(module)):
        return getattr(module, method)(*((rows, states) if rows_first else (states, rows)), length)
    unbound, variables = module.unbind()

    def of_chunk(rows: jax.Array) -> jax.Array:
        copies = jnp.broadcast_to(states, (rows.shape[0], *states.shape))
        lengths = jnp.broadcast_to(length, rows.shape[:1])
        arguments = (rows, copies) if rows_first else (copies, rows)
        result = unbound.apply(variables, *arguments, lengths)
        if part == "attention":
            return checked_attention(module, result, copies)
        return checked_states(part, module, result, copies)[1]

    try:
        return in_chunks(of_chunk, rows)
    except Exception as error:  # a module may raise anything
        raise UserError(
            f"{type(module).__name__} (model.{module.name}) cannot score the candidates of one "
            f"history: called with {rows.shape[0]} rows it gave {reason(error)}. Make it accept "
            f"any number of rows, or give the class a method {method}"
        ) from error
