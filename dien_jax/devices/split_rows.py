"""Look-ups and updates of rows of tables that are sharded over devices, in ``jax.shard_map``.

Rows are fetched from their owners. Owners sum the gradients of a row and update it: a dense update
changes every row of a device, a lazy update only the rows that this batch looked up. The global
norm of gradients counts every parameter once.

Dimensions: U fetched rows of a table, W rows whose gradients an owner gets, Q slots of an owner.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dien_jax.devices.exchange import Exchange, Round
from dien_jax.devices.mesh import AXIS
from dien_jax.steps.optimizer import Optimizer
from dien_jax.steps.placement import Layout, Update
from dien_jax.steps.rows import Table, put_rows, table_of, take_rows

_at_paths = jax.tree_util.tree_map_with_path


class SplitGather:
    """:class:`~dien_jax.steps.rows.RowGather` with an exchange in place of each gather.

    Rows of ``params`` are fetched together with those of columns.
    """

    def __init__(self, layouts: Mapping[Table, Layout], params: Any) -> None:
        self._layouts, self.tables = layouts, frozenset(layouts)
        self.exchanges = dict[Table, Exchange]()
        self._params = jax.tree_util.tree_leaves_with_path(params)
        self._fetched = dict[tuple, jax.Array]()

    def __call__(self, table: Table, size: int, ids: jax.Array, columns: Any) -> tuple:
        """Return ids as indices into the fetched rows, and columns ``[U, ...]``."""
        del size
        exchange = self.exchanges[table] = Exchange(ids, self._layouts[table])
        leaves = {path: leaf for path, leaf in self._params if table_of(path) == table}
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


def split_update(optimizer: Optimizer, *, is_dense: bool) -> Update:
    """Return the function that updates a part's parameters by the gradients of each device.

    These are gradients of the device's share of the loss, with respect to parameters with fetched
    rows in place of sharded tables.
    """

    def update(whole: Any, compact: Any, gather: SplitGather, gradients: Any) -> Any:
        del compact
        dense, tables = dict[tuple, jax.Array](), dict[Table, dict[tuple, jax.Array]]()
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
            table = table_of(path)
            (tables.setdefault(table, {}) if table in gather.exchanges else dense)[path] = leaf
        dense = dict(zip(dense, jax.lax.psum([*dense.values()], AXIS), strict=True))
        change = of_all_rows if is_dense else by_rows
        changed, squares = change(whole, gather.exchanges, dense, tables)
        total = optax.tree.norm([*dense.values()], squared=True)
        if tables:
            total = total + jax.lax.psum(squares, AXIS)
        return *changed, jnp.sqrt(total)

    def of_all_rows(whole: Any, exchanges: Any, dense: Any, tables: Any) -> tuple[Any, jax.Array]:
        rows = dict[tuple, jax.Array]()
        for table, leaves in tables.items():
            sums = exchanges[table].summed([*leaves.values()])
            rows.update(zip(leaves, sums, strict=True))
        return advanced(whole, dense | rows), optax.tree.norm([*rows.values()], squared=True)

    def by_rows(whole: Any, exchanges: Any, dense: Any, tables: Any) -> tuple[Any, jax.Array]:
        def only(tree: Any, table: Table | None) -> Any:
            """Return the leaves of a table, or those of no table, and None for all others."""

            def of_table(path: tuple, leaf: Any) -> Any:
                found = table_of(path)
                return leaf if (found if found in tables else None) == table else None

            return _at_paths(of_table, tree)

        def with_rows(table: Table, asked: Round, carry: tuple[Any, jax.Array]) -> Any:
            """Update the rows that came in a round, and add the squares of their gradients."""
            mine, squares = carry
            rows, sums = exchanges[table].received(asked, [*tables[table].values()])
            before = _joined(fixed, take_rows(mine, {table: rows}))
            changed = advanced(before, dense | dict(zip(tables[table], sums, strict=True)))
            mine = put_rows(mine, only(changed, table), {table: rows})
            return mine, squares + optax.tree.norm(sums, squared=True)

        fixed, squares = only(whole, None), jnp.zeros((), jnp.float32)
        parts = [advanced(fixed, dense)]
        for table in tables:
            carry, round_of = (only(whole, table), squares), functools.partial(with_rows, table)
            mine, squares = exchanges[table].over_rounds(round_of, carry)
            parts.append(mine)
        return _joined(*parts), squares

    def advanced(state: tuple[Any, Any], gradients: dict[tuple, jax.Array]) -> tuple[Any, Any]:
        """Return updated parameters and slots, given gradients by path."""
        params, slots = state
        by_path = _at_paths(lambda path, _: gradients[path], params)
        return optimizer.update(params, slots, by_path)[:2]

    return update


def _joined(*parts: Any) -> Any:
    """Join trees of one structure; each leaf is in one of them, and None in the others."""

    def present(*leaves: Any) -> Any:
        return next((leaf for leaf in leaves if leaf is not None), None)

    return jax.tree.map(present, *parts, is_leaf=lambda leaf: leaf is None)
