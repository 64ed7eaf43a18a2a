"""Two processes are one with two devices, stop together, and other numbers resume their runs."""

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore as ts
from support import tiny_run
from support.several_processes import (
    FULL_DISK,
    HANG,
    HANG_IN_SAVE,
    NEEDS_NEWER_JAX,
    Whole,
    assert_same,
    distributed,
    flags,
    free_port,
    lines_of,
    run_together,
    run_two,
)

from dien_jax.runs.folder import Run
from dien_jax.training.hosts import LOST, MISTAKE

pytestmark = [pytest.mark.long, NEEDS_NEWER_JAX]

TOLERANCE = 1e-3
"""Of parameters on another number of devices; ``tests/sharded`` compares that with rounding."""


def keys_of(folder: Path) -> set[str]:
    """The keys of a database of arrays."""
    files = {"driver": "file", "path": f"{folder}/"}
    database = ts.KvStore.open({"driver": "ocdbt", "base": files}).result()
    return {key.decode() for key in database.list().result()}


def assert_halves(pieces: list[Path]) -> None:
    """Each process wrote and read about half of all bytes, and never most of a table at once."""
    table = tiny_run.USERS * 4 * 4
    for kind in ("write", "read"):
        sizes = [
            [int(line.split()[1]) for line in file.read_text().splitlines() if kind in line]
            for file in pieces
        ]
        both = list(map(sum, sizes))
        assert 0.4 < both[0] / sum(both) < 0.6, both
        assert 0 < max(map(max, sizes)) < 0.6 * table


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
    pieces = [tmp_path / f"pieces{process}" for process in range(2)]
    ended = run_two(["--resume", by_two], pieces=pieces)
    assert [each.status for each in ended] == [0, 0], ended
    assert_halves(pieces)
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


@pytest.mark.slow
def test_one_process_is_resumed_by_two(whole: Whole, data: Path, tmp_path: Path) -> None:
    """Process 1 reads its rows; or it does not see the folder, and gets them from process 0."""
    stopped, seen_by_one = tmp_path / "stopped", tmp_path / "seen_by_one"
    [alone] = run_together(flags(data, stopped), devices=2, signals={0: (signal.SIGINT, 5)})
    assert alone.status == 128 + signal.SIGINT, alone.said
    shutil.copytree(stopped, seen_by_one)
    ended = run_two(["--resume", stopped])
    port = free_port()
    places = [["--resume", seen_by_one], ["--resume", tmp_path / "elsewhere"]]
    both = [[*place, *distributed(process, port)] for process, place in enumerate(places)]
    others = run_together(*both)
    assert [each.status for each in (*ended, *others)] == [0] * 4, (ended, others)
    assert "the run began with processes 1, this is 2" in ended[0].said
    assert "every process writes and reads its rows" in ended[0].said
    assert f"process 0 writes and reads checkpoints: not every process sees {seen_by_one}" in (
        others[0].said
    )
    for folder in (stopped, seen_by_one):
        assert_same(folder, whole.by_one)
        assert "processes" not in Run.load(folder).versions


def test_each_process_writes_its_own_rows(whole: Whole) -> None:
    """What all wrote is what one process writes, but for the order of the files."""
    step = tiny_run.saved_states(whole.by_two)["latest"][0]
    saved = [run / f"checkpoints/{step}/state" for run in (whole.by_two, whole.by_one)]
    parts = [keys_of(saved[0] / f"ocdbt.rows_{process}") for process in range(2)]
    shapes = {key for key in parts[0] if key.endswith("/.zarray")}
    assert any("item_embeddings" in key for key in shapes)
    assert parts[0] & parts[1] == shapes
    assert len(parts[0]) == len(parts[1]) == 2 * len(shapes)
    assert keys_of(saved[0]) == keys_of(saved[1])
    assert keys_of(saved[0]) > parts[0] | parts[1]


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


def test_a_process_that_hangs_ends_all(data: Path, tmp_path: Path) -> None:
    """Its threads live, so JAX does not miss it; the other one stops to wait for it."""
    folder = tmp_path / "run"
    first, second = run_two(flags(data, folder), {1: (HANG, 6)})
    assert (first.status, second.status) == (LOST, LOST), (first, second)
    said = first.said.splitlines()[-1]
    hangs = "error: an operation of all processes has not ended for 5 seconds: one hangs."
    assert said.startswith(hangs)
    assert f"python -m dien_jax.train --resume {folder}" in said
    assert "process 1: error: another process of the run has ended" in second.said
    assert tiny_run.saved_states(folder)["latest"][0] == 4


@pytest.mark.slow
def test_rows_that_a_process_cannot_write_are_said_by_all(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run_two(flags(data, folder), {1: (FULL_DISK, 8)})
    assert [each.status for each in ended] == [MISTAKE, MISTAKE], ended
    problem = f"cannot save the checkpoint {folder}/checkpoints/8: [Errno 28] No space left"
    assert f"error: process 1: {problem}" in ended[0].said
    assert f"process 1: error: {problem}" in ended[1].said
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["4"]


@pytest.mark.slow
def test_a_process_that_hangs_as_it_saves_ends_all(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run_two(flags(data, folder), {0: (HANG_IN_SAVE, 8)})
    assert [each.status for each in ended] == [LOST, LOST], ended
    said = ended[1].said.splitlines()[-1]
    assert "error: the checkpoint of step 8 has not ended for 5 seconds: process 0 hangs." in said
    assert f"python -m dien_jax.train --resume {folder}" in said
    assert tiny_run.saved_states(folder)["latest"][0] == 4


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_is_stopped_ends_the_other(stopped: int, data: Path, tmp_path: Path) -> None:
    ended = run_two(flags(data, tmp_path / "run"), {stopped: (signal.SIGSTOP, 6)})
    assert ended[1 - stopped].status == LOST, ended
    assert "error: another process of the run has ended" in ended[1 - stopped].said


@pytest.mark.slow
def test_two_processes_of_two_devices(data: Path, tmp_path: Path) -> None:
    """Four numbers are added in another order, and tables are updated by row."""
    runs = [tmp_path / "one", tmp_path / "two"]
    more = ["--optim.embedding-update=rowwise_adagrad"]
    [alone] = run_together([*tiny_run.light_flags(data, runs[0]), *more], devices=4)
    assert alone.status == 0, alone.said
    port = free_port()
    both = (
        [*tiny_run.light_flags(data, runs[1]), *more, *distributed(process, port)]
        for process in range(2)
    )
    ended = run_together(*both, devices=2)
    assert [each.status for each in ended] == [0, 0], ended
    for first, second in zip(*map(tiny_run.evaluations, runs), strict=True):
        assert first["valid"].keys() == second["valid"].keys()
        for name in ("loss", "gradient_norm", "accuracy"):
            np.testing.assert_allclose(second["train"][name], first["train"][name], rtol=1e-4)
        np.testing.assert_allclose(second["valid"]["logloss"], first["valid"]["logloss"], rtol=1e-4)


@pytest.mark.slow
def test_dien_on_two_processes_is_dien_on_two_devices(data: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    [alone] = run_together(tiny_run.flags(data, runs[0]), devices=2)
    assert alone.status == 0, alone.said
    ended = run_two(tiny_run.flags(data, runs[1]))
    assert [each.status for each in ended] == [0, 0], ended
    assert_same(*runs)


@pytest.mark.slow
def test_warm_start(whole: Whole, data: Path, tmp_path: Path) -> None:
    begun = [tmp_path / "one", tmp_path / "two"]
    more = ["--warm-start", str(whole.by_one), "--train.epochs=1"]
    [alone] = run_together([*flags(data, begun[0]), *more], devices=2)
    assert alone.status == 0, alone.said
    ended = run_two([*flags(data, begun[1]), *more])
    assert [each.status for each in ended] == [0, 0], ended
    assert_same(begun[1], begun[0])
