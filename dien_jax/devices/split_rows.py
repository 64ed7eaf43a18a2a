"""Rows of tables that are divided over devices, inside ``jax.shard_map``: look-ups and updates.

Rows are fetched from their owners. Owners sum the gradients of a row and update it: a dense update
changes every row a device holds, a lazy one only the rows that this batch looked up. The global
norm of gradients counts every parameter once.

Dimensions: U rows fetched of a table, W rows that came to an owner, Q rows that it has.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.devices.exchange import Exchange, Round
from dien_jax.devices.mesh import AXIS
from dien_jax.model.tower import Part
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.placement import Layout
from dien_jax.steps.rows import Rows, Table, put_rows, table_of, tables_by_row, take_rows

_at_paths = jax.tree_util.tree_map_with_path


class SplitGather:
    """:class:`~dien_jax.steps.rows.RowGather` with an exchange in place of each gather.

    Rows of ``params`` come with those of columns.
    """

    def __init__(self, layouts: Mapping[Table, Layout], params: Any) -> None:
        self._layouts, self.tables = layouts, frozenset(layouts)
        self.exchanges = dict[Table, Exchange]()
        self._leaves = dict[Table, dict[tuple, jax.Array]]()
        self._fetched = dict[tuple, jax.Array]()
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            self._leaves.setdefault(table_of(path), {})[path] = leaf

    def __call__(self, table: Table, size: int, ids: jax.Array, columns: Any) -> tuple:
        """Return U, ids as places among the rows fetched, and columns ``[U, ...]``."""
        del size
        exchange = self.exchanges[table] = Exchange(ids, self._layouts[table])
        leaves = self._leaves.get(table, {})
        rows, columns = exchange.fetch(([*leaves.values()], columns))
        self._fetched.update(zip(leaves, rows, strict=True))
        return exchange.size, exchange.places(ids), columns

    def compact(self, params: Any, slots: Any) -> tuple[Any, Any]:
        """Return parameters with the rows fetched in place of tables, and the slots as they are."""
        return _at_paths(lambda path, leaf: self._fetched.get(path, leaf), params), slots

    def metrics(self) -> dict[str, jax.Array]:
        """Return the number of exchanges of rows beyond the first one of each table."""
        rounds = [exchange.further for exchange in self.exchanges.values()]
        return {"further_rounds": sum(rounds, jnp.zeros((), jnp.int32)).astype(jnp.float32)}


class SplitUpdate:
    """One step of a part's optimizer, from the gradients that each device has."""

    def __init__(self, config: Config, schema: Schema, steps_per_epoch: int, part: Part) -> None:
        self._optimizer = make_optimizer(config, steps_per_epoch, part)
        self._is_dense = not tables_by_row(config.optim.embedding_update, schema)

    def __call__(
        self, whole: tuple[Any, Any], compact: tuple[Any, Any], gather: SplitGather, gradients: Any
    ) -> tuple[Any, Any, jax.Array]:
        """Return new parameters and slots, and the global norm of the gradients.

        ``gradients`` are of this device's share of the loss, by parameters whose divided tables are
        the rows fetched.
        """
        del compact
        named = jax.tree_util.tree_flatten_with_path(gradients)[0]
        dense, tables = dict[tuple, jax.Array](), dict[Table, dict[tuple, jax.Array]]()
        for path, leaf in named:
            if (table := table_of(path)) in gather.exchanges:
                tables.setdefault(table, {})[path] = leaf
            else:
                dense[path] = leaf
        summed = dict(zip(dense, jax.lax.psum([*dense.values()], AXIS), strict=True))
        step = _Step(self, whole, gather.exchanges, summed, tables)
        return step.dense() if self._is_dense else step.by_rows()

    def advance(self, params: Any, slots: Any, gradients: Any) -> tuple[Any, Any]:
        """Return updated parameters and slots, of arrays that all have the same rows."""
        updates, slots = self._optimizer.update(gradients, slots, params)
        return optax.apply_updates(params, updates), slots

    def squares(self, leaves: Iterable[jax.Array]) -> jax.Array:
        """Return the sum of squares of gradients."""
        parts = [(leaf**2).sum() for leaf in leaves]
        return sum(parts[1:], parts[0])


class _Step:
    """The arrays of one update; gradients of dense parameters are summed, of tables are not."""

    def __init__(
        self,
        update: SplitUpdate,
        whole: tuple[Any, Any],
        exchanges: dict[Table, Exchange],
        dense: dict[tuple, jax.Array],
        tables: dict[Table, dict[tuple, jax.Array]],
    ) -> None:
        self._update, self._whole = update, whole
        self._exchanges, self._dense, self._tables = exchanges, dense, tables

    def dense(self) -> tuple[Any, Any, jax.Array]:
        rows = dict[tuple, jax.Array]()
        for table, leaves in self._tables.items():
            sums = self._exchanges[table].summed([*leaves.values()])
            rows.update(zip(leaves, sums, strict=True))
        norm = self._norm(self._update.squares(rows.values()) if rows else None)
        params, slots = self._whole
        params, slots = self._update.advance(params, slots, self._gradients(params, rows))
        return params, slots, norm

    def by_rows(self) -> tuple[Any, Any, jax.Array]:
        rows, sums = dict[Table, Rows](), dict[tuple, jax.Array]()
        squares = None
        for table, exchange in self._exchanges.items():
            rows[table], of_table = self._received(table, exchange.first)
            sums |= of_table
            if of_table:
                count = functools.partial(self._with_squares, table)
                _, of_rows = exchange.later(count, self._update.squares(of_table.values()))
                squares = of_rows if squares is None else squares + of_rows
        norm = self._norm(squares)
        before = take_rows(self._whole, rows)
        after = self._update.advance(before[0], before[1], self._gradients(before[0], sums))
        whole = put_rows(self._whole, after, rows)
        for table, exchange in self._exchanges.items():
            whole = self._with_later_rounds(table, exchange, whole, before, sums)
        return *whole, norm

    def _with_later_rounds(
        self,
        table: Table,
        exchange: Exchange,
        whole: Any,
        before: Any,
        sums: dict[tuple, jax.Array],
    ) -> Any:
        """Return the state with the rows of a table updated that came in further rounds."""
        paths, structure = jax.tree_util.tree_flatten_with_path(whole)
        places = [index for index, (path, _) in enumerate(paths) if table_of(path) == table]
        others = jax.tree.leaves(before)

        def again(asked: Round, leaves: list[jax.Array]) -> list[jax.Array]:
            rows, of_table = self._received(table, asked)
            current = [*others]
            for place, leaf in zip(places, leaves, strict=True):
                current[place] = leaf
            state = jax.tree.unflatten(structure, current)
            taken = take_rows(state, {table: rows})
            gradients = self._gradients(taken[0], sums | of_table)
            changed = self._update.advance(taken[0], taken[1], gradients)
            put = jax.tree.leaves(put_rows(state, changed, {table: rows}))
            return [put[place] for place in places]

        _, leaves = exchange.later(again, [paths[place][1] for place in places])
        result = [leaf for _, leaf in paths]
        for place, leaf in zip(places, leaves, strict=True):
            result[place] = leaf
        return jax.tree.unflatten(structure, result)

    def _received(self, table: Table, asked: Round) -> tuple[Rows, dict[tuple, jax.Array]]:
        """Return the rows of a round, and their gradients by path."""
        leaves = self._tables.get(table, {})
        rows, sums = self._exchanges[table].received(asked, [*leaves.values()])
        return rows, dict(zip(leaves, sums, strict=True))

    def _with_squares(self, table: Table, asked: Round, total: jax.Array) -> jax.Array:
        _, sums = self._received(table, asked)
        return total + self._update.squares(sums.values())

    def _norm(self, of_rows: jax.Array | None) -> jax.Array:
        total = self._update.squares(self._dense.values())
        if of_rows is not None:
            total = total + jax.lax.psum(of_rows, AXIS)
        return jnp.sqrt(total)

    def _gradients(self, params: Any, rows: dict[tuple, jax.Array]) -> Any:
        """Return the tree of all gradients."""

        def gradient(path: tuple, leaf: jax.Array) -> jax.Array:
            del leaf
            return self._dense[path] if path in self._dense else rows[path]

        return _at_paths(gradient, params)
