"""Runs on eight devices: they end as on one, and go on from their checkpoints on any number."""

import itertools
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import tiny_run
from support.sharded_steps import furthest
from support.tiny_run import write_grown

from dien_jax import train
from dien_jax.config.settings import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import score_split
from dien_jax.training.run import fit, resume

CONFIG = Config(
    model=ModelConfig(
        embedding_size=4, extractor="none", evolution="none", auxiliary_weight=0.0, layers=(8,)
    ),
    optim=OptimConfig(embedding_update="lazy_adam"),
    train=TrainConfig(batch_size=16, epochs=1, max_history=8, buckets=(), patience=0),
)
STEPS = 4
TOLERANCE = 1e-3
"""Of parameters after ``STEPS``, which rounding moved by less than 1e-5."""


def latest(folder: Path):
    """The latest state, as one device restores it; its key as integers."""
    _, state, _ = tiny_run.saved_states(folder)["latest"]
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, large_data: Path) -> Path:
    """Runs by row, on one device and on eight."""
    folder = tmp_path_factory.mktemp("runs")
    for devices in (1, 8):
        fit(CONFIG, data=large_data, run_dir=folder / str(devices), mesh=MeshConfig(devices))
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


def test_resume_on_other_devices_ends_as_one_never_stopped(
    runs: Path, large_data: Path, tmp_path: Path, capfd
) -> None:
    stopped, asked = tmp_path / "stopped", itertools.count()
    stop = {"stop_signal": lambda: signal.SIGTERM if next(asked) >= 3 else None}
    with pytest.raises(Interrupted):
        fit(CONFIG, data=large_data, run_dir=stopped, mesh=MeshConfig(8), **stop)
    assert latest(stopped).step == 3
    for devices in (8, 2):
        folder = tmp_path / str(devices)
        shutil.copytree(stopped, folder)
        capfd.readouterr()
        resume(folder, mesh=MeshConfig(devices))
        said = capfd.readouterr().err
        if devices == 8:
            jax.tree.map(np.testing.assert_array_equal, latest(folder), latest(runs / "8"))
            assert "the run began" not in said
        else:
            assert furthest(latest(folder), latest(runs / "8")) < TOLERANCE
            assert f"the run began with devices 8, this is {devices}" in said


def log_loss(folder: Path, data: Path, mesh: MeshConfig, **options: Any) -> float:
    fit(CONFIG, data=data, run_dir=folder, mesh=mesh, **options)
    return tiny_run.evaluations(folder)[-1]["valid"]["logloss"]


def test_warm_start_on_eight_devices(runs: Path, large_data: Path, tmp_path: Path) -> None:
    grown = write_grown(tmp_path / "grown", open_dataset(large_data))
    losses = [
        log_loss(tmp_path / str(devices), grown, MeshConfig(devices), warm_start=runs / "8")
        for devices in (1, 8)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_command_says_how_a_run_is_spread(large_data: Path, tmp_path: Path, capfd) -> None:
    flags = [*tiny_run.light_flags(large_data, tmp_path / "run"), "--train.epochs=1"]
    assert train.main(flags) == 0
    said = capfd.readouterr().err
    assert "2 examples of a batch on each of 8 devices; rows of item, category, user" in said
    assert train.main([*flags[:-1], "--mesh.data=5"]) != 0
    assert (
        "a divisor of train.batch_size 16, and at most the number of devices, 8; got 5"
        in capfd.readouterr().err
    )
    assert train.main(["--resume", str(tmp_path / "run"), "--mesh.data", "2"]) == 0
    assert train.main(["--resume", str(tmp_path / "run"), "--mesh.data", "2", "--seed=1"]) != 0
