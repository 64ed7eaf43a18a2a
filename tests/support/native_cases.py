"""Results of all kernels of C++, of a few sizes each, by any implementation."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from dien_kernels import adam_update, candidate_attention, last_states

from support import networks
from support.recurrences import CASES, evaluate, operands

SIZES = [(1, 1, 1, 1), (37, 18, 7, 13), (70, 5, 17, 20)]
"""B, T, D and H of recurrences, in turn."""


def results(implementation: str) -> Iterator[tuple[Any, float]]:
    """Yield arrays, and how far those of two implementations may be apart.

    Where the oracle has none, they are XLA's.
    """
    for (cell, form, biased), (batch, steps, depth, hidden) in zip(CASES, itertools.cycle(SIZES)):
        arrays = operands(
            cell, batch=batch, steps=steps, depth=depth, hidden=hidden, biased=biased, scale=0.4
        )
        yield evaluate(cell, form, implementation)(*arrays), 3e-5
    shared = "xla" if implementation == "reference" else implementation
    candidates = jax.jit(functools.partial(candidate_attention, implementation=shared))
    attention = networks.attention_gradients(networks.attention_by(implementation))
    auxiliary = networks.auxiliary_gradients(networks.auxiliary_by(implementation))
    for batch, steps, count, depth, hidden, widths in networks.NETWORK_SIZES:
        yield attention(*networks.attention_operands(batch, steps, hidden, widths)), 1e-4
        few = networks.auxiliary_operands(batch, steps, count, depth, hidden, widths)
        yield auxiliary(*few), 1e-4
        of_candidates = networks.candidate_operands(batch, steps, hidden, widths)
        yield candidates(*of_candidates, length=jnp.int32(max(steps - 1, 1))), 1e-4
    last = jax.jit(last_states, static_argnums=(0, 1, 6, 7))
    for cell, form in itertools.product(("aigru", "agru", "augru"), ("paper", "authors")):
        x, weighted, weights, *_ = operands("agru" if cell == "agru" else "augru", batch=70)
        yield last(cell, form, x[0], weighted, weights, jnp.int32(5), "highest", shared), 1e-5
    update = functools.partial(adam_update, rate=0.1, count=3, implementation=implementation)
    arrays = [jnp.sin(jnp.arange(20_003.0)), jnp.ones(7)]
    squares = jax.tree.map(jnp.square, arrays)
    yield jax.jit(update)(arrays, arrays, squares, arrays[:1] + squares[1:]), 1e-5
