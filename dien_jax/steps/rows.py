"""Embedding rows that a batch looks up: gathering them, and updating them alone.

    look_up -> compact tables -> forward, gradients, an update by Adam -> rows put back

The cost of an update by row depends on the rows that the batch looks up, not on the table size.

A step works on compact tables of the rows that its batch looks up. Other rows keep parameters and
slots to the bit: their moments do not decay, as in LazyAdam of TensorFlow Addons. Padding and
filler look up row 0, that of unknown values.

Dimensions: U rows gathered from a table, at most one for each id that is looked up.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dien_jax.config.settings import ModelConfig
from dien_jax.data.schema import GROUPS, Feature, FeatureValues, MultiValued, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.model.click_model import with_statistics
from dien_jax.model.embeddings import gather as gather_values
from dien_jax.model.tower import WEIGHTS

DENSE_ROWS = 4096
"""Up to so many rows, a step uses a whole table: finding some rows costs more than moving all."""

LAZY_ROWS = 65_536
"""Total number of rows of all larger tables, above which ``auto`` is ``lazy_adam``.

Up to this size dense Adam was not worse in quality (docs/defaults.md), and costs at most a third of
a step of 16 behaviours; its time is proportional to the rows."""

Table = tuple[str, str]
"""Prefix of the parameters of a group, such as ``item``, and feature: the names of its embeddings
and of its weights."""
_ENDINGS = ("_embeddings", f"_{WEIGHTS}")


class Rows(NamedTuple):
    """Distinct rows of one table in ascending order, then filler up to U.

    Filler reads the first row again, and writes past the end of the table, which has no effect.
    """

    read: Int[Array, " U"]
    write: Int[Array, " U"]


def large_tables(schema: Schema, dense_rows: int) -> dict[Table, int]:
    """Return the number of rows of each embedding table with more than ``dense_rows`` rows.

    A large item (user) feature adds the table of ids, whose rows its values are gathered with.
    """
    tables = {}
    for group, features in schema.groups():
        sizes = {(GROUPS[group].parameters, f.name): f.size or 0 for f in features}
        large = {table: size for table, size in sizes.items() if size > dense_rows}
        if large and GROUPS[group].source == "id":
            ids = next(iter(sizes))
            tables[ids] = sizes[ids]
        tables |= large
    return tables


def automatic_update(schema: Schema) -> Literal["dense", "lazy_adam"]:
    """Return the update of embeddings that ``auto`` chooses for the tables of a schema."""
    sizes = [feature.size or 0 for feature in schema.features]
    of_large = sum(size for size in sizes if size > DENSE_ROWS)
    return "lazy_adam" if of_large > LAZY_ROWS else "dense"


def distinct(ids: Int[Array, "..."], size: int) -> Rows:
    """Return the rows that ids look up in a table of ``size`` rows: ``U = min(ids, size)``."""
    # Same result as jnp.unique, in a fifth of its time on a CPU.
    ids = jnp.sort(ids.reshape(-1))
    is_first = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
    place = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    past = size + jnp.arange(min(ids.shape[0], size), dtype=ids.dtype)
    write = past.at[place].set(ids, mode="drop", indices_are_sorted=True)
    return Rows(jnp.where(write < size, write, ids[0]), write)


class LookUps(NamedTuple):
    """A batch with ids renumbered for the gathered rows, and the features of these rows."""

    features: FeatureTables
    batch: Batch
    negatives: jax.Array | None


class RowGather:
    """The gather of rows that a batch looks up, on one device.

    Attributes:
      tables: tables to gather from; ids of other tables are not renumbered.
      rows: the rows gathered from each table.
    """

    def __init__(self, tables: frozenset[Table]) -> None:
        self.tables = tables
        self.rows: dict[Table, Rows] = {}

    def __call__(self, table: Table, size: int, ids: jax.Array, columns: Any) -> tuple:
        """Return ids as indices of the gathered rows, and columns ``[U, ...]``.

        Args:
          table: one of ``tables``.
          size: its number of rows.
          ids: the rows to look up.
          columns: arrays with one row for each row of the table.
        """
        rows = self.rows[table] = distinct(ids, size)
        columns = jax.tree.map(lambda column: jnp.asarray(column)[rows.read], columns)
        return jnp.searchsorted(rows.write, ids).astype(ids.dtype), columns

    def compact(self, params: Any, slots: Any) -> tuple[Any, Any]:
        """Return parameters and slots with gathered rows in place of tables."""
        return take_rows((params, slots), self.rows)

    def metrics(self) -> dict[str, jax.Array]:
        """Return metrics of the look-ups."""
        return {}


def look_up(
    config: ModelConfig,
    schema: Schema,
    gather: Any,
    features: FeatureTables,
    batch: Batch,
    negatives: jax.Array | None = None,
) -> LookUps:
    """Gather the rows that a batch looks up, renumber its ids, and compute its statistics.

    ``gather`` is a :class:`RowGather`, or its counterpart for tables sharded over devices. Feature
    values of items and users are gathered with the rows of their ids, and then themselves looked up
    in the tables of the features.
    """

    def take(
        group: str, feature: Feature, ids: jax.Array, columns: Any = ()
    ) -> tuple[jax.Array, Any]:
        if (table := (GROUPS[group].parameters, feature.name)) not in gather.tables:
            return ids, columns
        return gather(table, feature.size, ids, columns)

    def take_values(group: str, feature: Feature, values: FeatureValues) -> FeatureValues:
        if isinstance(values, MultiValued):
            return values._replace(values=take(group, feature, jnp.asarray(values.values))[0])
        return take(group, feature, jnp.asarray(values))[0]

    def take_all(values: dict[str, FeatureValues]) -> dict[str, FeatureValues]:
        return {
            feature.name: take_values(group, feature, values[feature.name])
            for group, members in schema.groups()
            for feature in members
            if feature.name in values
        }

    if not gather.tables:
        batch = with_statistics(config, schema, features, batch)
        return LookUps(features, batch, negatives)
    id_arrays = [batch.history, batch.item] + ([] if negatives is None else [negatives])
    item_ids = jnp.concatenate([jnp.asarray(ids).reshape(-1) for ids in id_arrays])
    of_items = features.item, features.vector_row
    item_ids, (items, vector_row) = take("item", schema.item[0], item_ids, of_items)
    parts = jnp.split(item_ids, np.cumsum([ids.size for ids in id_arrays])[:-1])
    placed = [part.reshape(ids.shape) for part, ids in zip(parts, id_arrays, strict=True)]

    def values(place: int, ids: Any) -> dict[str, Any]:
        return {**gather_values(placed[place], items, "item"), "item": jnp.asarray(ids)}

    both = values(1, batch.item), values(0, batch.history)
    batch = with_statistics(config, schema, features, batch, both)
    user, users = take("user", schema.user[0], jnp.asarray(batch.user), features.user)
    found = features._replace(item=take_all(items), user=take_all(users), vector_row=vector_row)
    columns = take_all(batch.columns)
    batch = batch._replace(history=placed[0], item=placed[1], user=user, columns=columns)
    return LookUps(found, batch, None if negatives is None else placed[2])


def take_rows(tree: Any, rows: dict[Table, Rows]) -> Any:
    """Return parameters or optimizer state, with gathered rows in place of tables and slots."""

    def take(path: tuple, leaf: jax.Array) -> jax.Array:
        taken = rows.get(table_of(path))
        return leaf if taken is None else leaf[taken.read]

    return jax.tree_util.tree_map_with_path(take, tree)


def put_rows(whole: Any, compact: Any, rows: dict[Table, Rows]) -> Any:
    """Write rows that :func:`take_rows` gathered back into ``whole``, after an update."""

    def put(path: tuple, leaf: jax.Array, changed: jax.Array) -> jax.Array:
        taken = rows.get(table_of(path))
        if taken is None:
            return changed
        return leaf.at[taken.write].set(
            changed, mode="drop", unique_indices=True, indices_are_sorted=True
        )

    return jax.tree_util.tree_map_with_path(put, whole, compact)


def table_of(path: tuple) -> Table:
    """Return the table of a leaf by the last two keys of its path; a parameter's slots share them.

    The group is empty for a leaf that belongs to no table.
    """
    keys = [str(getattr(key, "key", "")) for key in path[-2:]]
    groups = [keys[0].removesuffix(ending) for ending in _ENDINGS if keys[0].endswith(ending)]
    return (groups[0] if groups else "", keys[-1])
