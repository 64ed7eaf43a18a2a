"""Placement of the arrays of a run: on one device or, in a subclass, on several.

:class:`OneDevice` has all placement operations of steps, state and checkpoints.
:class:`dien_jax.devices.Placement` implements them for several devices.

Checkpoints store the rows of large tables in an order that splits into consecutive parts for any
number of devices; see :class:`Layout`.

Dimensions: n devices, R rows of a table, Q slots of it on each device.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.embeddings import EMBEDDING_INITIAL
from dien_jax.model.layers import Axis
from dien_jax.model.tower import Part
from dien_jax.steps.negatives import RandomColumns, Sampler, drawn
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.rows import (
    DENSE_ROWS,
    RowGather,
    Table,
    automatic_update,
    large_tables,
    put_rows,
    table_of,
)

STRIPES = 256
"""Largest number of stripes of a table."""


class Layout(NamedTuple):
    """Order of the R ``rows`` of a large table in checkpoints, and its split over n ``devices``.

    Row r is entry ``r // s`` of stripe ``r mod s``, and stripes follow each other: this spreads
    popular values, whose rows are neighbours, over all devices. The number s of stripes depends on
    R alone. A stripe may end with a filler row, and filler may follow the last one: zeros.
    """

    rows: int
    devices: int = 1

    @property
    def stripes(self) -> int:
        """The number of stripes, a power of two."""
        return min(STRIPES, 1 << (math.isqrt(self.rows).bit_length() - 1))

    @property
    def used(self) -> int:
        """The number of slots in stripes."""
        return self.stripes * -(-self.rows // self.stripes)

    @property
    def owned(self) -> int:
        """Q, the slots of one device."""
        return -(-self.used // self.devices)

    def slots(self, rows: Any) -> Any:
        """Return the slots of rows: their positions in this order."""
        return rows % self.stripes * (self.used // self.stripes) + rows // self.stripes

    def split(self, array: Any) -> Any:
        """Reorder an array ``[R, ...]`` of NumPy or JAX to slots, ``[n Q, ...]``."""
        rows = _padded(array, self.used)
        return self.ordered(rows.reshape(-1, self.stripes, *array.shape[1:]))

    def ordered(self, parts: Any) -> Any:
        """Reorder rows ``[entries, stripes, ...]`` to slots, ``[n Q, ...]``."""
        slots = parts.swapaxes(0, 1).reshape(self.used, *parts.shape[2:])
        return _padded(slots, self.owned * self.devices)

    def joined(self, array: np.ndarray) -> np.ndarray:
        """Return the rows ``[R, ...]`` of an array of slots, on the host."""
        return array[self.slots(np.arange(self.rows))]


def _padded(array: Any, rows: int) -> Any:
    pad = np.pad if isinstance(array, np.ndarray) else jnp.pad
    return pad(array, [(0, rows - array.shape[0])] + [(0, 0)] * (array.ndim - 1))


@dataclass(frozen=True)
class SavedTable:
    """A large table in a checkpoint, whose files have at least the first ``used`` slots."""

    shape: tuple[int, ...]
    dtype: Any
    used: int
    sharding: Any = None


Update = Callable[[Any, Any, Any, Any], tuple[Any, Any, jax.Array]]
"""``update(whole, compact, gather, gradients)`` to new parameters, slots and gradient norm.

``whole`` are parameters and slots, ``compact`` the same with gathered rows in place of tables, and
``gradients`` are those of the parameters in ``compact``."""


class OneDevice:
    """The arrays of a run on the default device.

    Embedding tables of at most ``dense_rows`` rows are small, the others are large.

    Attributes:
      devices: number n of devices.
      axis: name of the mesh axis over which a batch is sharded; None on one device.
      layouts: the layout of each large table.
      part: index of this process and number of processes; it has that part of every batch.

    Methods that have work on several devices only return their argument here:

    - ``total``: sums over devices;
    - ``split``: fresh parameters in the form that devices hold;
    - ``on_each``: arrays on every device, the same ones in all processes;
    - ``put_batch``: a batch on the devices;
    - ``like``: the shapes of parameters, statistics or slots in one device's form;
    - ``readable``: arrays that this process can read as a whole.
    """

    axis: Axis = None
    part = (0, 1)

    def _unchanged(self, tree: Any) -> Any:
        return tree

    total = split = on_each = put_batch = like = readable = _unchanged

    def __init__(self, schema: Schema, devices: int = 1, dense_rows: int = DENSE_ROWS) -> None:
        self.schema, self.devices, self.dense_rows = schema, devices, dense_rows
        large = large_tables(schema, dense_rows)
        self.layouts = {table: Layout(rows, devices) for table, rows in large.items()}

    # How a step reads and updates rows.

    def tables_by_row(self, update: str) -> frozenset[Table]:
        """Return the tables that a step updates by row: only rows that its batch looks up."""
        update = automatic_update(self.schema) if update == "auto" else update
        return frozenset() if update == "dense" else frozenset(self.layouts)

    def gather(self, params: Any, by_row: frozenset[Table] = frozenset()) -> Any:
        """Return the gather of the rows that a batch looks up; see :class:`RowGather`."""
        del params
        return RowGather(by_row)

    def make_update(self, config: Config, steps_per_epoch: int, part: Part) -> Update:
        """Return the function that updates the parameters of a part by their gradients."""
        optimizer = make_optimizer(config, steps_per_epoch, part)

        def update(whole: Any, compact: Any, gather: RowGather, gradients: Any) -> Any:
            params, slots = compact
            params, slots, norm = optimizer.update(params, slots, gradients)
            return *put_rows(whole, (params, slots), gather.rows), norm

        return update

    def drawn(self, sampler: Sampler, random: RandomColumns) -> jax.Array:
        """Return the items of draws from an alias table."""
        return drawn(sampler, random)

    def mapped(
        self, function: Callable[..., Any], inputs: tuple[str, ...], outputs: Any
    ) -> Callable[..., Any]:
        """Return a function of whole arrays from one that each device applies to its shards.

        ``inputs`` and ``outputs`` are kinds: ``state`` (parameters, statistics and slots),
        ``features``, ``items`` (arrays with a row for each item), ``batch``, ``draws`` (random
        numbers whose second axis is the batch) and ``whole``.
        """
        del inputs, outputs
        return function

    # Where arrays are.

    def initial(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        """Initialize an embedding table."""
        return EMBEDDING_INITIAL(key, shape, dtype)

    def shardings(self, shapes: Any) -> Any:
        """Return the shardings of parameters, statistics and slots; None on one device."""
        del shapes

    def put_features(self, features: FeatureTables) -> FeatureTables:
        """Put feature tables on the devices, from the host."""
        return jax.tree.map(jnp.asarray, features)

    def put_items(self, array: Any) -> jax.Array:
        """Put an array with a row for each item on the devices, from the host."""
        return jnp.asarray(array)

    def put(self, tree: Any, like: Any) -> Any:
        """Put parameters, statistics or slots in one device's form on the devices of ``like``."""
        return placed_like(tree, like)

    def slots(self, table: Table, rows: Any) -> Any:
        """Return the positions of a table's rows in its array."""
        del table
        return rows

    # What checkpoints hold.

    def to_save(self, tree: Any) -> Any:
        """Return arrays as a checkpoint holds them: large tables in the order of a layout."""
        return self._map_tables(lambda layout, leaf: layout.split(np.asarray(leaf)), tree)

    def to_restore(self, tree: Any) -> Any:
        """Return arrays or shapes with :class:`SavedTable` in place of large tables."""

        def saved(layout: Layout, leaf: Any) -> SavedTable:
            return SavedTable((layout.used, *leaf.shape[1:]), leaf.dtype, layout.used)

        return self._map_tables(saved, tree)

    def in_rows(self, tree: Any) -> Any:
        """Return arrays read for :meth:`to_restore` with rows in the order of the vocabulary."""
        return self._map_tables(Layout.joined, tree)

    def _map_tables(
        self,
        of_table: Callable[[Layout, Any], Any],
        tree: Any,
        of_other: Callable[[Any], Any] = lambda leaf: leaf,
    ) -> Any:
        """Apply a function of layout and array to large tables, and another to other arrays."""

        def mapped(path: tuple, leaf: Any) -> Any:
            layout = self.layouts.get(table_of(path))
            return of_other(leaf) if layout is None else of_table(layout, leaf)

        return jax.tree_util.tree_map_with_path(mapped, tree)

    def restored(self, tree: Any, like: Any) -> Any:
        """Return arrays read for :meth:`to_restore`, on the devices of ``like``.

        Arrays are replaced one by one, so that there is never a second copy of all of them. An
        array that was not read is None, and stays so.
        """
        others, structure = jax.tree_util.tree_flatten_with_path(like)
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
        del tree
        for place, (path, other) in enumerate(others):
            if leaves[place] is not None:
                layout = self.layouts.get(table_of(path))
                rows = leaves[place] if layout is None else layout.joined(leaves[place])
                leaves[place] = placed_like(rows, other)
        return jax.tree.unflatten(structure, leaves)

    def bytes_of_device(self) -> int | None:
        """Return the memory of one of the devices; None where it is unknown.

        CPU devices of a process share the machine's memory.
        """
        device = jax.local_devices()[0]
        if device.platform != "cpu":
            return (device.memory_stats() or {}).get("bytes_limit")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return memory // max(1, self.devices // self.part[1])


def is_key(leaf: Any) -> bool:
    """Return whether an array, or its shape, has typed PRNG keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def placed_like(tree: Any, others: Any) -> Any:
    """Put arrays on the devices of others, arrays or shapes, and committed only if these are.

    Programs are compiled again for arrays that are committed to a device.
    """

    def placed(array: Any, other: Any) -> jax.Array:
        is_committed = isinstance(other, jax.Array) and other.committed
        return jax.device_put(array, other.sharding if is_committed else None)

    return jax.tree.map(placed, tree, others)
