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
  looked up, the step is dense Adam's.
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

from dien_jax.schema import Batch, Feature, FeatureTables, FeatureValues, MultiValued, Schema

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
    """The embedding tables of more than ``DENSE_ROWS`` rows, whatever a batch looks like."""
    groups = {"item": schema.item, "user": schema.user, "context": schema.context}
    return frozenset(
        (f"{group}_embeddings", feature.name)
        for group, features in groups.items()
        for feature in features
        if feature.size is not None and feature.size > DENSE_ROWS
    )


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

    Ids of an item's (a user's) features are those of the items (users) taken, so that the features
    of each are looked through once.

    Args:
      schema: of the whole tables.
      tables: which to take rows of; the others stay whole. Without any nothing changes.
      features: over all items and users.
      batch: its ids are rows of the whole tables.
      negatives: item ids, auxiliary negatives say.
    """
    tables, rows = frozenset(tables), dict[Table, Rows]()

    def smaller(feature: Feature, path: Table) -> Feature:
        if path not in rows:
            return feature
        return dataclasses.replace(feature, size=rows[path].read.shape[0])

    def compact(group: str, feature: Feature, values: FeatureValues) -> FeatureValues:
        """The values of one feature in terms of the rows taken of its table."""
        path = (f"{group}_embeddings", feature.name)
        if path not in tables:
            return values
        ids = jnp.asarray(values.values if isinstance(values, MultiValued) else values)
        rows[path] = distinct(ids, cast(int, feature.size))
        ids = places(rows[path], ids)
        return MultiValued(ids, values.count) if isinstance(values, MultiValued) else ids

    def compact_group(
        group: str, members: tuple[Feature, ...], values: dict[str, FeatureValues], ids: list
    ) -> tuple[dict[str, FeatureValues], list]:
        """The features of what ``ids`` name (one array or more), and the ids themselves."""
        path = (f"{group}_embeddings", members[0].name)
        if path in tables:
            every = jnp.concatenate([one.reshape(-1) for one in ids])
            taken = rows[path] = distinct(every, cast(int, members[0].size))
            ends = np.cumsum([one.size for one in ids])[:-1]
            found = jnp.split(places(taken, every), ends)
            ids = [part.reshape(one.shape) for part, one in zip(found, ids, strict=True)]
            values = jax.tree.map(lambda column: jnp.asarray(column)[taken.read], values)
        return {f.name: compact(group, f, values[f.name]) for f in members[1:]}, ids

    named = [jnp.asarray(batch.history), jnp.asarray(batch.item)]
    named += [] if negatives is None else [negatives]
    of_items, named = compact_group("item", schema.item, features.item, named)
    of_users, users = compact_group("user", schema.user, features.user, [jnp.asarray(batch.user)])
    context = {f.name: compact("context", f, batch.context[f.name]) for f in schema.context}
    return LookUps(
        Schema(
            *(
                tuple(smaller(feature, (f"{group}_embeddings", feature.name)) for feature in each)
                for group, each in (
                    ("item", schema.item),
                    ("user", schema.user),
                    ("context", schema.context),
                )
            )
        ),
        FeatureTables(of_items, of_users),
        batch._replace(history=named[0], item=named[1], user=users[0], context=context, shown=None),
        None if negatives is None else named[2],
        rows,
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
