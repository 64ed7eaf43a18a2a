"""Split tables as blocks of consecutive rows: their order, their sizes, and back again"""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dien_jax.config.settings import MeshConfig
from dien_jax.steps import row_blocks
from dien_jax.steps.mesh import devices_in_use, mesh_of
from dien_jax.steps.row_blocks import RowBlocks
from dien_jax.steps.sharding import AXIS, Layout


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "devices"), [(13, 3), (1000, 8), (999, 4), (17, 8), (64, 8)])
@pytest.mark.parametrize("bytes_of_block", [1, 700, 1 << 22])
def test_blocks_have_the_rows_in_their_order_and_come_back(
    rows: int, devices: int, axis: int, bytes_of_block: int, monkeypatch
) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", bytes_of_block)
    mesh, layout = mesh_of(devices_in_use(MeshConfig(devices), devices)), Layout(rows, devices)
    table = np.moveaxis(np.arange(1, rows * 3 + 1, dtype=np.float32).reshape(rows, 3), 0, axis)
    sharding = jax.NamedSharding(mesh, P(*[None] * axis, AXIS))
    array = jax.device_put(np.asarray(layout.split(jax.numpy.asarray(table), axis)), sharding)
    blocks = RowBlocks(mesh, table.shape, table.dtype, axis, array)
    assert blocks.block % devices == 0
    assert blocks.block * 12 <= max(bytes_of_block, 12 * devices)
    seen, found = [], np.zeros_like(table)
    for window in blocks.windows():
        for part, content in window:
            assert content.shape[axis] == part.stop - part.start <= blocks.block
            assert part.start % blocks.block == 0
            np.moveaxis(found, axis, 0)[part] = np.moveaxis(content, axis, 0)
            seen.append(part.start)
    assert sorted(seen) == [*range(0, rows, blocks.block)]
    assert len(seen) == blocks.blocks
    np.testing.assert_array_equal(found, table)

    asked = []

    def read(part: slice) -> np.ndarray:
        asked.append(part.start)
        return np.moveaxis(np.moveaxis(table, axis, 0)[part], 0, axis)

    again = blocks.filled(read)
    assert asked == seen
    assert again.sharding == sharding
    np.testing.assert_array_equal(np.asarray(again), np.asarray(array))
