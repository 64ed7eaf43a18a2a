"""Two processes are one with two devices, stop together, and other numbers resume their runs."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from support import tiny_run
from support.forks import Ended
from support.several_processes import (
    NEEDS_NEWER_JAX,
    assert_same,
    distributed,
    flags,
    free_port,
    lines_of,
    run_together,
    run_two,
)
from support.tiny_run import saved_states

from dien_jax.runs.folder import Run
from dien_jax.training.hosts import LOST, MISTAKE

pytestmark = [pytest.mark.long, pytest.mark.newest, NEEDS_NEWER_JAX]

TOLERANCE = 1e-3
"""Of parameters on another number of devices; ``tests/devices`` compares that with rounding."""


class Whole(NamedTuple):
    """The folders of a run by one process with two devices and of one by two, and what it said."""

    by_one: Path
    by_two: Path
    ended: list[Ended]


@pytest.fixture(scope="module")
def whole(large_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Of data whose tables are divided over devices."""
    folder = tmp_path_factory.mktemp("runs")
    by_one, by_two = folder / "one", folder / "two"
    [alone] = run_together(flags(large_data, by_one), devices=2)
    assert alone.status == 0, alone.said
    ended = run_two(flags(large_data, by_two))
    assert [each.status for each in ended] == [0, 0], ended
    return Whole(by_one, by_two, ended)


def test_two_processes_are_one_with_two_devices(whole: Whole) -> None:
    """A sum of two numbers does not depend on their order, so nothing is rounded otherwise."""
    assert_same(whole.by_two, whole.by_one)
    names = [sorted(path.name for path in run.iterdir()) for run in (whole.by_one, whole.by_two)]
    assert names[0] == names[1]
    configs = [
        json.loads((run / "config.json").read_text()) for run in (whole.by_one, whole.by_two)
    ]
    assert configs[1]["versions"].pop("processes") == "2"
    assert configs[0] == configs[1]


def test_only_process_0_speaks(whole: Whole) -> None:
    first, second = whole.ended
    assert "8 examples of a batch on each of 2 devices; rows of item, category, user" in first.said
    assert "validation" in first.output
    assert lines_of(second.output) == []
    assert lines_of(second.said) == []


def test_a_stop_is_one_step_of_all_and_other_numbers_resume(
    whole: Whole, large_data: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    ended = run_two(flags(large_data, stopped), {1: (signal.SIGTERM, 5)})
    assert [each.status for each in ended] == [128 + signal.SIGTERM] * 2, ended
    assert f"--resume {stopped} and the same --distributed flags on every host" in ended[0].said
    assert lines_of(ended[1].said) == []
    step = saved_states(stopped)["latest"][0]
    assert 5 <= step < tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS

    by_two = shutil.copytree(stopped, tmp_path / "two")
    ended = run_two(["--resume", by_two])
    assert [each.status for each in ended] == [0, 0], ended
    assert f"resuming from the checkpoint of step {step}" in ended[0].said
    assert "the run began" not in ended[0].said
    assert_same(by_two, whole.by_two)

    by_one = shutil.copytree(stopped, tmp_path / "one")
    [alone] = run_together(["--resume", by_one])
    assert alone.status == 0, alone.said
    assert "the run began with processes 2, this is 1" in alone.said
    ours, theirs = (
        {name: state.params for name, (_, state, _) in saved_states(run).items()}
        for run in (by_one, whole.by_two)
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=TOLERANCE), ours, theirs)


def test_one_process_is_resumed_by_two(whole: Whole, large_data: Path, tmp_path: Path) -> None:
    """If both see the folder of the run."""
    stopped = tmp_path / "stopped"
    [alone] = run_together(flags(large_data, stopped), devices=2, signals={0: (signal.SIGINT, 5)})
    assert alone.status == 128 + signal.SIGINT, alone.said
    port, places = free_port(), (stopped, tmp_path / "elsewhere")
    both = [["--resume", place, *distributed(n, port)] for n, place in enumerate(places)]
    for each in run_together(*both):
        assert each.status == MISTAKE, each
        assert f"process 1 does not see {stopped}/checkpoints" in each.said
        assert "Traceback" not in each.said
    ended = run_two(["--resume", stopped])
    assert [each.status for each in ended] == [0, 0], ended
    assert "the run began with processes 1, this is 2" in ended[0].said
    assert_same(stopped, whole.by_one)
    assert "processes" not in Run.load(stopped).versions


def test_each_process_writes_the_rows_of_its_device(whole: Whole) -> None:
    step = saved_states(whole.by_two)["latest"][0]
    state = whole.by_two / f"checkpoints/{step}/state"
    sizes = [
        sum(file.stat().st_size for file in (state / f"ocdbt.process_{process}").rglob("*"))
        for process in range(2)
    ]
    assert 0.4 < sizes[1] / sizes[0] < 1.1  # process 0 writes what is on every device, too


def test_a_process_that_is_killed_ends_the_other_and_loses_no_checkpoint(
    large_data: Path, tmp_path: Path
) -> None:
    folder, killed = tmp_path / "run", 1
    ended = run_two(flags(large_data, folder), {killed: (signal.SIGKILL, 6)})
    assert ended[killed].status == -signal.SIGKILL
    left = ended[1 - killed]
    assert left.status == LOST, left.said
    said = left.said.splitlines()[-1]
    assert "error: another process of the run has ended" in said
    assert f"python -m dien_jax.train --resume {folder}" in said
    assert saved_states(folder)["latest"][0] == 4


def test_two_processes_of_two_devices(large_data: Path, tmp_path: Path) -> None:
    """Four numbers are added in another order, and all rows are updated."""
    runs = [tmp_path / "one", tmp_path / "two"]
    more = ["--optim.embedding-update=dense", "--train.epochs=1"]
    [alone] = run_together([*tiny_run.light_flags(large_data, runs[0]), *more], devices=4)
    assert alone.status == 0, alone.said
    port = free_port()
    both = (
        [*tiny_run.light_flags(large_data, runs[1]), *more, *distributed(process, port)]
        for process in range(2)
    )
    ended = run_together(*both, devices=2)
    assert [each.status for each in ended] == [0, 0], ended
    for first, second in zip(*map(tiny_run.evaluations, runs), strict=True):
        assert first["valid"].keys() == second["valid"].keys()
        for name in ("loss", "gradient_norm", "accuracy"):
            np.testing.assert_allclose(second["train"][name], first["train"][name], rtol=1e-4)
        np.testing.assert_allclose(second["valid"]["logloss"], first["valid"]["logloss"], rtol=1e-4)


def test_warm_start(whole: Whole, large_data: Path, tmp_path: Path) -> None:
    begun = [tmp_path / "one", tmp_path / "two"]
    more = ["--warm-start", str(whole.by_one), "--train.epochs=1"]
    [alone] = run_together([*flags(large_data, begun[0]), *more], devices=2)
    assert alone.status == 0, alone.said
    ended = run_two([*flags(large_data, begun[1]), *more])
    assert [each.status for each in ended] == [0, 0], ended
    assert_same(begun[1], begun[0])
