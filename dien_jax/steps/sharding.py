"""Placement of a run on several devices: batches by rows, large tables by rows, the rest on each.

Row r of a large table, of its slots and of what else has a row for each of its values is on device
``r % n``, at place ``r // n``: popular values have neighbouring rows, so devices share the load.
The whole array has n Q rows, Q = ceil(R / n), of which device d has those from d Q on; the last may
be filler, which is zeros. On disk and on one device rows are in the order of the vocabulary.

Dimensions: n devices, R rows of a table, Q rows of it that a device has.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dien_jax.config.settings import MeshConfig
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.embeddings import EMBEDDING_INITIAL
from dien_jax.steps import embedding_rows
from dien_jax.steps.embedding_rows import Table, large_tables, table_of
from dien_jax.steps.mesh import AXIS, devices_in_use, mesh_of
from dien_jax.steps.row_blocks import RowBlocks
from dien_jax.steps.transfer import from_first, on_first, whole
from dien_jax.utils.processes import count, index


class Layout(NamedTuple):
    """Division of the R ``rows`` of one table over n ``devices``."""

    rows: int
    devices: int

    @property
    def owned(self) -> int:
        """Q, the rows of one device."""
        return -(-self.rows // self.devices)

    def slots(self, rows: Any) -> Any:
        """Return the places in the whole array of rows of the table."""
        return rows % self.devices * self.owned + rows // self.devices

    def split(self, array: jax.Array, axis: int = 0) -> jax.Array:
        """Return an array ``[R, ...]`` as ``[n Q, ...]``; ``axis`` is that of the rows."""
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, self.devices * self.owned - self.rows)
        shape = array.shape
        parts = jnp.pad(array, widths).reshape(
            *shape[:axis], self.owned, self.devices, *shape[axis + 1 :]
        )
        whole = (*shape[:axis], -1, *shape[axis + 1 :])
        return jnp.swapaxes(parts, axis, axis + 1).reshape(whole)

    def joined(self, array: np.ndarray, axis: int = 0) -> np.ndarray:
        """Return what :meth:`split` split, on the host."""
        shape = array.shape
        parts = array.reshape(*shape[:axis], self.devices, self.owned, *shape[axis + 1 :])
        whole = np.swapaxes(parts, axis, axis + 1).reshape(*shape[:axis], -1, *shape[axis + 1 :])
        return np.ascontiguousarray(whole[(slice(None),) * axis + (slice(self.rows),)])

    def part(self, array: Any, device: int, axis: int = 0) -> np.ndarray:
        """Return the rows of one device, ``[Q, ...]``, of an array ``[R, ...]`` on the host."""
        every = (slice(None),) * axis
        rows = np.asarray(array[(*every, slice(device, None, self.devices))])
        if rows.shape[axis] == self.owned:
            return rows
        widths = [(0, 0)] * rows.ndim
        widths[axis] = (0, self.owned - rows.shape[axis])
        return np.pad(rows, widths)


class Placement:
    """Placement of the arrays of a run on n > 1 devices, of one process or of several.

    Args:
      devices: those of all processes, as many of each, or their number n.
      schema: features, which decide the tables that are split: see
        :func:`~dien_jax.steps.embedding_rows.large_tables`.

    Attributes:
      mesh: n devices in one axis, ``AXIS``.
      layouts: that of each split table.
      part: number of this process and number of processes: it has that part of every batch.
    """

    def __init__(self, devices: int | Sequence[jax.Device], schema: Schema) -> None:
        if isinstance(devices, int):
            devices = devices_in_use(MeshConfig(devices), devices)
        self.devices = len(devices)
        self.part = (jax.process_index(), processes) if (processes := count()) > 1 else (0, 1)
        self.mesh = mesh_of(devices)
        self.layouts: dict[Table, Layout] = {}
        large = large_tables(schema)
        for group, features in vars(schema).items():
            for feature in features:
                if (group, feature.name) in large:
                    self.layouts[group, feature.name] = Layout(feature.size, len(devices))

    def row_axes(self, tree: Any) -> Any:
        """Return the axis of the rows of each array of split tables and slots; -1 for others."""

        def axis(path: tuple, leaf: Any) -> int:
            del leaf
            return 0 if table_of(path) in self.layouts else -1

        return jax.tree_util.tree_map_with_path(axis, tree)

    def specs(self, tree: Any) -> Any:
        """Return the partition of every array of parameters, statistics or slots."""
        return jax.tree.map(
            lambda axis: P() if axis < 0 else P(*[None] * axis, AXIS), self.row_axes(tree)
        )

    def shardings(self, specs: Any) -> Any:
        """Return the shardings of partitions."""
        return jax.tree.map(
            functools.partial(NamedSharding, self.mesh), specs, is_leaf=lambda x: isinstance(x, P)
        )

    def split(self, tree: Any) -> Any:
        """Return parameters as they are on the devices, from those of one device."""

        def split(path: tuple, leaf: Any, axis: int) -> Any:
            if isinstance(leaf, _SplitRows):
                return leaf.value
            return leaf if axis < 0 else self.layouts[table_of(path)].split(leaf, axis)

        axes = self.row_axes(jax.tree.map(_value, tree, is_leaf=_is_split))
        return jax.tree_util.tree_map_with_path(split, tree, axes, is_leaf=_is_split)

    def put(self, tree: Any, like: Any = None) -> Any:
        """Put parameters, statistics or slots of one device's form on the devices.

        With several processes, ``tree`` is that of process 0, and None on the others; ``like`` has
        its shapes on all. Split tables, in ``tree`` or on several processes in ``like``, are there.
        """
        if self.part[1] > 1:
            return self._put_from_first(tree, like)

        def put(path: tuple, leaf: Any, axis: int) -> jax.Array:
            if isinstance(leaf, RowBlocks):
                return leaf.array
            layout = None if axis < 0 else self.layouts[table_of(path)]
            return self._put(leaf, layout, axis)

        return jax.tree_util.tree_map_with_path(put, tree, self.row_axes(tree))

    def joined(self, tree: Any) -> Any:
        """Return parameters, statistics or slots in one device's form, on the host.

        With several processes, process 0 has it, array by array, and the others get None.
        """
        several = self.part[1] > 1

        def join(path: tuple, leaf: Any, axis: int) -> Any:
            if axis < 0:
                return self._on_host(leaf)
            host = on_first(self.mesh, leaf) if several else np.asarray(leaf)
            return None if host is None else self.layouts[table_of(path)].joined(host, axis)

        joined = jax.tree_util.tree_map_with_path(join, tree, self.row_axes(tree))
        return joined if index() == 0 else None

    def to_save(self, tree: Any) -> Any:
        """Return arrays of one device's form on the host, but split tables by blocks of rows."""
        return self._with_blocks(tree, self._on_host)

    def to_restore(self, tree: Any) -> Any:
        """Return shapes of the form of :meth:`to_save`."""
        return self._with_blocks(tree, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))

    def _with_blocks(self, tree: Any, other: Callable[[Any], Any]) -> Any:
        def blocks(leaf: Any, whole: Any, axis: int) -> Any:
            if axis < 0:
                return other(leaf)
            return RowBlocks(self.mesh, whole.shape, whole.dtype, axis, leaf)

        return jax.tree.map(blocks, tree, self.like(tree), self.row_axes(tree))

    def _on_host(self, leaf: Any) -> Any:
        """Return an array that is whole on every device."""
        if _is_key(leaf):
            return _local_key(leaf) if self.part[1] > 1 else leaf
        return np.asarray(leaf)

    def whole(self, tree: Any) -> Any:
        """Return arrays that are whole on every device, of arrays of any placement."""
        return whole(self.mesh, tree)

    def on_each(self, tree: Any) -> Any:
        """Put arrays on every device, as a whole; every process has the same ones."""
        if self.part[1] == 1:
            return jax.device_put(tree, NamedSharding(self.mesh, P()))
        return jax.tree.map(self._on_each, tree)

    def _on_each(self, leaf: Any) -> jax.Array:
        if _is_key(leaf):
            data = self._on_each(np.asarray(jax.random.key_data(leaf)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host, sharding = np.asarray(leaf), NamedSharding(self.mesh, P())
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    def _from_first(self, array: Any, like: Any, layout: Layout | None, axis: int) -> jax.Array:
        """Return an array of process 0 on all devices; ``like`` is its shape."""
        if _is_key(like):
            data = jax.eval_shape(jax.random.key_data, like)
            host = None if array is None else np.asarray(jax.random.key_data(array))
            return jax.random.wrap_key_data(self._from_first(host, data, None, axis))
        if layout is None:
            return self._on_each(from_first(self.mesh, array, like.shape, like.dtype))
        before, after = like.shape[:axis], like.shape[axis + 1 :]
        sharding, parts = NamedSharding(self.mesh, P(*[None] * axis, AXIS)), []
        for number, device in enumerate(self.mesh.devices.flat):
            part = None if array is None else layout.part(array, number, axis)
            part = from_first(self.mesh, part, (*before, layout.owned, *after), like.dtype)
            if device.process_index == jax.process_index():
                parts.append(jax.device_put(part, device))
        shape = (*before, layout.owned * self.devices, *after)
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def _put_from_first(self, tree: Any, like: Any) -> Any:
        """Return the arrays that process 0 has, on the devices of all."""
        axes, leaves = (
            jax.tree.leaves(self.row_axes(like)),
            jax.tree_util.tree_leaves_with_path(like),
        )
        given = [None] * len(leaves) if tree is None else jax.tree.leaves(tree)

        def placed(value: Any, path: tuple, leaf: Any, axis: int) -> jax.Array:
            if isinstance(leaf, RowBlocks):
                return leaf.array
            layout = None if axis < 0 else self.layouts[table_of(path)]
            return self._from_first(value, leaf, layout, axis)

        arrays = [
            placed(value, *leaf, axis)
            for value, leaf, axis in zip(given, leaves, axes, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(like), arrays)

    def _put(self, array: Any, layout: Layout | None, axis: int = 0) -> jax.Array:
        if layout is None:
            return self.on_each(array)
        shape = (*array.shape[:axis], layout.owned * self.devices, *array.shape[axis + 1 :])
        sharding = NamedSharding(self.mesh, P(*[None] * axis, AXIS))

        def part(index: Any) -> np.ndarray:
            return layout.part(array, (index[axis].start or 0) // layout.owned, axis)

        return jax.make_array_from_callback(shape, sharding, part)

    def like(self, tree: Any) -> Any:
        """Return the shapes of parameters, statistics or slots in one device's form."""

        def shape(path: tuple, leaf: Any, axis: int) -> jax.ShapeDtypeStruct:
            whole = list(leaf.shape)
            if axis >= 0:
                whole[axis] = self.layouts[table_of(path)].rows
            return jax.ShapeDtypeStruct(tuple(whole), leaf.dtype)

        return jax.tree_util.tree_map_with_path(shape, tree, self.row_axes(tree))

    def described(self, batch_size: int) -> str:
        """Return a line that says how the run is spread."""
        names = ", ".join(name for _, name in self.layouts)
        tables = f"rows of {names} are split over them" if names else "no table is split"
        share = batch_size // self.devices
        return f"{share:,} examples of a batch on each of {self.devices} devices; {tables}"

    def put_batch(self, batch: Any) -> Any:
        """Put a batch on the devices, each its rows; a process has its own part of them."""
        sharding = NamedSharding(self.mesh, P(AXIS))
        if self.part[1] == 1:
            return jax.device_put(batch, sharding)
        return jax.tree.map(
            functools.partial(jax.make_array_from_process_local_data, sharding), batch
        )

    def _table_layouts(self, features: FeatureTables) -> FeatureTables:
        """Return the layout of every array of feature tables, False for those on each device."""

        def layouts(group: str, columns: Any) -> Any:
            layout = self.layouts.get((group, group), False)
            return jax.tree.map(lambda _: layout, columns)

        items, users = layouts("item", features.item), layouts("user", features.user)
        whole = (jax.tree.map(lambda _: False, t) for t in (features.statistics, features.factors))
        return FeatureTables(items, users, *whole)

    def put_features(self, features: FeatureTables) -> FeatureTables:
        """Put feature tables on the devices, from the host."""
        return jax.tree.map(
            lambda layout, array: self._put(np.asarray(array), layout or None),
            self._table_layouts(features),
            features,
            is_leaf=_is_layout,
        )

    def feature_specs(self, features: FeatureTables) -> FeatureTables:
        """Return the partition of every array of feature tables."""
        return jax.tree.map(
            lambda layout: P(AXIS) if layout else P(),
            self._table_layouts(features),
            is_leaf=_is_layout,
        )

    def put_items(self, array: Any) -> jax.Array:
        """Put an array with a row for each item on the devices, from the host."""
        return self._put(np.asarray(array), self.layouts.get(("item", "item")))

    @property
    def item_spec(self) -> P:
        """The partition of :meth:`put_items`."""
        return P(AXIS) if ("item", "item") in self.layouts else P()

    def initial(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        """Draw an embedding table, each device its rows, equal to one device's.

        Random bits of an entry depend on its place in the flat array alone, so a table of Q x n
        rows has the R rows of the table first, and splits by its second axis.
        """
        rows, width = shape
        if rows <= max(embedding_rows.DENSE_ROWS, 1):  # a number has one row
            return EMBEDDING_INITIAL(key, shape, dtype)
        layout = Layout(rows, self.devices)
        shape = (layout.owned, self.devices, width)
        drawn = jax.random.uniform(key, shape, dtype, -1)
        # The deviation of EMBEDDING_INITIAL, of the table without filler.
        drawn = drawn * jnp.sqrt(3 * jnp.array(1 / ((rows + width) / 2), dtype))
        row = jnp.arange(layout.owned)[:, None] * self.devices + jnp.arange(self.devices)[None, :]
        drawn = jnp.where(row[..., None] < rows, drawn, 0)
        return _SplitRows(
            jnp.zeros((rows, width), dtype), jnp.swapaxes(drawn, 0, 1).reshape(-1, width)
        )


class _SplitRows(flax.struct.PyTreeNode, meta.AxisMetadata):
    """A split table among fresh parameters, which Flax shows to modules in one device's form.

    ``shown`` is zeros, read by the forward pass of an initialisation alone, whose result nothing
    uses. Flax compares the shape of the first array with it.
    """

    shown: Any
    value: Any

    def unbox(self) -> Any:
        return self.shown

    def replace_boxed(self, val: Any) -> "_SplitRows":
        return self.replace(value=val)

    def add_axis(self, index: int, params: Any) -> "_SplitRows":
        raise NotImplementedError

    def remove_axis(self, index: int, params: Any) -> "_SplitRows":
        raise NotImplementedError


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _local_key(key: jax.Array) -> jax.Array:
    """Return a key of all processes on a device of this one."""
    data = np.asarray(jax.random.key_data(key))
    return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(key))


def _is_split(leaf: Any) -> bool:
    return isinstance(leaf, _SplitRows)


def _value(leaf: Any) -> Any:
    return leaf.value if _is_split(leaf) else leaf


def _is_layout(leaf: Any) -> bool:
    return isinstance(leaf, Layout)
