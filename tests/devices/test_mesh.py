"""The devices of a run: those that are there, and those that a batch divides over"""

import functools
from unittest import mock

import jax
import pytest

from dien_jax.config.settings import MeshConfig
from dien_jax.devices import mesh
from dien_jax.devices.mesh import devices_in_use
from dien_jax.errors import UserError


@functools.cache
def device(number: int) -> jax.Device:
    """What a device is chosen by."""
    stand_in = mock.Mock(spec=jax.Device)
    stand_in.id = number
    return stand_in


def has_devices(monkeypatch, *processes: list[int]) -> None:
    """Let each process of the run have devices of these ids."""
    there = [[device(each) for each in ids] for ids in processes]
    monkeypatch.setattr(mesh, "count", lambda: len(there))
    monkeypatch.setattr(jax, "local_devices", lambda process=0: there[process])


def numbers(config: MeshConfig, *batch_sizes: int) -> list[int]:
    return [len(devices_in_use(config, rows)) for rows in batch_sizes]


def test_all_devices_are_used_that_a_batch_divides_over(monkeypatch) -> None:
    has_devices(monkeypatch, [*range(8)])
    assert numbers(MeshConfig(), 128, 100, 7, 1) == [8, 5, 7, 1]
    assert devices_in_use(MeshConfig(2), 100) == [device(0), device(1)]


def test_other_numbers_of_devices_are_refused(monkeypatch) -> None:
    with pytest.raises(UserError, match=r"mesh.data must be at least 1, got 0"):
        MeshConfig(0)
    with pytest.raises(UserError, match=r"must be one of 1: .* the number of devices, 1; got 2"):
        devices_in_use(MeshConfig(2), 128)
    has_devices(monkeypatch, [*range(8)])
    expected = (
        r"mesh.data must be one of 1, 2, 4, 5: a divisor of train.batch_size 100, and at most the "
        r"number of devices, 8; got 8"
    )
    with pytest.raises(UserError, match=expected):
        devices_in_use(MeshConfig(8), 100)


def test_several_processes_have_the_same_number_of_devices_each(monkeypatch) -> None:
    has_devices(monkeypatch, [0, 1, 2, 3], [64, 65, 66, 67])
    assert numbers(MeshConfig(), 128, 100, 10, 2) == [8, 4, 2, 2]
    assert devices_in_use(MeshConfig(4), 100) == [device(each) for each in (0, 1, 64, 65)]
    has_devices(monkeypatch, [0, 1, 2, 3], [64, 65])  # six divide 126, and two of each do not
    assert devices_in_use(MeshConfig(), 126) == [device(0), device(64)]
    has_devices(monkeypatch, [0, 1, 2, 3], [64, 65, 66, 67])
    for mesh_config, rows, message in (
        (MeshConfig(), 7, "train.batch_size must be a multiple of the 2 processes"),
        (MeshConfig(3), 12, "one of 2, 4, 6: .*, a multiple of the 2 processes, .* got 3"),
        (MeshConfig(16), 16, "one of 2, 4, 8: .* at most the number of devices, 8; got 16"),
        (MeshConfig(6), 8, "one of 2, 4, 8: a divisor of train.batch_size 8, .* got 6"),
    ):
        with pytest.raises(UserError, match=message):
            devices_in_use(mesh_config, rows)
