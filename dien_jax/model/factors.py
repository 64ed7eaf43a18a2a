"""Similarities of a candidate to a history by vectors of :mod:`dien_jax.data.factors`.

Dimensions: B rows, H histories (B, or 1 for all rows), T steps, D components, L levels, K = 4 L.
"""

from typing import Any

import jax
import jax.numpy as jnp
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
    row, vectors = jnp.asarray(factors.row), jnp.asarray(factors.vectors)
    levels = tuple(level for level in LEVELS if level <= vectors.shape[2])
    if fold is None:
        fold = jnp.zeros((1,), jnp.int32)
        ours = vectors[0, row[candidate]]
    else:
        ours = vectors[fold, row[candidate]]
    ours = ours.astype(jnp.float32)  # [B, D]
    theirs = vectors[fold[:, None], row[history]].astype(jnp.float32)  # [H, T, D]
    age, recency = recency_of(lengths, history.shape[1])
    live = age >= 0

    def up_to_levels(blocks: list[jax.Array]) -> jax.Array:
        return jnp.cumsum(jnp.stack(blocks, axis=-1), axis=-1)

    parts = [slice(low, high) for low, high in zip((0, *levels[:-1]), levels, strict=True)]
    our_scale = _inverse_root(up_to_levels([(ours[:, p] ** 2).sum(-1) for p in parts]))
    their_scale = _inverse_root(up_to_levels([(theirs[..., p] ** 2).sum(-1) for p in parts]))
    cosine = up_to_levels([_products(ours[:, p], theirs[..., p]) for p in parts])  # [B, T, L]
    cosine = cosine * our_scale[:, None, :] * their_scale
    weights = jnp.stack([live.astype(jnp.float32), recency], axis=1)  # [H, 2, T]

    def pooled(place: int, level: int) -> Float[Array, "B 2"]:
        scaled = weights * their_scale[:, None, :, place]
        total = jnp.einsum("hwt,htd->hwd", scaled, theirs[..., :level], precision="highest")
        sums = (weights * cosine[:, None, :, place]).sum(2)
        return sums * _inverse_root((total**2).sum(-1))

    columns = []
    for place, level in enumerate(levels):
        of_level = cosine[..., place]
        # The largest of no events is 0.
        most = jnp.where(live, of_level, -1).max(1, initial=-1)
        columns.append(jnp.where(lengths > 0, most, 0))
        columns.append(jnp.where(age == 0, of_level, 0).sum(1))
        columns += list(pooled(place, level).T)
    return jnp.stack(columns, axis=-1)


def recency_of(
    lengths: Int[Array, " B"], steps: Any
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """Return the age of each event, 0 for the last and below 0 for padding, and its recency.

    Recency is 1 for the last event, 1/2 for the one before and so on, and 0 for padding.
    """
    age = lengths[:, None] - 1 - jnp.arange(steps, dtype=lengths.dtype)[None, :]
    return age, jnp.where(age >= 0, 1 / (1 + jnp.maximum(age, 0)).astype(jnp.float32), 0)


def _products(ours: Float[Array, "B D"], theirs: Float[Array, "H T D"]) -> Float[Array, "B T"]:
    if theirs.shape[0] == 1:  # one history for all candidates
        return jnp.matmul(ours, theirs[0].T, precision="highest")
    return jnp.einsum("bd,btd->bt", ours, theirs, precision="highest")


def _inverse_root(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return 1 / sqrt(squares), and 0 for squares that are 0 but for rounding."""
    is_zero = squares < 1e-10
    return jnp.where(is_zero, 0, jax.lax.rsqrt(jnp.where(is_zero, 1, squares)))
