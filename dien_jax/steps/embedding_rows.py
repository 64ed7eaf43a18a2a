"""Updates of embedding tables whose cost depends on the batch, not on the size of the tables.

    look_up -> take_rows -> forward, gradients, any optimiser of optax -> put_rows

A step works on compact tables of the rows that its batch looks up. Other rows keep parameters and
slots to the bit: with ``lazy_adam`` (as in TensorFlow Addons) their moments do not decay, while
``rowwise_adagrad`` is the same as dense. Padding and filler look up row 0, of unknown values.

Dimensions: U rows taken of a table, at most as many as ids look it up.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, FeatureValues, MultiValued, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.logistic_regression import WEIGHTS

DENSE_ROWS = 4096
"""Tables of at most so many rows stay whole: finding their rows costs more than moving all."""

LAZY_ROWS = 65_536
"""Rows of all larger tables together, above which ``auto`` is ``lazy_adam``.

Up to here dense Adam was not worse in quality (docs/choices.md) and costs a third of a step of 16
behaviours at most; its time grows with every row."""

ADAGRAD_EPSILON = 1e-8
"""Added to the square root of an accumulator."""

Table = tuple[str, str]
"""Group of features, such as ``item``, and feature: its embeddings and its weights."""
_ENDINGS = ("_embeddings", f"_{WEIGHTS}")


class Rows(NamedTuple):
    """Distinct rows of one table, rising, then filler up to U.

    Filler reads the first row again and writes past the end, so nowhere.
    """

    read: Int[Array, " U"]
    write: Int[Array, " U"]


class LookUps(NamedTuple):
    """A batch with ids renumbered for compact tables, and the rows taken of each table."""

    schema: Schema
    features: FeatureTables
    batch: Batch
    negatives: jax.Array | None
    rows: dict[Table, Rows]


def large_tables(schema: Schema) -> frozenset[Table]:
    """Return the embedding tables of more than ``DENSE_ROWS`` rows.

    Item (user) ids come with the features, whose values are looked up through the ids taken.
    """
    tables = set()
    for group, features in vars(schema).items():
        large = {(group, f.name) for f in features if f.size is not None and f.size > DENSE_ROWS}
        if large and group != "context":
            large.add((group, features[0].name))
        tables |= large
    return frozenset(tables)


def rows_of_large_tables(schema: Schema) -> int:
    """Return the number of rows of all embedding tables of more than ``DENSE_ROWS`` rows."""
    sizes = [f.size for features in vars(schema).values() for f in features if f.size is not None]
    return sum(size for size in sizes if size > DENSE_ROWS)


def automatic_update(schema: Schema) -> Literal["dense", "lazy_adam"]:
    """Return the update of embeddings that ``auto`` stands for with tables of a schema."""
    return "lazy_adam" if rows_of_large_tables(schema) > LAZY_ROWS else "dense"


def tables_by_row(update: str, schema: Schema) -> frozenset[Table]:
    """Return the tables of which a step updates only the rows that its batch looks up."""
    update = automatic_update(schema) if update == "auto" else update
    return frozenset() if update == "dense" else large_tables(schema)


def distinct(ids: Int[Array, "..."], size: int) -> Rows:
    """Return the rows that ids look up in a table of ``size`` rows: ``U = min(ids, size)``."""
    # As jnp.unique does, in a fifth of its time on a CPU.
    ids = jnp.sort(ids.reshape(-1))
    is_first = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
    place = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    past = size + jnp.arange(min(ids.shape[0], size), dtype=ids.dtype)
    write = past.at[place].set(ids, mode="drop", indices_are_sorted=True)
    return Rows(jnp.where(write < size, write, ids[0]), write)


def places(rows: Rows, ids: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return the position of each id among the rows taken, where every id must be."""
    return jnp.searchsorted(rows.write, ids).astype(ids.dtype)


def look_up(
    schema: Schema,
    tables: Iterable[Table],
    features: FeatureTables,
    batch: Batch,
    negatives: jax.Array | None,
) -> LookUps:
    """Find the rows of the given tables that a batch looks up, and renumber its ids."""
    tables, rows = frozenset(tables), dict[Table, Rows]()
    if not tables:
        return LookUps(schema, features, batch, negatives, rows)

    def take(group: str, feature: Feature, ids: jax.Array) -> jax.Array:
        table = (group, feature.name)
        if table not in tables:
            return ids
        rows[table] = distinct(ids, cast(int, feature.size))
        return places(rows[table], ids)

    def take_values(group: str, feature: Feature, values: FeatureValues) -> FeatureValues:
        if isinstance(values, MultiValued):
            return values._replace(values=take(group, feature, jnp.asarray(values.values)))
        return take(group, feature, jnp.asarray(values))

    def take_group(
        group: str, members: tuple[Feature, ...], values: dict[str, FeatureValues], ids: jax.Array
    ) -> tuple[dict[str, FeatureValues], jax.Array]:
        ids = take(group, members[0], ids)
        taken = rows.get((group, members[0].name))
        if taken is not None:
            values = jax.tree.map(lambda column: jnp.asarray(column)[taken.read], values)
        return {f.name: take_values(group, f, values[f.name]) for f in members[1:]}, ids

    id_arrays = [batch.history, batch.item] + ([] if negatives is None else [negatives])
    item_ids = jnp.concatenate([jnp.asarray(ids).reshape(-1) for ids in id_arrays])
    items, item_ids = take_group("item", schema.item, features.item, item_ids)
    parts = jnp.split(item_ids, np.cumsum([ids.size for ids in id_arrays])[:-1])
    placed = [part.reshape(ids.shape) for part, ids in zip(parts, id_arrays, strict=True)]
    users, user = take_group("user", schema.user, features.user, jnp.asarray(batch.user))
    context = {f.name: take_values("context", f, batch.context[f.name]) for f in schema.context}
    sizes = {table: taken.read.shape[0] for table, taken in rows.items()}
    return LookUps(
        compact_schema(schema, sizes),
        features._replace(item=items, user=users),
        batch._replace(history=placed[0], item=placed[1], user=user, context=context, shown=None),
        None if negatives is None else placed[2],
        rows,
    )


def compact_schema(schema: Schema, sizes: dict[Table, int]) -> Schema:
    """Return a schema whose tables have other numbers of rows."""

    def compact(table: Table, feature: Feature) -> Feature:
        if table not in sizes:
            return feature
        return dataclasses.replace(feature, size=sizes[table])

    groups = {
        group: tuple(compact((group, feature.name), feature) for feature in features)
        for group, features in vars(schema).items()
    }
    return Schema(**groups)


def take_rows(tree: Any, rows: dict[Table, Rows]) -> Any:
    """Return parameters or optimiser state, with the rows taken in place of tables and slots."""

    def take(path: tuple, leaf: jax.Array) -> jax.Array:
        taken = rows.get(table_of(path))
        return leaf if taken is None else leaf[taken.read]

    return jax.tree_util.tree_map_with_path(take, tree)


def put_rows(whole: Any, compact: Any, rows: dict[Table, Rows]) -> Any:
    """Put the rows that :func:`take_rows` took of ``whole`` back, after an update."""

    def put(path: tuple, leaf: jax.Array, changed: jax.Array) -> jax.Array:
        taken = rows.get(table_of(path))
        if taken is None:
            return changed
        return leaf.at[taken.write].set(
            changed, mode="drop", unique_indices=True, indices_are_sorted=True
        )

    return jax.tree_util.tree_map_with_path(put, whole, compact)


def table_of(path: tuple) -> Table:
    """Return the table of a leaf by the last two keys of its path, which a parameter's slots share.

    The group is empty for a leaf of no table.
    """
    keys = [str(getattr(key, "key", "")) for key in path[-2:]]
    groups = [keys[0].removesuffix(ending) for ending in _ENDINGS if keys[0].endswith(ending)]
    return (groups[0] if groups else "", keys[-1])


class RowwiseAdagradState(NamedTuple):
    """State of :func:`scale_by_rowwise_adagrad`: float32 ``[rows]`` for each table."""

    squares: Any


def scale_by_rowwise_adagrad() -> optax.GradientTransformation:
    """Return row-wise Adagrad: ``s += mean(g^2)``, then ``g / (sqrt(s) + epsilon)``.

    For tables ``[rows, E]``, whole or rows taken; means are over E. It keeps 4 bytes for each row,
    where Adam keeps twice the row's parameters.

    Source: Duchi et al., JMLR 12, 2011; by row as in DLRM (Naumov et al., arXiv:1906.00091) and
    FBGEMM.
    """

    def init(params: Any) -> RowwiseAdagradState:
        squares = jax.tree.map(lambda table: jnp.zeros_like(table[:, 0]), params)
        return RowwiseAdagradState(squares)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, RowwiseAdagradState]:
        del params
        squares = jax.tree.map(lambda s, g: s + (g**2).mean(1), state.squares, gradients)

        def scale(g: jax.Array, s: jax.Array) -> jax.Array:
            return g / (jnp.sqrt(s) + ADAGRAD_EPSILON)[:, None]

        return jax.tree.map(scale, gradients, squares), RowwiseAdagradState(squares)

    return optax.GradientTransformation(init, update)
