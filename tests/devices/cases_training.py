"""Runs on eight devices: they end as on one, and go on from their checkpoints on any number."""

import contextlib
import io
import itertools
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from support import tiny_run
from support.sharded_steps import furthest
from support.tiny_run import write_grown

from dien_jax import train
from dien_jax.config.settings import MeshConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import score_split
from dien_jax.training.run import fit, resume

MORE = ("--optim.embedding-update=lazy_adam", "--train.epochs=1")
CONFIG = tiny_run.light_config(*MORE)
STEPS = 4
TOLERANCE = 1e-3
"""Of parameters after ``STEPS``, which rounding moved by less than 1e-5."""


def latest(folder: Path):
    """The latest state, as one device restores it; its key as integers."""
    _, state, _ = tiny_run.saved_states(folder)["latest"]
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


def flags(data: Path, folder: Path) -> list[str]:
    return [*tiny_run.light_flags(data, folder), *MORE]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, large_data: Path) -> Path:
    """Runs by row, on one device and on eight; ``said`` is what the command said of the second."""
    folder = tmp_path_factory.mktemp("runs")
    one = {"preset": "wide_dien", "mesh": MeshConfig(1)}  # the command's preset
    fit(CONFIG, data=large_data, run_dir=folder / "1", **one)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train.main(flags(large_data, folder / "8")) == 0
    (folder / "said").write_text(said.getvalue())
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
    asked = itertools.count()
    stop = {"stop_signal": lambda: signal.SIGTERM if next(asked) >= 3 else None}
    with pytest.raises(Interrupted):
        fit(CONFIG, data=large_data, run_dir=tmp_path / "run", mesh=MeshConfig(8), **stop)
    assert latest(tmp_path / "run").step == 3
    resume(tmp_path / "run", mesh=MeshConfig(1))  # cases_checkpoints.py has other numbers
    assert furthest(latest(tmp_path / "run"), latest(runs / "8")) < TOLERANCE
    assert "the run began with devices 8, this is 1" in capfd.readouterr().err


def test_warm_start_on_eight_devices_is_that_of_one_to_the_bit(
    runs: Path, large_data: Path, tmp_path: Path
) -> None:
    grown, states = write_grown(tmp_path / "grown", open_dataset(large_data)), []
    how = {"warm_start": runs / "8", "stop_signal": lambda: signal.SIGTERM}
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        with pytest.raises(Interrupted):
            fit(CONFIG, data=grown, run_dir=folder, mesh=MeshConfig(devices), **how)
        states.append(latest(folder))
    assert states[0].step == 0
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_command_says_how_a_run_is_spread(runs: Path, large_data: Path, capfd) -> None:
    said, again = (runs / "said").read_text(), ["--resume", str(runs / "8"), "--mesh.data=2"]
    assert "2 examples of a batch on each of 8 devices; rows of item, category, user" in said
    assert train.main([*flags(large_data, runs / "new"), "--mesh.data=5"]) != 0
    expected = "a divisor of train.batch_size 16, and at most the number of devices, 8; got 5"
    assert expected in capfd.readouterr().err
    assert train.main(again) == 0
    assert train.main([*again, "--seed=1"]) != 0
