"""Similarities of a candidate to a history by vectors of :mod:`dien_jax.data.factors`.

Dimensions: B rows, H histories (B, or 1 for all rows), T steps, D components, L levels, K = 4 L.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dien_jax.data.factors import LEVELS, factor_features, factor_levels
from dien_jax.data.schema import Schema, ValueFactors

OF_LEVEL = ("most", "last", "mean", "recent")
"""Inputs of each level of each feature with factors; see :func:`similarities`."""
NAME = "similarity"


def factor_names(schema: Schema) -> tuple[str, ...]:
    """Return the names of the inputs, such as ``item similarity_16_most``.

    >>> from dien_jax import open_dataset
    >>> from dien_jax.model import factor_names
    >>> schema = open_dataset("data").schema
    >>> schema.num_items, factor_names(schema)[:2]
    (12, ())
    """
    return tuple(
        f"{feature.name} {NAME}_{level}_{name}"
        for feature in factor_features(schema)
        for level in factor_levels(feature.size or 0)
        for name in OF_LEVEL
    )


def similarities(
    factors: ValueFactors,
    candidate: Int[Array, " B"],
    history: Int[Array, "H T"],
    lengths: Int[Array, " H"],
    fold: Int[Array, " B"] | None = None,
) -> Float[Array, "B K"]:
    """Return the inputs ``OF_LEVEL`` of one feature for each level, the smallest first.

    A level has the first 16, 32, 64 or 128 components, as many as there are. With the unit vectors
    c of the candidate and h of the events, the inputs are the largest c.h, that of the last event,
    and the cosine of c with the sum of h, plain and by recency (1 for the last event, 1/2 for the
    one before and so on). A value without a vector has similarity 0 to all.

    ``fold`` is the table that each row reads, of those in ``factors``; the first by default.
    """
    row, vectors, scale = map(jnp.asarray, factors)
    components, levels = vectors.shape[2], scale.shape[2]
    ours_at: Any = (0 if fold is None else fold, row[candidate])
    theirs_at: Any = (0 if fold is None else fold[:, None], row[history])
    ours, theirs = (vectors[at].astype(jnp.float32) for at in (ours_at, theirs_at))
    their_scale = scale[theirs_at]  # [H, T, L]
    is_used = np.arange(components)[None, :] < np.array(LEVELS[:levels])[:, None]
    is_used = is_used.astype(np.float32)  # [L, D]
    units = ours[:, None, :] * is_used[None] * scale[ours_at][:, :, None]  # [B, L, D]
    age, recency = recency_of(lengths, history.shape[1])
    live = age >= 0

    cosine = _products(theirs, units) * their_scale  # [B, T, L]
    weights = jnp.stack([live.astype(jnp.float32), recency], axis=-1)  # [H, T, 2]
    scaled = their_scale[..., None] * weights[:, :, None, :]  # [H, T, L, 2]
    sums = jnp.einsum("htlw,htd->hlwd", scaled, theirs, precision="highest")
    sums = sums * is_used[None, :, None, :]
    sums = sums * _inverse_root((sums**2).sum(-1))[..., None]
    pooled = (sums * units[:, :, None, :]).sum(-1)  # [B, L, 2]

    most = jnp.where(live[..., None], cosine, -1.0).max(1, initial=-1.0)
    most = jnp.where(lengths[:, None] > 0, most, 0.0)  # of no events
    last = jnp.where((age == 0)[..., None], cosine, 0.0).sum(1)
    columns = jnp.stack([most, last, pooled[..., 0], pooled[..., 1]], axis=-1)
    return columns.reshape(candidate.shape[0], levels * len(OF_LEVEL))


def recency_of(
    lengths: Int[Array, " B"], steps: Any
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """Return the age of each event, 0 for the last and below 0 for padding, and its recency.

    Recency is 1 for the last event, 1/2 for the one before and so on, and 0 for padding.
    """
    age = lengths[:, None] - 1 - jnp.arange(steps, dtype=lengths.dtype)[None, :]
    return age, jnp.where(age >= 0, 1 / (1 + jnp.maximum(age, 0)).astype(jnp.float32), 0.0)


def _products(theirs: Float[Array, "H T D"], units: Float[Array, "B L D"]) -> jax.Array:
    """Return the products of events and units, ``[B, T, L]``."""
    if theirs.shape[0] == 1:  # one history for all candidates
        return jnp.einsum("td,bld->btl", theirs[0], units, precision="highest")
    return jnp.einsum("btd,bld->btl", theirs, units, precision="highest")


def _inverse_root(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return 1 / sqrt(squares), and 0 for squares that are 0 but for rounding."""
    is_zero = squares < 1e-10
    return jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, squares)))
