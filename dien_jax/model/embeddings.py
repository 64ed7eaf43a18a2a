"""Embeddings of features of every kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dien_jax.data.schema import Feature, FeatureValues, MultiValued
from dien_jax.data.tables import FeatureTables

EMBEDDING_INITIAL: nn.initializers.Initializer = nn.initializers.glorot_uniform()


class FeatureEmbeddings(nn.Module):
    """Embeddings of several features, concatenated in the order of the schema.

    A categorical value is embedded as its row of a table, a multi-valued one as the mean over its
    values (zeros without any), a numeric one as the number times a learned vector, and a vector as
    a learned linear map of it.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.data import Feature
    >>> from dien_jax.model import FeatureEmbeddings
    >>> features = (Feature("item", "categorical", 9), Feature("category", "categorical", 3))
    >>> module, ids = FeatureEmbeddings(features, size=4), jnp.zeros((2, 5), jnp.int32)
    >>> values = {"item": ids, "category": ids}
    >>> jax.jit(module.init_with_output)(jax.random.key(0), values)[0].shape
    (2, 5, 8)

    The result has ``size`` columns per feature; the first feature has ``first_size``, if given.
    """

    features: tuple[Feature, ...]
    size: int
    initial: nn.initializers.Initializer = EMBEDDING_INITIAL
    first_size: int | None = None

    @nn.compact
    def __call__(self, values: dict[str, FeatureValues]) -> Float[Array, "... D"]:
        """Return embeddings of the values of every feature, whose leading dimensions agree."""
        return jnp.concatenate([self._embed(f, values[f.name]) for f in self.features], axis=-1)

    def _embed(self, feature: Feature, value: FeatureValues) -> Float[Array, "... E"]:
        # The default has deviation sqrt(2 / (rows + columns)), as in the authors' program:
        # embeddings of features with few values, such as categories, start larger.
        table = self._table(feature)
        if feature.length is not None:
            return jnp.asarray(value) @ table.T
        if feature.size is None:
            number = jnp.asarray(value)[..., None]
            return number * table[0].reshape((1,) * (number.ndim - 1) + (-1,))
        if not isinstance(value, MultiValued):
            return table[value]
        kept = value.values.shape[-1]
        count = jnp.asarray(value.count)[..., None]
        slots = jnp.arange(kept, dtype=count.dtype).reshape((1,) * (count.ndim - 1) + (-1,))
        live = (slots < count).astype(table.dtype)
        total = (table[value.values] * live[..., None]).sum(-2)
        return total / jnp.maximum(count, 1).astype(table.dtype)

    def _table(self, feature: Feature) -> Float[Array, "V E"]:
        name = feature.name
        if self.is_initializing() or not self.has_variable("params", name):
            is_first = name == self.features[0].name
            size = self.first_size if is_first and self.first_size else self.size
            # A number has a single row; a vector one for each dimension of its embedding.
            shape = (size, feature.length) if feature.length else (feature.size or 1, size)
            return self.param(name, self.initial, shape)
        # The table may hold only the rows that a call looks up; `param` would refuse its shape.
        return self.get_variable("params", name)


def without_own_user(
    embedded: Float[Array, "*R D"],
    ids: Int[Array, "*R"],
    tables: FeatureTables,
    fold: Int[Array, "..."] | None,
) -> tuple[Float[Array, "*R D"], Float[Array, "*R"]]:
    """Return embeddings as if the vectors were made without an example's user, in training.

    An embedding is an initial vector plus a learned difference. A vector made from all users leaks
    choices of the example's user, so it is replaced by the one made without the user's fold. The
    second result is the squared norm of the difference, which the loss keeps small; 0 without
    vectors. ``fold`` broadcasts against ``ids``.
    """
    if tables.vectors is None or tables.vector_row is None or fold is None:
        return embedded, jnp.zeros(ids.shape, embedded.dtype)
    row = jnp.asarray(tables.vector_row)[ids]
    vectors = jnp.asarray(tables.vectors)
    first, ours = (vectors[table, row].astype(embedded.dtype) for table in (0, fold))
    size = first.shape[-1]
    learned = embedded[..., :size] - first
    shifted = jnp.concatenate([learned + ours, embedded[..., size:]], axis=-1)
    return shifted, (learned**2).sum(-1)


def gather(ids: Int[Array, "..."], tables: dict[str, FeatureValues], name: str) -> dict:
    """Return the feature values of ``ids``: the ids as ``name``, the others from the tables."""
    rows = jax.tree.map(lambda table: jnp.asarray(table)[ids], tables)
    return {name: ids, **rows}
