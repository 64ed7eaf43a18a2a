"""The update of parameters whose tables are split over devices, inside ``jax.shard_map``.

Owners sum the gradients of a row and update it. A dense update changes all rows of a device, others
those that came. The global norm of gradients counts every parameter once.

Dimensions: U rows fetched of a table, W rows that came to an owner, Q rows that it has.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.model.logistic_regression import FITTED
from dien_jax.steps.embedding_rows import Rows, Table, table_of, tables_by_row
from dien_jax.steps.exchange import Exchange, Round
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.sharding import AXIS, Placement

_at_paths = jax.tree_util.tree_map_with_path


class SplitUpdate:
    """One step of the optimizer, from the gradients that each device has.

    Args:
      config, schema, steps_per_epoch: as for :func:`~dien_jax.steps.train.make_train_step`.
      placement: the tables that are split.
    """

    def __init__(
        self, config: Config, schema: Schema, steps_per_epoch: int, placement: Placement
    ) -> None:
        self._optimizer = make_optimizer(config, schema, steps_per_epoch, clips=False)
        self._clip_norm = config.optim.clip_norm
        self._is_dense = not tables_by_row(config.optim.embedding_update, schema)
        self._placement = placement

    def __call__(
        self, params: Any, slots: Any, exchanges: dict[Table, Exchange], gradients: Any
    ) -> tuple[Any, Any, jax.Array]:
        """Return new parameters and slots, and the global norm of the gradients.

        ``gradients`` are of this device's share of the loss, by parameters whose split tables are
        the rows fetched.
        """
        named = jax.tree_util.tree_flatten_with_path(gradients)[0]
        dense, tables = dict[tuple, jax.Array](), dict[Table, dict[tuple, jax.Array]]()
        for path, leaf in named:
            if _is_fixed(path):
                continue
            if (table := table_of(path)) in exchanges:
                tables.setdefault(table, {})[path] = leaf
            else:
                dense[path] = leaf
        summed = dict(zip(dense, jax.lax.psum([*dense.values()], AXIS), strict=True))
        step = _Step(self, params, slots, exchanges, summed, tables)
        return step.dense() if self._is_dense else step.by_rows()

    def advance(self, params: Any, slots: Any, gradients: Any) -> tuple[Any, Any]:
        """Return updated parameters and slots, of arrays that all have the same rows."""
        updates, slots = self._optimizer.update(gradients, slots, params)
        return optax.apply_updates(params, updates), slots

    def squares(self, leaves: Iterable[jax.Array]) -> jax.Array:
        """Return the sum of squares of gradients."""
        parts = [(leaf**2).sum() for leaf in leaves]
        return sum(parts[1:], parts[0])

    def clipped(self, leaf: jax.Array, norm: jax.Array) -> jax.Array:
        """Return a gradient as ``optax.clip_by_global_norm`` scales it."""
        if self._clip_norm is None:
            return leaf
        return jnp.where(norm < self._clip_norm, leaf, leaf / norm * self._clip_norm)

    def take(self, tree: Any, rows: dict[Table, Rows]) -> Any:
        """Return parameters and slots with some rows of tables in place of all."""

        def take(path: tuple, leaf: jax.Array, axis: int) -> jax.Array:
            taken = rows.get(table_of(path))
            if axis < 0 or taken is None:
                return leaf
            return leaf[taken.read]

        return _at_paths(take, tree, self._placement.row_axes(tree))

    def put(self, whole: Any, changed: Any, rows: dict[Table, Rows]) -> Any:
        """Put rows that :meth:`take` took of ``whole`` back, after an update."""
        options: Any = {"mode": "drop", "unique_indices": True, "indices_are_sorted": True}

        def put(path: tuple, leaf: jax.Array, new: jax.Array, axis: int) -> jax.Array:
            taken = rows.get(table_of(path))
            if axis < 0 or taken is None:
                return new
            if _is_fixed(path):
                return leaf
            return leaf.at[taken.write].set(new, **options)

        return _at_paths(put, whole, changed, self._placement.row_axes(whole))


class _Step:
    """The arrays of one update; gradients of dense parameters are summed, of tables are not."""

    def __init__(
        self,
        update: SplitUpdate,
        params: Any,
        slots: Any,
        exchanges: dict[Table, Exchange],
        dense: dict[tuple, jax.Array],
        tables: dict[Table, dict[tuple, jax.Array]],
    ) -> None:
        self._update, self._whole = update, (params, slots)
        self._exchanges, self._dense, self._tables = exchanges, dense, tables

    def dense(self) -> tuple[Any, Any, jax.Array]:
        rows = dict[tuple, jax.Array]()
        for table, leaves in self._tables.items():
            sums = self._exchanges[table].summed([*leaves.values()])
            rows.update(zip(leaves, sums, strict=True))
        norm = self._norm(self._update.squares(rows.values()) if rows else None)
        params, slots = self._whole
        params, slots = self._update.advance(params, slots, self._gradients(params, rows, norm))
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
        before = self._update.take(self._whole, rows)
        after = self._update.advance(before[0], before[1], self._gradients(before[0], sums, norm))
        whole = self._update.put(self._whole, after, rows)
        for table, exchange in self._exchanges.items():
            whole = self._with_later_rounds(table, exchange, whole, before, sums, norm)
        return *whole, norm

    def _with_later_rounds(
        self,
        table: Table,
        exchange: Exchange,
        whole: Any,
        before: Any,
        sums: dict[tuple, jax.Array],
        norm: jax.Array,
    ) -> Any:
        """Return the state with the rows of a table updated that came in further rounds."""
        paths, structure = jax.tree_util.tree_flatten_with_path(whole)
        places = [
            index
            for index, (path, _) in enumerate(paths)
            if table_of(path) == table and not _is_fixed(path)
        ]
        others = jax.tree.leaves(before)

        def again(asked: Round, leaves: list[jax.Array]) -> list[jax.Array]:
            rows, of_table = self._received(table, asked)
            current = [*others]
            for place, leaf in zip(places, leaves, strict=True):
                current[place] = leaf
            state = jax.tree.unflatten(structure, current)
            taken = self._update.take(state, {table: rows})
            gradients = self._gradients(taken[0], sums | of_table, norm)
            changed = self._update.advance(taken[0], taken[1], gradients)
            put = jax.tree.leaves(self._update.put(state, changed, {table: rows}))
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

    def _gradients(self, params: Any, rows: dict[tuple, jax.Array], norm: jax.Array) -> Any:
        """Return the tree of all gradients, clipped; zeros for parameters that nothing changes."""

        def gradient(path: tuple, leaf: jax.Array) -> jax.Array:
            if _is_fixed(path):
                return jnp.zeros_like(leaf)
            found = self._dense[path] if path in self._dense else rows[path]
            return self._update.clipped(found, norm)

        return _at_paths(gradient, params)


def _is_fixed(path: tuple) -> bool:
    """Return whether no gradient changes a parameter. Its slots are zeros and stay so."""
    return any(getattr(key, "key", None) in FITTED for key in path[:-1])
