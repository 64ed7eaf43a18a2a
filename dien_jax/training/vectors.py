"""Item embeddings that start from vectors of the dataset's factorization, and are kept near them.

Items that the same users chose then have similar embeddings before the first step, even items in
few training examples. Vectors made from all users leak choices of an example's user, so a step
reads vectors made without the user's fold, see ``without_own_user`` in
:mod:`dien_jax.model.embeddings`. :mod:`dien_jax.statistics.factors` makes the vectors.

Dimensions: V items, R rows of vectors, K tables of vectors, E item embedding.
"""

import functools
from typing import Any

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.arrays import release
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables, ValueFactors, factor_levels
from dien_jax.runs.folder import Run
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables, TrainState


def with_vectors(
    state: TrainState,
    tables: Tables,
    config: Config,
    dataset: Dataset,
    place: OneDevice,
    is_fresh: bool,
    rotation: np.ndarray | None = None,
) -> tuple[TrainState, Tables]:
    """Return the state and the tables for training with vectors; unchanged if data has none.

    In a fresh state, at the start of a run, item embeddings become the vectors of all users; items
    without a vector keep their random one. The tables get all vectors, see :func:`item_vectors`.
    """
    found = item_vectors(dataset.schema, dataset.factors, vector_size(config), rotation)
    if found is None:
        return state, tables
    if is_fresh:
        state = started(state, dataset.schema, place, *found)
    more = place.put_features(FeatureTables({}, {}, {}, {}, *found))
    features = tables.features._replace(vector_row=more.vector_row, vectors=more.vectors)
    return state, tables._replace(features=features)


def started(
    state: TrainState, schema: Schema, place: OneDevice, row: np.ndarray, vectors: np.ndarray
) -> TrainState:
    """Return the state with item embeddings from the first table of :func:`item_vectors`."""
    values, name = np.flatnonzero(row), schema.item[0].name
    params = dict(state.params["item_embeddings"])
    rows = vectors[0, row[values]].astype(np.float32)
    params[name] = _set(params[name], place.slots(("item", name), values), rows)
    return state._replace(params={**state.params, "item_embeddings": params})


def keeps_vectors(run: Run) -> bool:
    """Return whether a run keeps item embeddings near vectors, if its data has them."""
    start = run.warm_start
    return run.config.model.initial_embeddings == "vectors" and (not start or start["vectors"])


def vector_size(config: Config) -> int:
    """Return E, the size of item embeddings."""
    return config.model.item_embedding_size or config.model.embedding_size


def item_vectors(
    schema: Schema,
    factors: dict[str, ValueFactors],
    size: int,
    rotation: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the row of each item and the vectors of rows, int32 ``[V]`` and float16 ``[K, R, E]``.

    Vectors are leading components, scaled to unit length and padded with zeros to ``size``. Tables
    without a fold are rotated towards the first table, and then all tables by ``rotation``,
    ``[E, E]``. None if the data has no vectors.
    """
    item = schema.item[0]
    if item.name not in factors:
        return None
    found = factors[item.name]
    width = min(factor_levels(item.size or 0)[-1], size)
    shape = (*found.vectors.shape[:2], size)
    vectors, row = np.zeros(shape, np.float32), np.array(found.row, np.int32)
    vectors[..., :width] = _units(np.asarray(found.vectors)[..., :width].astype(np.float32))
    release(np.asarray(found.vectors))
    row[~vectors[0].any(1)[row]] = 0
    turned = [vectors[0], *(table @ rotation_to(vectors[0], table) for table in vectors[1:])]
    if rotation is not None:
        turned = [table @ rotation for table in turned]
    return row, np.stack(turned).astype(np.float16)


def _units(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def vectors_of_items(
    dataset: Dataset, config: Config, rotation: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the vector of each item, zeros for an item without one: float32 ``[V, E]``.

    See :func:`item_vectors`.
    """
    found = item_vectors(dataset.schema, dataset.factors, vector_size(config), rotation)
    if found is None:
        return None
    row, vectors = found
    return vectors[0].astype(np.float32)[row] * (row > 0)[:, None]


def rotation_to(reference: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the rotation ``[E, E]`` that brings vectors ``[R, E]`` nearest to a reference.

    Factorizations of different users differ by a rotation. Rows of zeros are ignored.
    Source: the orthogonal Procrustes problem, Schonemann, Psychometrika 1966.
    """
    both = vectors.any(1) & reference.any(1)
    left, _, right = np.linalg.svd(vectors[both].T @ reference[both])
    return left @ right


def _set(table: jax.Array, slots: np.ndarray, rows: np.ndarray) -> jax.Array:
    # The table stays uncommitted on one device; otherwise all later programs compile again.
    sharding = table.sharding if table.committed else None

    @functools.partial(jax.jit, out_shardings=sharding, donate_argnums=0)
    def set_rows(table: Any) -> Any:
        return table.at[slots].set(rows)

    return set_rows(table)
