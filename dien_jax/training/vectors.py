"""Embeddings that start from the vectors of the dataset's factorization.

Values that the same users chose then have similar embeddings before the first step, also those that
few training examples hold. See :mod:`dien_jax.statistics.factors` for the vectors.
"""

import functools
from typing import Any

import jax
import numpy as np

from dien_jax.data.schema import Schema
from dien_jax.data.tables import ValueFactors, factor_levels
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import TrainState

NORM = 0.3
"""Norm of an embedding that starts from a vector."""


def with_vectors(
    state: TrainState, schema: Schema, factors: dict[str, ValueFactors], place: OneDevice
) -> TrainState:
    """Return a fresh state whose item embeddings start from vectors of all training users.

    An embedding takes the leading components of its value's unit vector, times :data:`NORM`. Values
    without a vector, and columns beyond its components, keep their random start. ``factors`` are
    those of the dataset, by feature; ``place`` is that of the state.
    """
    tables = dict(state.params["item_embeddings"])
    for feature in schema.item:
        found = factors.get(feature.name)
        if found is None or feature.size is None:
            continue
        width = min(factor_levels(feature.size)[-1], tables[feature.name].shape[1])
        rows = np.asarray(found.row)
        vectors = np.asarray(found.vectors[0])[:, :width].astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1)
        values = np.flatnonzero((rows > 0) & (norms[rows] > 0))
        started = NORM * vectors[rows[values]] / norms[rows[values], None]
        slots = place.slots(("item", feature.name), values)
        tables[feature.name] = _set(tables[feature.name], slots, started)
    return state._replace(params={**state.params, "item_embeddings": tables})


def _set(table: jax.Array, slots: np.ndarray, rows: np.ndarray) -> jax.Array:
    # The table stays uncommitted on one device: all later programs are compiled again otherwise.
    sharding = table.sharding if table.committed else None

    @functools.partial(jax.jit, out_shardings=sharding, donate_argnums=0)
    def set_rows(table: Any) -> Any:
        return table.at[slots, : rows.shape[1]].set(rows)

    return set_rows(table)
