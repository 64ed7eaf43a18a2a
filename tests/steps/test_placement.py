"""The order of large tables in checkpoints, which divides over any number of devices."""

import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.devices.exchange import capacity
from dien_jax.steps.placement import Layout


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 13, 64, 4097])
def test_rows_are_in_stripes_and_come_back(rows: int, devices: int) -> None:
    layout, whole = Layout(rows, devices), Layout(rows)
    table = np.arange(1.0, rows * 2 + 1).reshape(rows, 2)
    split = np.asarray(layout.split(jnp.asarray(table)))
    assert split.shape == (devices * layout.owned, 2)
    np.testing.assert_array_equal(split[layout.slots(np.arange(rows))], table)
    assert np.count_nonzero(split) == table.size
    np.testing.assert_array_equal(layout.joined(split), table)
    np.testing.assert_array_equal(whole.joined(split), table)  # of any number of devices
    np.testing.assert_array_equal(layout.split(table), split)  # on the host


def test_popular_rows_are_on_all_devices() -> None:
    layout = Layout(1_000_000, 8)
    owner = layout.slots(np.arange(2048)) // layout.owned
    assert np.bincount(owner).tolist() == [256] * 8


@pytest.mark.parametrize("ids", [1, 7, 128, 25_600])
def test_a_round_holds_an_even_share_and_no_more_than_all(ids: int) -> None:
    assert ids / 8 <= capacity(ids, 8) <= ids
    assert capacity(25_600, 8) < 1.1 * 25_600 / 8
