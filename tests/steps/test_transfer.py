"""Arrays that go through devices block by block keep all bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dien_jax.steps import transfer

ARRAYS = {
    "floats": np.array([0.0, -0.0, np.nan, np.inf, 1e-42, 3.5, -1.0], np.float32),
    "rows": np.arange(35, dtype=np.float32).reshape(7, 5) / 7,
    "networks": np.arange(42, dtype=np.int32).reshape(2, 7, 3),
    "halves": np.arange(7, dtype=jnp.bfloat16),
    "bytes": np.arange(13, dtype=np.uint8),
    "number": np.array(-0.0, np.float32),
    "nothing": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    monkeypatch.setattr(transfer, "BLOCK", 4)
    return Mesh(np.array(jax.devices()[:1]), ("data",))


@pytest.mark.parametrize("name", ARRAYS)
def test_bits_come_from_the_first_process(name: str, mesh: Mesh) -> None:
    array = ARRAYS[name]
    found = transfer.from_first(mesh, array, array.shape, array.dtype)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("name", ["floats", "rows", "halves", "bytes", "nothing"])
def test_bits_come_to_the_first_process(name: str, mesh: Mesh) -> None:
    array = ARRAYS[name]
    split = jax.device_put(array, NamedSharding(mesh, P("data")))
    found = transfer.on_first(mesh, split)
    assert found is not None
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.tobytes() == array.tobytes()
