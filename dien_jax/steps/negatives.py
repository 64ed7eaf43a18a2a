"""Auxiliary negatives, drawn on the device by Walker's alias method: two gathers a draw.

Dimensions: I items, B examples, T steps, S = T - 1, N negatives a step.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dien_jax.data import schema
from dien_jax.data.schema import UNKNOWN

REDRAWS = 1
"""Times that a negative equal to its positive is redrawn; after that it is masked out."""


class Sampler(NamedTuple):
    """An alias table: column i gives item i with probability ``keep[i]``, else ``alias[i]``.

    Source: Walker, ACM TOMS 1977; construction after Vose, IEEE TSE 1991.
    """

    keep: Float[Array, " I"]
    alias: Int[Array, " I"]


def make_sampler(
    popularity: schema.Array, distribution: Literal["popularity", "uniform", "shown"]
) -> Sampler:
    """Return an alias table that draws known items by their count, or uniformly.

    >>> import numpy as np
    >>> from dien_jax.steps import make_sampler
    >>> make_sampler(np.array([0, 3, 1]), "popularity").keep.shape
    (3,)

    Args:
      popularity: ``[I]``, events of each item in training. The unknown item is drawn only
        where no other item exists.
      distribution: ``"shown"`` is ``"popularity"``, for behaviours where nothing was shown.
    """
    mass = np.asarray(popularity, np.float64).copy()
    if distribution == "uniform":
        mass[:] = 1
    mass[UNKNOWN] = 0
    if mass.sum() == 0:
        mass[UNKNOWN:] = 1
    size = mass.size
    scaled = mass * (size / mass.sum())
    keep, alias = np.ones(size), np.arange(size)
    small = list(np.flatnonzero(scaled < 1))
    large = list(np.flatnonzero(scaled >= 1))
    while small and large:
        low, high = small.pop(), large[-1]
        keep[low], alias[low] = scaled[low], high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    for leftover in small:  # left by rounding: their mass is 1, or 0 if never drawn
        if mass[leftover] == 0:
            keep[leftover], alias[leftover] = 0, int(mass.argmax())
    return Sampler(jnp.asarray(keep, jnp.float32), jnp.asarray(alias, jnp.int32))


def draw(sampler: Sampler, key: PRNGKeyArray, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Return independent item ids of the sampler's distribution."""
    column_key, keep_key = jax.random.split(key)
    column = jax.random.randint(column_key, shape, 0, sampler.keep.shape[0], jnp.int32)
    kept = jax.random.uniform(keep_key, shape, jnp.float32) < sampler.keep[column]
    return jnp.where(kept, column, sampler.alias[column])


def auxiliary_negatives(
    sampler: Sampler, key: PRNGKeyArray, history: Int[Array, "B T"], count: int
) -> Int[Array, "B S N"]:
    """Draw ``count`` items for each behaviour from the second on, unequal to it where possible.

    A draw that equals it after ``REDRAWS`` more stays, for the loss to mask out.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.steps import auxiliary_negatives, make_sampler
    >>> sampler, history = make_sampler(jnp.array([0, 3, 1]), "uniform"), jnp.array([[1, 2, 1]])
    >>> auxiliary_negatives(sampler, jax.random.key(0), history, 4).shape
    (1, 2, 4)
    """
    following = history[:, 1:, None]
    draws = draw(sampler, key, (REDRAWS + 1, *following.shape[:2], count))
    chosen = draws[-1]
    for earlier in draws[-2::-1]:
        chosen = jnp.where(earlier == following, chosen, earlier)
    return chosen
