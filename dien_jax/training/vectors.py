"""Item embeddings that start from vectors of the dataset's factorization, and are kept near them.

Items that the same users chose then have similar embeddings before the first step, even items in
few training examples. Vectors made from all users leak choices of an example's user, so a step
reads vectors made without the user's fold, see ``without_own_user`` in
:mod:`dien_jax.model.embeddings`. :mod:`dien_jax.statistics.factors` makes the vectors.

Dimensions: V items, R rows of vectors, K tables of vectors, E item embedding.
"""

from typing import NamedTuple

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.arrays import release
from dien_jax.data.dataset import Dataset
from dien_jax.data.tables import FeatureTables, factor_levels
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables, TrainState


class ItemVectors(NamedTuple):
    """Vectors of items: ``vectors``, float16 ``[K, R, E]``, and ``row``, int32 ``[V]``, of each.

    Row 0 has zeros, for items without a vector.
    """

    row: np.ndarray
    vectors: np.ndarray

    def of_items(self) -> np.ndarray:
        """Return the vector of each item from all users, float32 ``[V, E]``."""
        return self.vectors[0].astype(np.float32)[self.row]

    def rotated(self, rotation: np.ndarray) -> "ItemVectors":
        """Return all tables multiplied by a rotation, float32 ``[E, E]``."""
        turned = [
            (table.astype(np.float32) @ rotation).astype(np.float16) for table in self.vectors
        ]
        return self._replace(vectors=np.stack(turned))


def with_vectors(tables: Tables, place: OneDevice, found: ItemVectors) -> Tables:
    """Return the tables of a train step with all vectors."""
    more = place.put_features(FeatureTables({}, {}, {}, {}, *found))
    features = tables.features._replace(vector_row=more.vector_row, vectors=more.vectors)
    return tables._replace(features=features)


def started(state: TrainState, place: OneDevice, found: ItemVectors) -> TrainState:
    """Return a fresh state with the vectors of all users as item embeddings.

    Items without a vector keep their random embedding.
    """
    values, name = np.flatnonzero(found.row), place.schema.item[0].name
    params = dict(state.params["item_embeddings"])
    rows = found.vectors[0, found.row[values]].astype(np.float32)
    table, slots = params[name], place.slots(("item", name), values)
    # The table stays uncommitted on one device; otherwise all later programs compile again.
    sharding = table.sharding if table.committed else None
    write = jax.jit(lambda t, k, v: t.at[k].set(v), out_shardings=sharding, donate_argnums=0)
    params[name] = write(table, slots, rows)
    return state._replace(params={**state.params, "item_embeddings": params})


def item_vectors(dataset: Dataset, config: Config) -> ItemVectors | None:
    """Return the vectors of a dataset's items; None if it has none.

    They are leading components, scaled to unit length and padded with zeros to E. Tables without a
    fold are rotated towards the first table.
    """
    item, model = dataset.schema.item[0], config.model
    if item.name not in dataset.factors:
        return None
    found, size = dataset.factors[item.name], model.item_embedding_size or model.embedding_size
    width = min(factor_levels(item.size or 0)[-1], size)
    shape = (*found.vectors.shape[:2], size)
    vectors, row = np.zeros(shape, np.float32), np.array(found.row, np.int32)
    leading = np.asarray(found.vectors)[..., :width].astype(np.float32)
    norms = np.linalg.norm(leading, axis=-1, keepdims=True)
    vectors[..., :width] = leading / np.where(norms > 0, norms, 1)
    release(np.asarray(found.vectors))
    row[~vectors[0].any(1)[row]] = 0
    turned = [vectors[0], *(table @ rotation_to(vectors[0], table) for table in vectors[1:])]
    return ItemVectors(row, np.stack(turned).astype(np.float16))


def rotation_to(reference: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the rotation ``[E, E]`` that brings vectors ``[R, E]`` nearest to a reference.

    Factorizations of different users differ by a rotation. Rows of zeros are ignored.
    Source: the orthogonal Procrustes problem, Schonemann, Psychometrika 1966.
    """
    both = vectors.any(1) & reference.any(1)
    left, _, right = np.linalg.svd(vectors[both].T @ reference[both])
    return left @ right
