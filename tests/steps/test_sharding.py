"""Rows over devices, and the number of devices: what needs none but the machine's one"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.config.settings import MeshConfig
from dien_jax.errors import UserError
from dien_jax.steps import mesh, sharding
from dien_jax.steps.exchange import capacity
from dien_jax.steps.mesh import devices_in_use
from dien_jax.steps.sharding import Layout


@pytest.mark.parametrize("devices", [2, 3, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_are_dealt_out_in_turn_and_come_back(devices: int, axis: int) -> None:
    layout = Layout(13, devices)
    table = np.moveaxis(np.arange(1.0, 13 * 2 + 1).reshape(13, 2), 0, axis)
    split = np.asarray(layout.split(jnp.asarray(table), axis))
    assert split.shape[axis] == devices * layout.owned
    slots = layout.slots(np.arange(13))
    np.testing.assert_array_equal(np.take(split, slots, axis), table)
    assert np.count_nonzero(split) == table.size
    np.testing.assert_array_equal(layout.joined(split, axis), table)
    parts = [layout.part(table, device, axis) for device in range(devices)]
    np.testing.assert_array_equal(np.concatenate(parts, axis), split)


@pytest.mark.parametrize("ids", [1, 7, 128, 25_600])
def test_a_round_holds_an_even_share_and_no_more_than_all(ids: int) -> None:
    assert ids / 8 <= capacity(ids, 8) <= ids
    assert capacity(25_600, 8) < 1.1 * 25_600 / 8


def test_all_devices_are_used_that_a_batch_divides_over(monkeypatch) -> None:
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    assert [devices_in_use(MeshConfig(), rows) for rows in (128, 100, 7, 1)] == [8, 5, 7, 1]
    assert devices_in_use(MeshConfig(2), 100) == 2


def test_other_numbers_of_devices_are_refused(monkeypatch) -> None:
    with pytest.raises(UserError, match=r"mesh.data must be at least 1, got 0"):
        MeshConfig(0)
    with pytest.raises(UserError, match=r"mesh.data must be at most 1, .* has 1 device, got 2"):
        devices_in_use(MeshConfig(2), 128)
    monkeypatch.setattr(sharding.jax, "local_device_count", lambda: 8)
    expected = (
        r"mesh.data must divide train.batch_size 100, got 8; of 8 devices 1, 2, 4 or 5 can be "
        r"used, or choose --train.batch-size 104"
    )
    with pytest.raises(UserError, match=expected):
        devices_in_use(MeshConfig(8), 100)


def test_several_processes_have_the_same_number_of_devices_each(monkeypatch) -> None:
    monkeypatch.setattr(mesh, "count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert [devices_in_use(MeshConfig(), rows) for rows in (128, 100, 10, 2)] == [8, 4, 2, 2]
    assert devices_in_use(MeshConfig(4), 100) == 4
    for mesh_config, rows, message in (
        (MeshConfig(), 7, "train.batch_size must be a multiple of the 2 processes"),
        (MeshConfig(3), 12, "must be a multiple of their number 2, got 3"),
        (MeshConfig(16), 16, "must be at most 8, as the 2 processes have 8 devices, got 16"),
        (MeshConfig(6), 8, "of 8 devices 2, 4 or 8 can be used, or choose --train.batch-size 12"),
    ):
        with pytest.raises(UserError, match=message):
            devices_in_use(mesh_config, rows)
