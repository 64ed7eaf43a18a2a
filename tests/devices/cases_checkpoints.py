"""Checkpoints of tables on eight devices are read by any number of devices, and by one."""

import dataclasses
from pathlib import Path

import jax
import pytest
from support.sharded_steps import SCHEMA, WITHOUT_DRAWS, joined, place_of, with_update
from support.tiny_run import bits

from dien_jax.data.schema import Feature
from dien_jax.devices import Placement
from dien_jax.errors import UserError
from dien_jax.runs.checkpoints import Checkpoints, restored
from dien_jax.steps.state import TrainState, create_state

HOST = {"seconds": 0.1}
LIGHT = {"extractor": "none", "evolution": "none", "auxiliary_weight": 0.0}
CONFIG = with_update(WITHOUT_DRAWS, "lazy_adam", **LIGHT)


def drawn(devices: int, seed: int) -> TrainState:
    """A state with other numbers in all of its slots."""
    state = create_state(CONFIG, SCHEMA, 10, seed, place_of(devices))
    slots = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(3), state.optimizer_state)
    return state._replace(optimizer_state=slots)


def test_any_number_of_devices_reads_what_any_other_wrote(tmp_path: Path) -> None:
    one, checkpoints = drawn(1, 3), Checkpoints(tmp_path)
    checkpoints.save(1, place_of(1).to_save(one), HOST, best=True)
    for step, devices in enumerate((8, 3, 1), start=2):
        place = place_of(devices)
        fresh = create_state(CONFIG, SCHEMA, 10, 4, place)
        state, host = restored(checkpoints, step - 1, fresh, place)
        assert host == HOST
        for now, before in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
            assert now.sharding == before.sharding
        found = joined(state, place)
        rows = {leaf.shape[0] for leaf in jax.tree.leaves(found.params) if leaf.ndim == 2}
        assert {60, 40, 12} <= rows  # without filler
        assert bits(found) == bits(one)
        checkpoints.save(step, place.to_save(state), HOST, best=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4"]


def test_a_damaged_or_other_table_is_reported(tmp_path: Path) -> None:
    place, state, checkpoints = place_of(8), drawn(8, 0), Checkpoints(tmp_path)
    checkpoints.save(1, place.to_save(state), HOST, best=True)
    users = (Feature("user", "categorical", 9000), *SCHEMA.user[1:])
    other = dataclasses.replace(SCHEMA, user=users)
    fresh = create_state(CONFIG, other, 10, 0, of_other := Placement(8, other, dense_rows=0))
    with pytest.raises(UserError, match=r"expected params/.*/user as float32 \[9[0-9]{3}"):
        restored(checkpoints, 1, fresh, of_other)
    for file in (tmp_path / "1/state/d").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=rf"cannot read the checkpoint {tmp_path}/1: "):
        restored(checkpoints, 1, state, place)
