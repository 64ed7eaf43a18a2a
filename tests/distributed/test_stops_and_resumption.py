"""Two processes stop together, and other numbers of processes resume their runs."""

import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from support import tiny_run
from support.several_processes import (
    NEEDS_NEWER_JAX,
    Whole,
    assert_same,
    flags,
    lines_of,
    run_together,
    run_two,
)

from dien_jax.runs.folder import Run
from dien_jax.training.hosts import LOST

pytestmark = NEEDS_NEWER_JAX

TOLERANCE = 1e-3
"""Of parameters on another number of devices; ``tests/sharded`` compares that with rounding."""


def test_a_stop_is_one_step_of_all_and_other_numbers_resume(
    whole: Whole, data: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    ended = run_two(flags(data, stopped), {1: (signal.SIGTERM, 5)})
    assert [each.status for each in ended] == [128 + signal.SIGTERM] * 2, ended
    assert f"--resume {stopped} and the same --distributed flags on every host" in ended[0].said
    assert lines_of(ended[1].said) == []
    step = tiny_run.saved_states(stopped)["latest"][0]
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
    for (_, ours, _), (_, theirs, _) in zip(
        tiny_run.saved_states(by_one).values(),
        tiny_run.saved_states(whole.by_two).values(),
        strict=True,
    ):
        for now, before in zip(*(jax.tree.leaves(s.params) for s in (ours, theirs)), strict=True):
            np.testing.assert_allclose(now, before, atol=TOLERANCE)


def test_one_process_is_resumed_by_two(whole: Whole, data: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    [alone] = run_together(flags(data, stopped), devices=2, signals={0: (signal.SIGINT, 5)})
    assert alone.status == 128 + signal.SIGINT, alone.said
    ended = run_two(["--resume", stopped])
    assert [each.status for each in ended] == [0, 0], ended
    assert "the run began with processes 1, this is 2" in ended[0].said
    assert_same(stopped, whole.by_one)
    assert "processes" not in Run.load(stopped).versions


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_loses_no_checkpoint(
    killed: int, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ended = run_two(flags(data, folder), {killed: (signal.SIGKILL, 6)})
    assert ended[killed].status == -signal.SIGKILL
    left = ended[1 - killed]
    assert left.status == LOST, left.said
    said = left.said.splitlines()[-1]
    assert "error: another process of the run has ended" in said
    assert f"python -m dien_jax.train --resume {folder}" in said
    assert tiny_run.saved_states(folder)["latest"][0] == 4


def test_warm_start(whole: Whole, data: Path, tmp_path: Path) -> None:
    begun = [tmp_path / "one", tmp_path / "two"]
    more = ["--warm-start", str(whole.by_one), "--train.epochs=1"]
    [alone] = run_together([*flags(data, begun[0]), *more], devices=2)
    assert alone.status == 0, alone.said
    ended = run_two([*flags(data, begun[1]), *more])
    assert [each.status for each in ended] == [0, 0], ended
    assert_same(begun[1], begun[0])
