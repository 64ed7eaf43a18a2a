"""Arrays between the devices of several processes and the host of process 0, block by block.

Checkpoints have rows in the order of their vocabulary, and process 0 writes them: a split table
goes through all devices in blocks of at most ``BLOCK`` words a device, so none ever has all of it.
Bits are kept: arrays are sent as integers.

Dimensions: n devices, W words of 32 bits, the arrays of one device.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dien_jax.utils.processes import still_working

BLOCK = 1 << 20
"""Words of one block of one device."""


def whole(mesh: Mesh, tree: Any) -> Any:
    """Return arrays of any placement as a whole on every device."""
    return jax.jit(_unchanged, out_shardings=NamedSharding(mesh, P()))(tree)


def on_first(mesh: Mesh, array: jax.Array) -> np.ndarray | None:
    """Return a split array on the host of process 0, and None on the others."""
    devices = list(mesh.devices.flat)
    shards = {shard.device: _words(np.asarray(shard.data)) for shard in array.addressable_shards}
    shape = array.sharding.shard_shape(array.shape)
    size = _number_of_words(shape, array.dtype)
    is_first = devices[0] in shards and jax.process_index() == devices[0].process_index
    found = np.empty((len(devices) if is_first else 0, size), np.uint32)
    for start, stop, width in _blocks(size):
        still_working()
        rows = {device: _padded(words[start:stop], width) for device, words in shards.items()}
        everywhere = whole(mesh, _of_rows(mesh, rows, width))
        if is_first:
            found[:, start:stop] = np.asarray(everywhere)[:, : stop - start]
    if not is_first:
        return None
    result = np.empty(array.shape, array.dtype)
    places = array.sharding.devices_indices_map(array.shape)
    for device, words in zip(devices, found, strict=True):
        result[places[device]] = _array(words, shape, array.dtype)
    return result


def from_first(
    mesh: Mesh, array: np.ndarray | None, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """Return on the host of every process an array that process 0 has."""
    size = _number_of_words(shape, dtype)
    words = np.zeros(0, np.uint32) if array is None else _words(array)
    found = np.empty(size, np.uint32)
    first = mesh.devices.flat[0]
    add = jax.jit(_sum, out_shardings=NamedSharding(mesh, P()))
    for start, stop, width in _blocks(size):
        still_working()
        rows = {
            device: _padded(words[start:stop] if device == first else words[:0], width)
            for device in mesh.local_devices
        }
        found[start:stop] = np.asarray(add(_of_rows(mesh, rows, width)))[: stop - start]
    return _array(found, shape, dtype)


def _unchanged(tree: Any) -> Any:
    return tree


def _sum(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows, axis=0, dtype=rows.dtype)


def _of_rows(mesh: Mesh, rows: dict[Any, np.ndarray], width: int) -> jax.Array:
    """Return ``[n, width]`` of one row of each device; ``rows`` are those of this process's."""
    sharding = NamedSharding(mesh, P(mesh.axis_names[0]))
    parts = [
        jax.device_put(rows[device][None], device) for device in mesh.devices.flat if device in rows
    ]
    return jax.make_array_from_single_device_arrays((mesh.size, width), sharding, parts)


def _blocks(size: int) -> list[tuple[int, int, int]]:
    """Return start, end and padded width of each block: few widths, so few programs."""
    ends = [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
    return [(start, stop, 1 << (stop - start - 1).bit_length()) for start, stop in ends]


def _padded(words: np.ndarray, width: int) -> np.ndarray:
    return np.pad(words, (0, width - len(words)))


def _number_of_words(shape: tuple[int, ...], dtype: Any) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // 4)


def _words(array: Any) -> np.ndarray:
    """Return the bits of an array, uint32 ``[W]``."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return np.pad(raw, (0, -raw.size % 4)).view(np.uint32)


def _array(words: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return the array that :func:`_words` was given."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return words.view(np.uint8)[:size].view(dtype).reshape(shape)
