"""Split tables as blocks of consecutive rows, for files that have them in the order of ids.

Row r of a split table is on device r mod n. The devices exchange rows, so that block b, the C rows
from b C on, is on device b mod n. One exchange moves a window, which is a block of each device: no
device and no process has more of a table at a time, but for its own rows.

Dimensions: n devices, R rows of a table, Q rows of it that a device has, C rows of a block.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dien_jax.steps.mesh import AXIS

BLOCK_BYTES = 1 << 22
"""Size of a block, if that is at least n rows."""


class RowBlocks:
    """A split table, or the shape of one that is to be read.

    Args:
      mesh: the n devices.
      shape: shape ``[R, ...]`` or ``[N, R, ...]`` of the whole table, without filler.
      dtype: type of its numbers.
      axis: axis of its rows.
      array: the table, ``[n Q, ...]`` or ``[N, n Q, ...]``; None if it is to be read.

    Attributes:
      rows: R.
      block: C, a multiple of n.
    """

    def __init__(
        self, mesh: Mesh, shape: tuple[int, ...], dtype: Any, axis: int, array: Any = None
    ) -> None:
        self.shape, self.dtype, self.axis, self.array = shape, np.dtype(dtype), axis, array
        self._mesh, self.rows, self.ndim = mesh, shape[axis], len(shape)
        self._owned = -(-self.rows // mesh.size)
        bytes_of_row = self.dtype.itemsize * math.prod(shape) // max(1, self.rows)
        share = BLOCK_BYTES // (mesh.size * max(1, bytes_of_row))
        self.block = mesh.size * max(1, min(share, -(-self._owned // mesh.size)))

    @property
    def blocks(self) -> int:
        """Number of blocks that have rows."""
        return -(-self.rows // self.block)

    def windows(self) -> Iterator[list[tuple[slice, np.ndarray]]]:
        """Yield the blocks that this process gets in each window, by their rows, without filler.

        Every process has to take all windows.
        """
        for window in range(self._windows):
            whole = _blocks_of(self.array, np.int32(window), *self._static)
            found = []
            for shard in whole.addressable_shards:
                rows = self._rows_of(window, shard.index[self.axis].start or 0)
                if rows.start < rows.stop:
                    content = np.asarray(shard.data)
                    found.append((rows, content[self._first(rows.stop - rows.start)]))
            yield found

    def filled(self, read: Callable[[slice], np.ndarray | None]) -> jax.Array:
        """Return the table on the devices, filler and what is not read as zeros.

        Every process has to call this; each reads blocks of its own.

        Args:
          read: gives some rows, by slice, on the host; or None.
        """
        shape, sharding = list(self.shape), NamedSharding(self._mesh, self._spec)
        shape[self.axis] = self._owned * self._mesh.size
        array = jnp.zeros(tuple(shape), self.dtype, device=sharding)
        shape[self.axis] = self.block * self._mesh.size
        for window in range(self._windows):
            parts = [
                jax.device_put(self._read(read, self._rows_of(window, number * self.block)), device)
                for number, device in enumerate(self._mesh.devices.flat)
                if device.process_index == jax.process_index()
            ]
            whole = jax.make_array_from_single_device_arrays(tuple(shape), sharding, parts)
            array = _with_blocks(array, whole, np.int32(window), *self._static)
        return array

    def with_array(self, array: jax.Array) -> "RowBlocks":
        """Return the table with another array."""
        return RowBlocks(self._mesh, self.shape, self.dtype, self.axis, array)

    @property
    def _windows(self) -> int:
        return -(-self.blocks // self._mesh.size)

    @property
    def _spec(self) -> P:
        return P(*[None] * self.axis, AXIS)

    @property
    def _static(self) -> tuple[Mesh, int, int]:
        return self._mesh, self.axis, self.block // self._mesh.size

    def _rows_of(self, window: int, place: int) -> slice:
        """Return the rows of the block at a place of a window; none behind the last row."""
        start = min(window * self.block * self._mesh.size + place, self.rows)
        return slice(start, min(start + self.block, self.rows))

    def _first(self, rows: int) -> tuple[slice, ...]:
        return (*[slice(None)] * self.axis, slice(rows))

    def _read(self, read: Callable[[slice], np.ndarray | None], rows: slice) -> np.ndarray:
        """Return a block, with filler in place of rows behind the last one."""
        shape = list(self.shape)
        shape[self.axis] = self.block
        block = np.zeros(shape, self.dtype)
        content = read(rows) if rows.start < rows.stop else None
        if content is not None:
            block[self._first(rows.stop - rows.start)] = content
        return block


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _blocks_of(array: jax.Array, window: Any, mesh: Mesh, axis: int, share: int) -> jax.Array:
    """Return a window, block d on device d; ``share`` is C / n.

    A device has every n-th row of the window: C of them, C / n of each block.
    """

    def exchanged(own: jax.Array, window: jax.Array) -> jax.Array:
        before, after = own.shape[:axis], own.shape[axis + 1 :]
        rows = jnp.take(own, _places(window, mesh, share), axis, mode="fill", fill_value=0)
        rows = rows.reshape(*before, mesh.size, share, *after)
        return jax.lax.all_to_all(rows, AXIS, axis, axis + 1).reshape(*before, -1, *after)

    spec = P(*[None] * axis, AXIS)
    return jax.shard_map(exchanged, mesh=mesh, in_specs=(spec, P()), out_specs=spec)(array, window)


@functools.partial(jax.jit, static_argnums=(3, 4, 5), donate_argnums=0)
def _with_blocks(
    array: jax.Array, blocks: jax.Array, window: Any, mesh: Mesh, axis: int, share: int
) -> jax.Array:
    """Return a table with the rows of a window; the inverse of :func:`_blocks_of`."""

    def exchanged(own: jax.Array, rows: jax.Array, window: jax.Array) -> jax.Array:
        before, after = own.shape[:axis], own.shape[axis + 1 :]
        rows = rows.reshape(*before, share, mesh.size, *after)
        rows = jax.lax.all_to_all(rows, AXIS, axis + 1, axis).reshape(*before, -1, *after)
        place = (*[slice(None)] * axis, _places(window, mesh, share))
        return own.at[place].set(rows, mode="drop")

    spec = P(*[None] * axis, AXIS)
    return jax.shard_map(exchanged, mesh=mesh, in_specs=(spec, spec, P()), out_specs=spec)(
        array, blocks, window
    )


def _places(window: jax.Array, mesh: Mesh, share: int) -> jax.Array:
    """Return the places on a device of its C rows of a window."""
    block = mesh.size * share
    return window * block + jnp.arange(block, dtype=jnp.int32)
