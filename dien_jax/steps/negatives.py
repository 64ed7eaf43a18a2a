"""Auxiliary negatives, sampled on the device by Walker's alias method: two gathers per sample.

A negative that equals its positive is drawn once more; if it then still does, it is masked out.

Dimensions: I items, B examples, T steps, S = T - 1, N negatives per step, each with two draws.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels.checks import refuse
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dien_jax.data import schema
from dien_jax.data.schema import UNKNOWN


class Sampler(NamedTuple):
    """An alias table: column i gives item i with probability ``keep[i]``, else ``alias[i]``.

    Source: Walker, ACM TOMS 1977; construction after Vose, IEEE TSE 1991.
    """

    keep: Float[schema.Array, " I"]
    alias: Int[schema.Array, " I"]


def make_sampler(popularity: schema.Array) -> Sampler:
    """Return an alias table on the host that draws known items in proportion to their counts.

    >>> import numpy as np
    >>> from dien_jax.steps import make_sampler
    >>> make_sampler(np.array([0, 3, 1])).keep.shape
    (3,)

    Args:
      popularity: ``[I]``, training events of each item, whole numbers; ones draw uniformly. Without
        any event, all items are drawn alike, the unknown one too; otherwise that is never drawn.

    Raises:
      ValueError: a number is below 0 or not whole, such as a share or a power of a count.
    """
    mass = np.array(popularity, np.int64)
    if mass.min() < 0 or not np.array_equal(mass, popularity):
        refuse("popularity", "whole numbers of at least 0", f"{np.asarray(popularity)[:4]}...")
    mass[UNKNOWN] = 0
    if not mass.any():
        mass[UNKNOWN:] = 1
    return Sampler(*_alias_table(mass))


def _alias_table(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``keep``, float32 ``[I]``, and ``alias``, int32 ``[I]``, for counts, int64 ``[I]``.

    Vose's loop fills the columns of light items in turn from a heavy item. When this has too little
    left for its own column, it becomes light and is filled from the next heavy one. Here light and
    heavy items are in the loop's order, and cumulative sums of deficits and excesses give the same
    pairs. The sums are exact in units of 1 / (I * total), if these fit an int64.

    Source: the sums as in Hübschle-Schneider and Sanders, Parallel Weighted Random Sampling, ACM
    TOMS 48(3), 2022.
    """
    size, total = mass.size, int(mass.sum())
    is_exact = size * total < 2**63
    share = mass * size if is_exact else mass * (size / total)
    unit = total if is_exact else 1.0  # mass of a column
    light, heavy = (np.flatnonzero(side)[::-1] for side in (share < unit, share >= unit))
    lack = np.cumsum(unit - share[light])  # of this and all earlier light items
    excess = np.cumsum(share[heavy] - unit)
    keep, alias = np.ones(size, np.float32), np.arange(size, dtype=np.int32)
    giver = np.searchsorted(excess, lack - (unit - share[light]))
    keep[light] = share[light] / unit
    alias[light] = heavy[np.minimum(giver, heavy.size - 1)]
    # The last heavy item keeps its column, and so does any whose excess is never used up.
    taker = np.searchsorted(lack, excess[:-1], side="right")
    used_up = np.flatnonzero(taker < lack.size)
    keep[heavy[used_up]] = (unit + excess[used_up] - lack[taker[used_up]]) / unit
    alias[heavy[used_up]] = heavy[used_up + 1]
    return keep, alias


class RandomColumns(NamedTuple):
    """Random numbers of each draw: a column of the alias table, and a number in [0, 1)."""

    column: Int[Array, "2 B S N"]
    uniform: Float[Array, "2 B S N"]


def random_columns(
    key: PRNGKeyArray, items: int, history: Int[Array, "B T"], count: int
) -> RandomColumns:
    """Return the random numbers of two draws for each negative, from I items."""
    shape = (2, history.shape[0], history.shape[1] - 1, count)
    column_key, keep_key = jax.random.split(key)
    column = jax.random.randint(column_key, shape, 0, items, jnp.int32)
    return RandomColumns(column, jax.random.uniform(keep_key, shape, jnp.float32))


def drawn(sampler: Sampler, random: RandomColumns) -> Int[Array, "..."]:
    """Return the items of draws from an alias table."""
    keep, alias = map(jnp.asarray, sampler)
    return jnp.where(random.uniform < keep[random.column], random.column, alias[random.column])


def auxiliary_negatives(
    sampler: Sampler, key: PRNGKeyArray, history: Int[Array, "B T"], count: int
) -> Int[Array, "B S N"]:
    """Sample ``count`` items for each behaviour from the second on; redraw those equal to it.

    Items that are still equal are kept, and the loss masks them out.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.steps import auxiliary_negatives, make_sampler
    >>> sampler, history = make_sampler(jnp.array([0, 3, 1])), jnp.array([[1, 2, 1]])
    >>> auxiliary_negatives(sampler, jax.random.key(0), history, 4).shape
    (1, 2, 4)
    """
    random = random_columns(key, sampler.keep.shape[0], history, count)
    return unequal(drawn(sampler, random), history[:, 1:, None])


def unequal(draws: Int[Array, "2 B S N"], following: Int[Array, "B S 1"]) -> Int[Array, "B S N"]:
    """Return the first draw of each negative or, if it equals its positive, the second."""
    first, second = draws
    return jnp.where(first == following, second, first)
