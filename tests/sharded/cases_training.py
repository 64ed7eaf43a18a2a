"""Runs on eight devices: they end as on one, and go on from their checkpoints on any number."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from support import tiny_run
from support.grown_data import write_grown
from support.sharded_steps import furthest

from dien_jax import train
from dien_jax.config.settings import Config, MeshConfig, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import Run
from dien_jax.runs.scoring import score_split
from dien_jax.steps import embedding_rows
from dien_jax.steps.state import create_state
from dien_jax.training.run import fit, resume

CONFIG = Config(
    model=ModelConfig(
        embedding_size=4,
        hidden_size=4,
        layers=(8,),
        attention_layers=(8,),
        auxiliary_layers=(8,),
    ),
    train=TrainConfig(batch_size=16, epochs=2, max_history=8, buckets=(), patience=0),
)
STEPS = 8
TOLERANCE = 1e-3
"""Of parameters after ``STEPS``, which rounding moved by less than 1e-5."""


@pytest.fixture(autouse=True)
def every_table_is_large(monkeypatch) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 2)


def with_update(update: str) -> Config:
    optim = dataclasses.replace(CONFIG.optim, embedding_update=update)
    return dataclasses.replace(CONFIG, optim=optim)


def latest(folder: Path):
    """The latest state, as one device restores it; its key as integers."""
    run = Run.load(folder)
    like = create_state(run.config, tiny_run.SCHEMA, tiny_run.STEPS_PER_EPOCH, run.seed)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    state, _ = checkpoints.restore(checkpoints.latest_step() or 0, like)
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


def stop_after(batches: int) -> Callable[[], int | None]:
    asked = 0

    def stop_signal() -> int | None:
        nonlocal asked
        asked += 1
        return 15 if asked > batches else None

    return stop_signal


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Runs by row, on one device and on eight."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_rows, "DENSE_ROWS", 2)
        for devices in (1, 8):
            fit(
                with_update("lazy_adam"),
                data=data,
                run_dir=folder / str(devices),
                mesh=MeshConfig(devices),
            )
    return folder


def test_a_run_ends_as_on_one_device(runs: Path) -> None:
    one, eight = latest(runs / "1"), latest(runs / "8")
    assert one.step == STEPS
    assert furthest(one, eight) < TOLERANCE
    both = [tiny_run.evaluations(runs / name) for name in ("1", "8")]
    for before, now in zip(*both, strict=True):
        assert now["train"].pop("further_rounds") == 0
        for split in ("train", "valid"):
            assert now[split].keys() == before[split].keys()
            for name, value in before[split].items():
                np.testing.assert_allclose(now[split][name], value, rtol=1e-3, err_msg=name)
    assert Run.load(runs / "8").versions["devices"] == "8"
    assert "devices" not in Run.load(runs / "1").versions
    assert (runs / "1/config.json").read_text() == (runs / "8/config.json").read_text().replace(
        ',\n    "devices": "8"', ""
    ).replace('    "devices": "8",\n', "")


def test_scores_of_the_run_are_those_of_one_device(runs: Path) -> None:
    result = resume(runs / "8", mesh=MeshConfig(8))
    scored = score_split(runs / "8").metrics()
    for name, value in result.test.items():
        np.testing.assert_allclose(scored[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("update", "counts"),
    [
        ("lazy_adam", (8, 2)),
        pytest.param("lazy_adam", (4, 1), marks=pytest.mark.slow),
        pytest.param("dense", (8, 2), marks=pytest.mark.slow),
    ],
)
def test_resume_on_other_devices_ends_as_one_never_stopped(
    update: str, counts: tuple[int, ...], runs: Path, data: Path, tmp_path: Path, capfd
) -> None:
    config, whole = with_update(update), runs / "8"
    if update == "dense":
        whole = tmp_path / "whole"
        fit(config, data=data, run_dir=whole, mesh=MeshConfig(8))
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        fit(config, data=data, run_dir=stopped, mesh=MeshConfig(8), stop_signal=stop_after(3))
    assert latest(stopped).step == 3
    for devices in counts:
        folder = tmp_path / str(devices)
        shutil.copytree(stopped, folder)
        capfd.readouterr()
        resume(folder, mesh=MeshConfig(devices))
        said = capfd.readouterr().err
        if devices == 8:
            jax.tree.map(np.testing.assert_array_equal, latest(folder), latest(whole))
            assert "the run began" not in said
        else:
            assert furthest(latest(folder), latest(whole)) < TOLERANCE
            assert f"the run began with devices 8, this is {devices}" in said


@pytest.mark.slow
def test_warm_start_on_eight_devices(runs: Path, data: Path, tmp_path: Path) -> None:
    grown = write_grown(tmp_path / "grown", open_dataset(data))
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, epochs=1))
    states = []
    for devices in (1, 8):
        folder, mesh = tmp_path / str(devices), MeshConfig(devices)
        fit(config, data=grown, run_dir=folder, warm_start=runs / "8", mesh=mesh)
        states.append(folder)
    names = [sorted(path.name for path in folder.iterdir()) for folder in states]
    assert names[0] == names[1]
    evaluations = [tiny_run.evaluations(folder)[-1]["valid"]["logloss"] for folder in states]
    np.testing.assert_allclose(*evaluations, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ids", [(5, 2), (3,)])
def test_named_devices_give_the_bits_of_the_first_ones(
    ids: tuple[int, ...], data: Path, tmp_path: Path
) -> None:
    light = dataclasses.replace(
        CONFIG.model, extractor="none", evolution="none", auxiliary_weight=0.0
    )
    train = dataclasses.replace(CONFIG.train, epochs=1)
    config = dataclasses.replace(CONFIG, model=light, train=train)
    used = set[int]()
    fit(config, data=data, run_dir=tmp_path / "first", mesh=MeshConfig(len(ids)))
    earlier = set(map(id, jax.live_arrays()))

    def stop_signal() -> None:
        new = [array for array in jax.live_arrays() if id(array) not in earlier]
        used.update(device.id for array in new for device in array.devices())

    mesh = MeshConfig(devices=ids)
    fit(config, data=data, run_dir=tmp_path / "named", mesh=mesh, stop_signal=stop_signal)
    assert used == {*ids}
    states = [latest(tmp_path / name) for name in ("first", "named")]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_command_says_how_a_run_is_spread(data: Path, tmp_path: Path, capfd) -> None:
    flags = [*tiny_run.light_flags(data, tmp_path / "run"), "--train.epochs=1"]
    assert train.main(flags) == 0
    said = capfd.readouterr().err
    assert "2 examples of a batch on each of 8 devices; rows of item, category, user" in said
    assert train.main([*flags[:-1], "--mesh.data=5"]) != 0
    assert "mesh.data must divide train.batch_size 16, got 5" in capfd.readouterr().err
    assert train.main(["--resume", str(tmp_path / "run"), "--mesh.data", "2"]) == 0
    capfd.readouterr()
    assert train.main([*flags[:-1], "--mesh.devices", "0", "8"]) != 0
    assert "ids of devices that are there, 0 to 7, got 8" in capfd.readouterr().err
    resumed = ["--resume", str(tmp_path / "run"), "--mesh.devices", "4", "1"]
    assert train.main(resumed) == 0
    assert train.main([*resumed, "--seed=1"]) != 0
