"""Checkpoints of tables on eight devices: rows in their order, by blocks, or none at all"""

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tensorstore as ts
from support.every_kind import SCHEMA
from support.sharded_steps import CONFIG, with_update

from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError
from dien_jax.runs import split_tables
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.steps import embedding_rows, row_blocks
from dien_jax.steps.sharding import Placement
from dien_jax.steps.state import TrainState, create_state

HOST = {"seconds": 0.1}
SMALL = Config(
    model=ModelConfig(
        embedding_size=16,
        extractor="none",
        evolution="none",
        auxiliary_weight=0.0,
        layers=(4,),
        statistics=False,
    ),
    optim=OptimConfig(embedding_update="lazy_adam"),
    train=TrainConfig(batch_size=16),
)
ROWS = 50_001
LARGE = Schema((Feature("item", "categorical", ROWS),), (Feature("user", "categorical", 3),))


def bits(state: TrainState) -> list[bytes]:
    state = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def drawn(state: TrainState) -> TrainState:
    """The state with other numbers in all of its slots."""
    slots = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(3), state.optimizer_state)
    return state._replace(optimizer_state=slots)


@pytest.fixture
def every_table_is_large(monkeypatch) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 0)


@pytest.mark.usefixtures("every_table_is_large")
@pytest.mark.parametrize(
    ("update", "bytes_of_block"),
    [
        ("lazy_adam", 100),
        pytest.param("rowwise_adagrad", 1 << 22, marks=pytest.mark.slow),
        pytest.param("dense", 200, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_devices_reads_what_any_other_wrote(
    update: str, bytes_of_block: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", bytes_of_block)
    config = with_update(CONFIG, update)
    one = drawn(create_state(config, SCHEMA, 10, 3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, one, HOST, best=True)
    for step, devices in enumerate((8, 3, 2), start=2):
        placement = Placement(devices, SCHEMA)
        fresh = create_state(config, SCHEMA, 10, 4, placement)
        state, host = checkpoints.restore(step - 1, placement.to_restore(fresh), placement.put)
        assert host == HOST
        for now, before in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
            assert now.sharding == before.sharding
        assert bits(placement.joined(state)) == bits(one)
        checkpoints.save(step, placement.to_save(state), HOST, best=False)
        again, _ = checkpoints.restore(step, create_state(config, SCHEMA, 10, 4))
        assert bits(again) == bits(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4"]


def of_eight(rows: int = ROWS) -> tuple[Placement, TrainState]:
    schema = dataclasses.replace(LARGE, item=(Feature("item", "categorical", rows),))
    placement = Placement(8, schema)
    return placement, drawn(create_state(SMALL, schema, 10, 0, placement))


def most_bytes(work: Callable[[], Any]) -> int:
    """The memory of Python and NumPy that a function takes."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def taken_by_checkpoints(folder: Path, rows: int) -> list[int]:
    """The memory of a save and a restore by rows, and of a save of whole tables."""
    placement, state = of_eight(rows)
    checkpoints = Checkpoints(folder)

    def save(step: int, saved: TrainState) -> None:
        checkpoints.save(step, saved, HOST, best=True)

    save(0, placement.to_save(state))  # imports, and compiles
    like = placement.to_restore(state)
    return [
        most_bytes(lambda: save(1, placement.to_save(state))),
        most_bytes(lambda: checkpoints.restore(1, like, placement.put)),
        most_bytes(lambda: save(2, placement.joined(state))),
    ]


def test_no_table_is_whole_on_the_host(tmp_path: Path, monkeypatch) -> None:
    """Libraries take the same for any number of rows, so the difference of two is looked at."""
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(split_tables, "PENDING_BYTES", 1 << 17)
    few, many = (taken_by_checkpoints(tmp_path / str(rows), rows) for rows in (5001, ROWS))
    table = (ROWS - 5001) * SMALL.model.embedding_size * 4
    assert many[0] - few[0] < table / 2
    assert many[1] - few[1] < table / 2
    assert many[2] - few[2] > table


@pytest.mark.parametrize("lost", ["a write", "a block"])
def test_a_checkpoint_that_lacks_rows_is_none(lost: str, tmp_path: Path, monkeypatch) -> None:
    placement, state = of_eight()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, placement.to_save(state), HOST, best=True)
    write, writes = split_tables._Pending.write, iter(range(1000))

    def other(self: Any, store: ts.TensorStore, *arguments: Any) -> None:
        if next(writes) != 5:
            write(self, store, *arguments)
        elif lost == "a write":
            raise OSError("No space left on device")

    monkeypatch.setattr(split_tables._Pending, "write", other)
    reason = "No space left on device" if lost == "a write" else "item has 7 of 8 blocks of rows"
    with pytest.raises(UserError, match=rf"cannot save the checkpoint {tmp_path}/2: .*{reason}"):
        checkpoints.save(2, placement.to_save(state), HOST, best=True)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    monkeypatch.undo()
    assert checkpoints.latest_step() == 1
    again, _ = checkpoints.restore(1, placement.to_restore(state), placement.put)
    assert bits(placement.joined(again)) == bits(placement.joined(state))


def test_rows_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    placement, state = of_eight()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, placement.to_save(state), HOST, best=True)
    [*_, largest] = sorted((tmp_path / "1/state").glob("*/d/*"), key=lambda f: f.stat().st_size)
    largest.write_bytes(b"")
    with pytest.raises(UserError, match=rf"cannot read the checkpoint {tmp_path}/1: "):
        checkpoints.restore(1, placement.to_restore(state), placement.put)
    other = dataclasses.replace(LARGE, user=(Feature("user", "categorical", 9000),))
    placement = Placement(8, other)
    state = create_state(SMALL, other, 10, 0, placement)
    with pytest.raises(UserError, match=r"expected params/.*/user as float32 \[9000"):
        checkpoints.restore(1, placement.to_restore(state), placement.put)
