"""Placement of a run on several devices: batches and large tables sharded, the rest replicated.

A large table, its optimizer slots and other arrays with a row for each of its values are in the
order of a :class:`~dien_jax.steps.placement.Layout`, and each device has a consecutive part.
Checkpoints store these arrays unchanged. On one device rows are in the order of the vocabulary.

Dimensions: n devices, R rows of a table, Q slots of it on each device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dien_jax.config.settings import Config, MeshConfig
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.devices.exchange import Exchange
from dien_jax.devices.mesh import AXIS, devices_in_use
from dien_jax.devices.split_rows import SplitGather, split_update
from dien_jax.model.embeddings import EMBEDDING_INITIAL
from dien_jax.model.tower import Part
from dien_jax.steps.negatives import RandomColumns, Sampler
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.placement import Layout, OneDevice, SavedTable, Update
from dien_jax.steps.rows import DENSE_ROWS, Table, table_of
from dien_jax.utils.processes import count

ITEMS: Table = ("item", "item")


class Placement(OneDevice):
    """Placement of the arrays of a run on n devices, of one process or of several.

    Methods without a docstring do what those of :class:`OneDevice` document.

    >>> from dien_jax import Loader, open_dataset, preset
    >>> from dien_jax.devices import Placement
    >>> from dien_jax.steps import create_state, make_train_step, training_tables
    >>> config, dataset = preset("base_model"), open_dataset("data")
    >>> loader = Loader(dataset, "train", config.train)
    >>> place = Placement(1, dataset.schema)  # as many devices as there are
    >>> state = create_state(config, dataset.schema, loader.steps_per_epoch, 0, place)
    >>> tables = training_tables(dataset, config, place)
    >>> step = make_train_step(config, dataset.schema, loader.steps_per_epoch, place)
    >>> state, metrics = step(state, tables, place.put_batch(loader.batch(0, 0)))
    >>> int(state.step)
    1

    Args:
      devices: devices of all processes, with the same number of each, or their number n.
      schema: features, which decide the tables that are sharded.
      dense_rows: maximum number of rows of a replicated table, see
        :func:`~dien_jax.steps.rows.large_tables`; checkpoints depend on it.

    Attributes:
      mesh: n devices in one axis, ``AXIS``; those of a process are adjacent, as are its rows of a
        batch.
    """

    axis = AXIS

    def __init__(
        self, devices: int | Sequence[jax.Device], schema: Schema, dense_rows: int = DENSE_ROWS
    ) -> None:
        if isinstance(devices, int):
            devices = devices_in_use(MeshConfig(devices), devices)
        super().__init__(schema, len(devices), dense_rows)
        self.processes = count()
        self.part = (jax.process_index(), self.processes)
        options: Any = {"axis_types": (AxisType.Auto,)}
        if self.processes == 1:
            self.mesh = jax.make_mesh((self.devices,), (AXIS,), devices=devices, **options)
        else:
            self.mesh = Mesh(np.array(devices), (AXIS,), **options)
        self._whole, self._split = (NamedSharding(self.mesh, spec) for spec in (P(), P(AXIS)))

    # How a step reads and updates rows.

    def gather(self, params: Any, by_row: frozenset[Table] = frozenset()) -> SplitGather:
        """Return the gather that fetches the rows that a batch looks up from their owners."""
        del by_row
        return SplitGather(self.layouts, params)

    def make_update(self, config: Config, steps_per_epoch: int, part: Part) -> Update:
        """Return the function that updates a part's parameters by gradients of all devices."""
        optimizer = make_optimizer(config, steps_per_epoch, part)
        is_dense = not self.tables_by_row(config.optim.embedding_update)
        return split_update(optimizer, is_dense=is_dense)

    def drawn(self, sampler: Sampler, random: RandomColumns) -> jax.Array:
        """Return the items sampled from an alias table, which is sharded as items are."""
        if (layout := self.layouts.get(ITEMS)) is None:
            return super().drawn(sampler, random)
        exchange = Exchange(random.column, layout)
        places = exchange.places(random.column)
        keep, alias = exchange.fetch((sampler.keep, sampler.alias))
        return jnp.where(random.uniform < keep[places], random.column, alias[places])

    def total(self, tree: Any) -> Any:
        return jax.lax.psum(tree, AXIS)

    def mapped(
        self, function: Callable[..., Any], inputs: tuple[str, ...], outputs: Any
    ) -> Callable[..., Any]:
        """Return ``jax.shard_map`` of a function; see :meth:`OneDevice.mapped`."""
        of_items = P(AXIS) if ITEMS in self.layouts else P()
        fixed = {"batch": P(AXIS), "draws": P(None, AXIS), "items": of_items, "whole": P()}
        of_tree = {"state": self.specs, "features": self._feature_specs}

        def call(*arguments: Any) -> Any:
            named = zip(inputs, arguments, strict=True)
            specs = fixed | {kind: of_tree[kind](tree) for kind, tree in named if kind in of_tree}
            in_specs = tuple(specs[kind] for kind in inputs)
            out_specs = jax.tree.map(specs.__getitem__, outputs)
            mapped = jax.shard_map(
                function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
            )
            return mapped(*arguments)

        return call

    def specs(self, tree: Any) -> Any:
        """Return the partition spec of every array of parameters, statistics or slots."""
        return self._map_tables(lambda *_: P(AXIS), tree, lambda _: P())

    def _feature_specs(self, features: FeatureTables) -> FeatureTables:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: P(AXIS) if self._layout_of_feature(path) else P(), features
        )

    def _layout_of_feature(self, path: tuple) -> Layout | None:
        """Return the layout of an array of feature tables; counts and factors have none."""
        group = "item" if path[0].name == "vector_row" else path[0].name
        return self.layouts.get((group, group))

    # Where arrays are.

    def initial(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        """Initialize an embedding table; each device draws its rows, as one device would draw them.

        Random bits of an entry depend only on its index in the flat array, so a larger table starts
        with the R rows of this one.
        """
        rows, width = shape
        if rows <= max(self.dense_rows, 1):  # a number has a single row
            return EMBEDDING_INITIAL(key, shape, dtype)
        layout = Layout(rows, self.devices)
        # In the shape of the layout, so that each device draws only its part.
        place, stripe = layout.used // layout.stripes, layout.stripes
        drawn = jax.random.uniform(key, (place, stripe, width), dtype, -1)
        # The standard deviation of EMBEDDING_INITIAL, for the table without filler.
        drawn = drawn * jnp.sqrt(3 * jnp.array(1 / ((rows + width) / 2), dtype))
        row = jnp.arange(place)[:, None] * stripe + jnp.arange(stripe)[None, :]
        drawn = jnp.where(row[..., None] < rows, drawn, 0)
        return _SplitRows(jnp.zeros((rows, width), dtype), names=(), slots=layout.ordered(drawn))

    def split(self, params: Any) -> Any:
        def split(path: tuple, leaf: Any) -> Any:
            if isinstance(leaf, _SplitRows):
                return leaf.slots
            layout = self.layouts.get(table_of(path))
            return leaf if layout is None else layout.split(leaf)

        return jax.tree_util.tree_map_with_path(
            split, params, is_leaf=lambda leaf: isinstance(leaf, _SplitRows)
        )

    def shardings(self, shapes: Any) -> Any:
        return self._map_tables(lambda *_: self._split, shapes, lambda _: self._whole)

    def on_each(self, tree: Any) -> Any:
        return multihost_utils.host_local_array_to_global_array(tree, self.mesh, P())

    def _put(self, array: Any, layout: Layout | None) -> jax.Array:
        array = np.asarray(array)
        if layout is None:
            return self.on_each(array)
        slots = layout.split(array)
        return jax.make_array_from_callback(slots.shape, self._split, slots.__getitem__)

    def put_features(self, features: FeatureTables) -> FeatureTables:
        return jax.tree_util.tree_map_with_path(
            lambda path, array: self._put(array, self._layout_of_feature(path)), features
        )

    def put_items(self, array: Any) -> jax.Array:
        return self._put(array, self.layouts.get(ITEMS))

    def put_batch(self, batch: Any) -> Any:
        """Shard a batch over the devices by rows; each process passes its own part."""
        if self.processes == 1:
            return jax.device_put(batch, self._split)
        put = functools.partial(jax.make_array_from_process_local_data, self._split)
        return jax.tree.map(put, batch)

    def like(self, tree: Any) -> Any:
        def whole(layout: Layout, leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((layout.rows, *leaf.shape[1:]), leaf.dtype)

        return self._map_tables(
            whole, tree, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        )

    def put(self, tree: Any, like: Any) -> Any:
        """Put parameters, statistics or slots in one device's form on the devices.

        With several processes, only process 0 passes ``tree``, without keys; the others pass None.
        """
        if self.processes > 1:
            if tree is None:
                tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.like(like))
            of_first = multihost_utils.broadcast_one_to_all  # one array at a time, for the memory
            tree = jax.tree.map(lambda leaf: of_first(np.asarray(leaf)), tree)
        return self._map_tables(lambda layout, leaf: self._put(leaf, layout), tree, self.on_each)

    def readable(self, tree: Any) -> Any:
        if self.processes == 1:
            return tree
        return jax.jit(lambda tree: tree, out_shardings=self._whole)(tree)

    def slots(self, table: Table, rows: Any) -> Any:
        layout = self.layouts.get(table)
        return rows if layout is None else layout.slots(rows)

    # What checkpoints hold.

    def to_save(self, tree: Any) -> Any:
        """Return the arrays of the devices, which checkpoints hold unchanged."""
        return tree

    def to_restore(self, tree: Any) -> Any:
        """Return shapes with their shardings, and :class:`SavedTable` in place of large tables."""
        return self._map_tables(
            lambda layout, leaf: SavedTable(leaf.shape, leaf.dtype, layout.used, self._split),
            tree,
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._whole),
        )

    def restored(self, tree: Any, like: Any) -> Any:
        """Return arrays read for :meth:`to_restore`, which are on the devices already."""
        del like
        return tree


class _SplitRows(nn.Partitioned):
    """A sharded table among fresh parameters, which Flax shows to modules in one device's form.

    Its ``value`` is zeros. Only the forward pass of initialisation reads it, and the result of that
    is not used.
    """

    slots: Any = None
