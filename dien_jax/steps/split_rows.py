"""Look-ups of a batch in tables that are split over devices, inside ``jax.shard_map``.

As :mod:`~dien_jax.steps.embedding_rows`, with an exchange in place of each gather. Features of
items and users come with the rows of their ids; rows of the tables of these features follow in a
second exchange, as only then their values are known.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import ModelConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, FeatureValues, MultiValued, Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.embeddings import gather
from dien_jax.model.statistics import inputs_of_values
from dien_jax.steps.embedding_rows import Table, compact_schema, table_of
from dien_jax.steps.exchange import Exchange
from dien_jax.steps.sharding import Layout, Placement


class SplitLookUps(NamedTuple):
    """A batch with ids renumbered for the rows fetched, and parameters that hold these rows."""

    schema: Schema
    features: FeatureTables
    batch: Batch
    negatives: jax.Array | None
    params: Any
    exchanges: dict[Table, Exchange]


def look_up_split(
    placement: Placement,
    config: ModelConfig,
    schema: Schema,
    params: Any,
    features: FeatureTables,
    batch: Batch,
    negatives: jax.Array | None = None,
) -> SplitLookUps:
    """Fetch what a batch looks up in split tables, and compute its statistics."""
    exchanges, layouts = dict[Table, Exchange](), placement.layouts
    axes = placement.row_axes(params)
    tables = dict[Table, dict[tuple, jax.Array]]()
    for (path, leaf), axis in zip(
        jax.tree_util.tree_flatten_with_path(params)[0], jax.tree.leaves(axes), strict=True
    ):
        tables.setdefault(table_of(path), {})[path] = jnp.moveaxis(leaf, max(axis, 0), 0)
    fetched = dict[tuple, jax.Array]()

    def take(
        group: str, feature: Feature, ids: jax.Array, columns: Any = ()
    ) -> tuple[jax.Array, Any]:
        table = (group, feature.name)
        if table not in layouts:
            return ids, columns
        exchange = exchanges[table] = Exchange(ids, layouts[table])
        leaves = tables[table]
        rows, columns = exchange.fetch((list(leaves.values()), columns))
        fetched.update(zip(leaves, rows, strict=True))
        return exchange.places(ids), columns

    def take_values(group: str, feature: Feature, values: FeatureValues) -> FeatureValues:
        if isinstance(values, MultiValued):
            return values._replace(values=take(group, feature, jnp.asarray(values.values))[0])
        return take(group, feature, jnp.asarray(values))[0]

    def take_all(group: str, values: dict[str, FeatureValues]) -> dict[str, FeatureValues]:
        members = getattr(schema, group)
        return {f.name: take_values(group, f, values[f.name]) for f in members if f.name in values}

    id_arrays = [batch.history, batch.item] + ([] if negatives is None else [negatives])
    item_ids = jnp.concatenate([jnp.asarray(ids).reshape(-1) for ids in id_arrays])
    item_ids, items = take("item", schema.item[0], item_ids, features.item)
    parts = jnp.split(item_ids, np.cumsum([ids.size for ids in id_arrays])[:-1])
    placed = [part.reshape(ids.shape) for part, ids in zip(parts, id_arrays, strict=True)]
    batch = _with_statistics(config, schema, features, batch, items, placed)
    user, users = take("user", schema.user[0], jnp.asarray(batch.user), features.user)
    found = FeatureTables(take_all("item", items), take_all("user", users), features.statistics)
    context = take_all("context", batch.context)
    batch = batch._replace(
        history=placed[0], item=placed[1], user=user, context=context, shown=None
    )

    def put(path: tuple, leaf: jax.Array, axis: int) -> jax.Array:
        return leaf if axis < 0 else jnp.moveaxis(fetched[path], 0, axis)

    params = jax.tree_util.tree_map_with_path(put, params, axes)
    sizes = {table: exchange.size for table, exchange in exchanges.items()}
    compact = compact_schema(schema, sizes)
    placed_negatives = None if negatives is None else placed[2]
    return SplitLookUps(compact, found, batch, placed_negatives, params, exchanges)


def _with_statistics(
    config: ModelConfig,
    schema: Schema,
    features: FeatureTables,
    batch: Batch,
    items: dict[str, FeatureValues],
    placed: list[jax.Array],
) -> Batch:
    """Return the batch with its statistics; ``items`` are features of the rows at ``placed``."""
    if not config.statistics:
        return batch
    ids = [jnp.asarray(part) for part in (batch.history, batch.item)]
    of_history, of_candidate = (
        {**gather(place, items, "item"), "item": raw}
        for place, raw in zip(placed, ids, strict=False)
    )
    own = None if batch.own is None else jnp.asarray(batch.own)
    fold = None if batch.fold is None else jnp.asarray(batch.fold)
    lengths = jnp.asarray(batch.lengths)
    inputs = inputs_of_values(schema, features, of_candidate, of_history, lengths, own, fold)
    return batch._replace(statistics=inputs, own=None, fold=None)


def items_drawn(
    layout: Layout | None, sampler: Any, columns: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the entries ``keep`` and ``alias`` of an alias table at some of its columns."""
    if layout is None:
        return sampler.keep[columns], sampler.alias[columns]
    exchange = Exchange(columns, layout)
    places = exchange.places(columns)
    keep, alias = exchange.fetch((sampler.keep, sampler.alias))
    return keep[places], alias[places]
