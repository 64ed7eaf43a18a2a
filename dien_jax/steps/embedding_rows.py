"""Updates of embedding tables that cost what a batch looks up, whatever the tables hold.

Dense Adam reads and writes every row of a table and of its two slots at every step. Here a step
takes the rows that its batch looks up out of tables and optimiser state, works on these compact
tables under ids that count the rows taken, and puts the rows back where they were, in place where
the state is donated:

    look_up -> take_rows -> forward, gradients, any optimiser of optax -> put_rows

The gradient of a table has one row for each row taken, with the terms of ids that occur more than
once summed; no array of a table's size is ever made. Every other row keeps its parameters and its
slots to the bit. So an optimiser is lazy by what it is given, and these two are:

- Adam (``lazy_adam``). Against dense Adam, the moments of a row do not decay while nothing looks
  it up, and the row does not go on moving by them. Bias correction is by steps taken, not by how
  often a row was looked up, as in the LazyAdam optimiser of TensorFlow Addons. Where every row is
  looked up, the step is dense Adam's, to rounding.
- Adagrad with one accumulator a row (``rowwise_adagrad``). A row without gradient would not move
  in the dense one either, so taking rows changes nothing.

A row counts as looked up where a batch reads it at all. Padding and filler read row 0, that of
unknown values, which therefore counts as looked up at nearly every step.

Dimensions: U rows taken of a table, at most as many as ids look it up.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, FeatureTables, FeatureValues, MultiValued, Schema

DENSE_ROWS = 4096
"""Tables of so many rows or fewer stay whole: to find their rows costs more than to move all."""

ADAGRAD_EPSILON = 1e-8
"""Added to the root of an accumulator."""

Table = tuple[str, str]
"""Path of a table's parameter: group of features, as ``item_embeddings``, and feature."""


class Rows(NamedTuple):
    """Rows of one table, each once; the places left over, to U, are filler.

    Attributes:
      read: int32 ``[U]``; filler repeats the first row.
      write: int32 ``[U]``, rising; filler points past the end, so that writing drops it.
    """

    read: Int[Array, " U"]
    write: Int[Array, " U"]


class LookUps(NamedTuple):
    """A batch in terms of compact tables.

    Attributes:
      schema: with the sizes of the compact tables.
      features: of the items and users taken.
      batch: with ids that count the rows taken.
      negatives: with such ids; None where there were none.
      rows: what was taken of each table; the others are whole.
    """

    schema: Schema
    features: FeatureTables
    batch: Batch
    negatives: jax.Array | None
    rows: dict[Table, Rows]


def large_tables(schema: Schema) -> frozenset[Table]:
    """The embedding tables of more than ``DENSE_ROWS`` rows, whatever a batch looks like.

    The ids of items (users) count among them where a table of their features does: the values of a
    batch's items are found by way of the items taken.
    """
    found = set()
    for group, features in _groups(schema).items():
        large = {_table(group, f) for f in features if f.size is not None and f.size > DENSE_ROWS}
        if large and group != "context":
            large.add(_table(group, features[0]))
        found |= large
    return frozenset(found)


def _groups(schema: Schema) -> dict[str, tuple[Feature, ...]]:
    return {"item": schema.item, "user": schema.user, "context": schema.context}


def distinct(ids: Int[Array, "..."], size: int) -> Rows:
    """The rows that ids look up in a table of ``size`` rows: ``U = min(ids, size)``."""
    ids = ids.reshape(-1)
    count = min(ids.shape[0], size)
    found = jnp.unique(ids, size=count, fill_value=size)
    past = size + jnp.arange(count, dtype=found.dtype)
    is_filler = found == size
    return Rows(jnp.where(is_filler, found[0], found), jnp.where(is_filler, past, found))


def places(rows: Rows, ids: Int[Array, "..."]) -> Int[Array, "..."]:
    """Where among the rows taken each id is; every id must be among them."""
    return jnp.searchsorted(rows.write, ids).astype(ids.dtype)


def look_up(
    schema: Schema,
    tables: Iterable[Table],
    features: FeatureTables,
    batch: Batch,
    negatives: jax.Array | None,
) -> LookUps:
    """Finds the rows of the given tables that a batch looks up, and puts the batch in their terms.

    Of the features of items and users only those of the items and users taken are looked through.

    Args:
      schema: of the whole tables.
      tables: which to take rows of; the others stay whole. Without any nothing changes.
      features: over all items and users.
      batch: its ids are rows of the whole tables.
      negatives: item ids, those of auxiliary negatives.
    """
    tables, rows = frozenset(tables), dict[Table, Rows]()
    if not tables:
        return LookUps(schema, features, batch, negatives, rows)

    def take(group: str, feature: Feature, ids: jax.Array) -> jax.Array:
        """The ids in terms of the rows taken of their table, if any are to be."""
        table = _table(group, feature)
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
        """The features of the items or users that ``ids`` name, and the ids themselves."""
        ids = take(group, members[0], ids)
        taken = rows.get(_table(group, members[0]))
        if taken is not None:
            values = jax.tree.map(lambda column: jnp.asarray(column)[taken.read], values)
        return {f.name: take_values(group, f, values[f.name]) for f in members[1:]}, ids

    named = [batch.history, batch.item] + ([] if negatives is None else [negatives])
    every = jnp.concatenate([jnp.asarray(ids).reshape(-1) for ids in named])
    of_items, every = take_group("item", schema.item, features.item, every)
    parts = jnp.split(every, np.cumsum([ids.size for ids in named])[:-1])
    placed = [part.reshape(ids.shape) for part, ids in zip(parts, named, strict=True)]
    of_users, user = take_group("user", schema.user, features.user, jnp.asarray(batch.user))
    context = {f.name: take_values("context", f, batch.context[f.name]) for f in schema.context}
    return LookUps(
        _compact_schema(schema, rows),
        FeatureTables(of_items, of_users),
        batch._replace(history=placed[0], item=placed[1], user=user, context=context, shown=None),
        None if negatives is None else placed[2],
        rows,
    )


def _table(group: str, feature: Feature) -> Table:
    return (f"{group}_embeddings", feature.name)


def _compact_schema(schema: Schema, rows: dict[Table, Rows]) -> Schema:
    """The schema with the sizes of the compact tables."""

    def compact(table: Table, feature: Feature) -> Feature:
        if table not in rows:
            return feature
        return dataclasses.replace(feature, size=rows[table].read.shape[0])

    return Schema(
        **{
            group: tuple(compact(_table(group, feature), feature) for feature in features)
            for group, features in _groups(schema).items()
        }
    )


def take_rows(tree: Any, rows: dict[Table, Rows]) -> Any:
    """Parameters, or the state of an optimiser, with the rows taken in place of each table.

    Whatever lies under the path of a table, in a slot of the optimiser too, has the table's rows
    as its first dimension.
    """

    def take(path: tuple, leaf: jax.Array) -> jax.Array:
        taken = rows.get(table_of(path))
        return leaf if taken is None else leaf[taken.read]

    return jax.tree_util.tree_map_with_path(take, tree)


def put_rows(whole: Any, compact: Any, rows: dict[Table, Rows]) -> Any:
    """What :func:`take_rows` took of ``whole``, after an update, back in its rows."""

    def put(path: tuple, leaf: jax.Array, changed: jax.Array) -> jax.Array:
        taken = rows.get(table_of(path))
        if taken is None:
            return changed
        return leaf.at[taken.write].set(
            changed, mode="drop", unique_indices=True, indices_are_sorted=True
        )

    return jax.tree_util.tree_map_with_path(put, whole, compact)


def table_of(path: tuple) -> Table:
    """The last two keys of the path of a leaf: of a table's parameter, and of its slots."""
    keys = [str(getattr(key, "key", "")) for key in path[-2:]]
    return (keys[0], keys[-1])


class RowwiseAdagradState(NamedTuple):
    """State of :func:`scale_by_rowwise_adagrad`.

    Attributes:
      squares: float32 ``[rows]`` for each table.
    """

    squares: Any


def scale_by_rowwise_adagrad() -> optax.GradientTransformation:
    """Adagrad with one accumulator a row: ``s += mean(g^2)``, then ``g / (sqrt(s) + epsilon)``.

    For tables ``[rows, E]``, whole or rows taken; means are over E. It asks for a row 4 bytes of
    memory beside its parameters where Adam asks for twice its parameters.

    Source: Duchi et al., JMLR 12, 2011; by row as in DLRM (Naumov et al., arXiv:1906.00091) and
    FBGEMM.
    """

    def init(params: Any) -> RowwiseAdagradState:
        return RowwiseAdagradState(jax.tree.map(lambda table: jnp.zeros_like(table[:, 0]), params))

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, RowwiseAdagradState]:
        del params
        squares = jax.tree.map(
            lambda total, gradient: total + (gradient**2).mean(1), state.squares, gradients
        )
        scaled = jax.tree.map(
            lambda gradient, total: gradient / (jnp.sqrt(total) + ADAGRAD_EPSILON)[:, None],
            gradients,
            squares,
        )
        return scaled, RowwiseAdagradState(squares)

    return optax.GradientTransformation(init, update)
