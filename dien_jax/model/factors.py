"""Similarities of a candidate to a history, from vectors of :mod:`dien_jax.statistics.factors`.

Dimensions: B rows, H histories (B, or 1 for all rows), T steps, D components, L levels, K inputs:
4 L, or 8 L for the item id.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dien_jax.data.schema import Schema
from dien_jax.data.tables import (
    DIRECTED,
    LEVELS,
    ValueFactors,
    factor_features,
    factor_levels,
)

OF_LEVEL = ("most", "last", "mean", "recent")
"""Inputs of each level of each feature with factors; see :func:`similarities`."""

# On a CPU, XLA sums products over the last axis several times as fast as a product and its sum.
_products_of = functools.partial(jnp.einsum, precision="highest")


def factor_names(schema: Schema) -> tuple[str, ...]:
    """Return the names of the inputs, such as ``item similarity_16_most``.

    Names of transitions, such as ``item next_16_most``, follow the others of their feature.

    >>> from dien_jax import open_dataset
    >>> from dien_jax.model import factor_names
    >>> schema = open_dataset("data").schema
    >>> schema.num_items, factor_names(schema)[:2]
    (12, ())
    """
    return tuple(
        f"{feature.name} {kind}_{level}_{name}"
        for feature in factor_features(schema)
        for kind in ("similarity", "next")[: 2 if feature is schema.item[0] else 1]
        for level in factor_levels(feature.size or 0)
        for name in OF_LEVEL
    )


def similarities(
    factors: ValueFactors,
    candidate: Int[Array, " B"],
    history: Int[Array, "H T"],
    lengths: Int[Array, " H"],
    fold: Int[Array, " B"] | None = None,
    *,
    transitions: bool = False,
) -> Float[Array, "B K"]:
    """Return the inputs ``OF_LEVEL`` of one feature for each level, the smallest level first.

    Levels are the first 16, 32, 64 and 128 components, where vectors are long enough. With unit
    vectors c of the candidate and h of the events, the inputs are the largest c.h, the c.h of the
    last event, and the cosine of c with the sum of h, without and with weights of recency (1 for
    the last event, 1/2 for the one before and so on). Without a vector, similarities are 0.

    With ``transitions``, for the item id, as many inputs follow from other vectors: those of events
    as earlier items, and of the candidate as the next one.

    ``fold`` is the index in ``factors`` of the table that each row reads; 0 by default.
    """
    row, vectors, scale = map(jnp.asarray, factors)

    def parts(values: jax.Array, table: Any) -> list[_Vectors]:
        """Look up values; with transitions, split: as chosen, as an earlier item, as the next."""
        found = vectors[table, row[values]].astype(jnp.float32), scale[table, row[values]]
        split = (jnp.split(array, DIRECTED if transitions else 1, axis=-1) for array in found)
        return [_Vectors(*part) for part in zip(*split, strict=True)]

    ours = parts(candidate, 0 if fold is None else fold)
    theirs = parts(history, 0 if fold is None else fold[:, None])
    pairs = [(ours[0], theirs[0])]
    if transitions:
        pairs.append((ours[2], theirs[1]))
    return jnp.concatenate([_similarities(*pair, lengths) for pair in pairs], axis=1)


class _Vectors(NamedTuple):
    """Vectors ``[..., D]`` and the scale ``[..., L]`` of each level."""

    vectors: jax.Array
    scale: jax.Array


def _similarities(ours: _Vectors, theirs: _Vectors, lengths: Int[Array, " H"]) -> jax.Array:
    """Return the inputs of vectors of candidates ``[B, D]`` and of events ``[H, T, D]``."""
    components, levels = ours.vectors.shape[-1], ours.scale.shape[-1]
    is_used = np.arange(components)[None, :] < np.array(LEVELS[:levels])[:, None]
    is_used = is_used.astype(np.float32)  # [L, D]
    age, recency = recency_of(lengths, theirs.vectors.shape[1])
    live = age >= 0
    weights = jnp.stack([live.astype(jnp.float32), recency], axis=-1)  # [H, T, 2]
    scaled = theirs.scale[..., None] * weights[:, :, None, :]  # [H, T, L, 2]
    sums = _products_of("htlw,htd->hlwd", scaled, theirs.vectors)
    sums = sums * is_used[None, :, None, :]
    squares = _products_of("hlwd,hlwd->hlw", sums, sums)
    is_zero = squares < 1e-10  # up to rounding
    inverse = jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, squares)))
    sums = sums * inverse[..., None]
    cosine, pooled = _products(ours, theirs, sums, is_used)  # [B, L, T], [B, L, 2]

    most = jnp.where(live[:, None], cosine, -1.0).max(2, initial=-1.0)
    most = jnp.where(lengths[:, None] > 0, most, 0.0)  # 0 for an empty history
    last = jnp.where((age == 0)[:, None], cosine, 0.0).sum(2)
    columns = jnp.stack([most, last, pooled[..., 0], pooled[..., 1]], axis=-1)
    return columns.reshape(ours.vectors.shape[0], levels * len(OF_LEVEL))


def recency_of(
    lengths: Int[Array, " B"], steps: Any
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """Return the age of each event, 0 for the last and below 0 for padding, and its recency.

    Recency is 1 for the last event, 1/2 for the one before and so on, and 0 for padding.
    """
    age = lengths.astype(jnp.int32)[:, None] - 1 - jnp.arange(steps, dtype=jnp.int32)[None, :]
    return age, jnp.where(age >= 0, 1 / (1 + jnp.maximum(age, 0)).astype(jnp.float32), 0.0)


def _products(
    ours: _Vectors, theirs: _Vectors, sums: Float[Array, "H L 2 D"], is_used: np.ndarray
) -> tuple[Float[Array, "B L T"], Float[Array, "B L 2"]]:
    """Return the products of candidates with events, and with sums of events, at each level."""
    if theirs.vectors.shape[0] == 1:  # one history for all candidates: masking its side is cheaper
        borders = itertools.pairwise((0, *LEVELS[: len(is_used)]))  # each level contains the last
        parts = (
            _products_of("bd,td->bt", ours.vectors[:, start:end], theirs.vectors[0, :, start:end])
            for start, end in borders
        )
        cosine = jnp.stack([*itertools.accumulate(parts)], axis=1)
        cosine *= ours.scale[:, :, None] * theirs.scale[0].T[None]
        return cosine, _products_of("bd,lwd->blw", ours.vectors, sums[0]) * ours.scale[:, :, None]
    units = ours.vectors[:, None, :] * is_used[None] * ours.scale[:, :, None]  # [B, L, D]
    cosine = _products_of("btd,bld->btl", theirs.vectors, units) * theirs.scale
    return cosine.swapaxes(1, 2), _products_of("blwd,bld->blw", sums, units)
