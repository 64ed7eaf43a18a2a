"""Look-ups and updates of rows of tables that are sharded over devices, in ``jax.shard_map``.

Rows are fetched from their owners. Owners sum the gradients of a row and update it: a dense update
changes every row of a device, a lazy update only the rows that this batch looked up. The global
norm of gradients counts every parameter once.

Dimensions: U fetched rows of a table, W rows whose gradients an owner gets, Q slots of an owner.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dien_jax.devices.exchange import Exchange, Round
from dien_jax.devices.mesh import AXIS
from dien_jax.steps.placement import Layout, Update
from dien_jax.steps.rows import Rows, Table, put_rows, table_of, take_rows

_at_paths = jax.tree_util.tree_map_with_path


class SplitGather:
    """:class:`~dien_jax.steps.rows.RowGather` with an exchange in place of each gather.

    Rows of ``params`` are fetched together with those of columns.
    """

    def __init__(self, layouts: Mapping[Table, Layout], params: Any) -> None:
        self._layouts, self.tables = layouts, frozenset(layouts)
        self.exchanges = dict[Table, Exchange]()
        self._leaves = dict[Table, dict[tuple, jax.Array]]()
        self._fetched = dict[tuple, jax.Array]()
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            self._leaves.setdefault(table_of(path), {})[path] = leaf

    def __call__(self, table: Table, size: int, ids: jax.Array, columns: Any) -> tuple:
        """Return ids as indices into the fetched rows, and columns ``[U, ...]``."""
        del size
        exchange = self.exchanges[table] = Exchange(ids, self._layouts[table])
        leaves = self._leaves.get(table, {})
        rows, columns = exchange.fetch(([*leaves.values()], columns))
        self._fetched.update(zip(leaves, rows, strict=True))
        return exchange.places(ids), columns

    def compact(self, params: Any, slots: Any) -> tuple[Any, Any]:
        """Return parameters with the fetched rows in place of tables, and unchanged slots."""
        return _at_paths(lambda path, leaf: self._fetched.get(path, leaf), params), slots

    def metrics(self) -> dict[str, jax.Array]:
        """Return the number of exchanges of rows beyond the first one of each table."""
        rounds = [exchange.further for exchange in self.exchanges.values()]
        return {"further_rounds": sum(rounds, jnp.zeros((), jnp.int32)).astype(jnp.float32)}


def split_update(optimizer: optax.GradientTransformation, *, is_dense: bool) -> Update:
    """Return the function that updates a part's parameters by the gradients of each device.

    These are gradients of the device's share of the loss, with respect to parameters with fetched
    rows in place of sharded tables.
    """

    def update(whole: Any, compact: Any, gather: SplitGather, gradients: Any) -> Any:
        del compact
        named = jax.tree_util.tree_flatten_with_path(gradients)[0]
        dense, tables = dict[tuple, jax.Array](), dict[Table, dict[tuple, jax.Array]]()
        for path, leaf in named:
            if (table := table_of(path)) in gather.exchanges:
                tables.setdefault(table, {})[path] = leaf
            else:
                dense[path] = leaf
        summed = dict(zip(dense, jax.lax.psum([*dense.values()], AXIS), strict=True))
        step = _Step(optimizer, whole, gather.exchanges, summed, tables)
        return step.of_all_rows() if is_dense else step.by_rows()

    return update


@dataclass(frozen=True)
class _Step:
    """The arrays of one update; gradients of dense parameters are summed, those of tables not."""

    optimizer: optax.GradientTransformation
    whole: tuple[Any, Any]
    exchanges: dict[Table, Exchange]
    dense: dict[tuple, jax.Array]
    tables: dict[Table, dict[tuple, jax.Array]]

    def of_all_rows(self) -> tuple[Any, Any, jax.Array]:
        rows = dict[tuple, jax.Array]()
        for table, leaves in self.tables.items():
            sums = self.exchanges[table].summed([*leaves.values()])
            rows.update(zip(leaves, sums, strict=True))
        norm = self._norm([_squares(rows.values())] if rows else [])
        return *self._advanced(self.whole, rows), norm

    def by_rows(self) -> tuple[Any, Any, jax.Array]:
        rows, sums = dict[Table, Rows](), dict[tuple, jax.Array]()
        squares: list[jax.Array] = []
        for table, exchange in self.exchanges.items():
            rows[table], of_table = self._received(table, exchange.first)
            sums |= of_table
            if of_table:
                count = functools.partial(self._with_squares, table)
                squares.append(exchange.later(count, _squares(of_table.values()))[1])
        norm = self._norm(squares)
        before = take_rows(self.whole, rows)
        whole = put_rows(self.whole, self._advanced(before, sums), rows)
        for table in self.exchanges:
            whole = self._with_later_rounds(table, whole, before, sums)
        return *whole, norm

    def _with_later_rounds(
        self, table: Table, whole: Any, before: Any, sums: dict[tuple, jax.Array]
    ) -> Any:
        """Update the rows of a table that came in further rounds, and return the state."""
        paths, structure = jax.tree_util.tree_flatten_with_path(whole)
        places = [index for index, (path, _) in enumerate(paths) if table_of(path) == table]

        def replaced(leaves: list[jax.Array], of_table: list[jax.Array]) -> Any:
            changed = dict(zip(places, of_table, strict=True))
            found = [changed.get(place, leaf) for place, leaf in enumerate(leaves)]
            return jax.tree.unflatten(structure, found)

        def again(asked: Round, leaves: list[jax.Array]) -> list[jax.Array]:
            rows, of_table = self._received(table, asked)
            state = replaced(jax.tree.leaves(before), leaves)
            changed = self._advanced(take_rows(state, {table: rows}), sums | of_table)
            put = jax.tree.leaves(put_rows(state, changed, {table: rows}))
            return [put[place] for place in places]

        whole_leaves = [leaf for _, leaf in paths]
        _, leaves = self.exchanges[table].later(again, [whole_leaves[place] for place in places])
        return replaced(whole_leaves, leaves)

    def _received(self, table: Table, asked: Round) -> tuple[Rows, dict[tuple, jax.Array]]:
        """Return the rows of a round, and their gradients by path."""
        leaves = self.tables.get(table, {})
        rows, sums = self.exchanges[table].received(asked, [*leaves.values()])
        return rows, dict(zip(leaves, sums, strict=True))

    def _with_squares(self, table: Table, asked: Round, total: jax.Array) -> jax.Array:
        _, sums = self._received(table, asked)
        return total + _squares(sums.values())

    def _norm(self, of_rows: list[jax.Array]) -> jax.Array:
        """Return the global norm, given sums of squares over this device's rows."""
        total = _squares(self.dense.values())
        if of_rows:
            total = total + jax.lax.psum(sum(of_rows[1:], of_rows[0]), AXIS)
        return jnp.sqrt(total)

    def _advanced(self, state: tuple[Any, Any], rows: dict[tuple, jax.Array]) -> tuple[Any, Any]:
        """Return updated parameters and slots, given the gradients of rows by path."""
        params, slots = state

        def gradient(path: tuple, leaf: jax.Array) -> jax.Array:
            del leaf
            return self.dense[path] if path in self.dense else rows[path]

        updates, slots = self.optimizer.update(_at_paths(gradient, params), slots, params)
        return optax.apply_updates(params, updates), slots


def _squares(leaves: Iterable[jax.Array]) -> jax.Array:
    """Return the sum of squares of gradients."""
    parts = [(leaf**2).sum() for leaf in leaves]
    return sum(parts[1:], parts[0])
