"""What several processes refuse ends each of them with a message, and none waits for ever."""

import socket
from pathlib import Path

import pytest
from support.several_processes import (
    NEEDS_NEWER_JAX,
    distributed,
    flags,
    free_port,
    lines_of,
    run_together,
)
from support.tiny_run import write_grown

from dien_jax.data.dataset import open_dataset
from dien_jax.training.hosts import MISTAKE

pytestmark = [pytest.mark.long, pytest.mark.newest, NEEDS_NEWER_JAX]


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_stays_alone_gives_up(process: int, data: Path, tmp_path: Path) -> None:
    given = [*flags(data, tmp_path / "run"), *distributed(process, free_port())]
    [ended] = run_together([*given, "--distributed.timeout=2"])
    assert ended.status == MISTAKE, ended.said
    last = ended.said.splitlines()[-1]
    assert last.startswith("error: the processes of the run did not come together within 2 seconds")
    assert not (tmp_path / "run").exists()


def test_without_a_cluster_manager_nothing_is_found(data: Path, tmp_path: Path) -> None:
    [ended] = run_together([*flags(data, tmp_path / "run"), "--distributed.auto"])
    assert ended.status == MISTAKE
    assert "error: distributed.auto found no cluster manager (Slurm, " in ended.said
    assert "Traceback" not in ended.said


def test_a_port_in_use_is_refused(data: Path, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        [ended] = run_together([*flags(data, tmp_path / "run"), *distributed(0, port)])
    assert ended.status == MISTAKE
    assert f"another program listens at port {port}" in ended.said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed=1"], "must agree: seed is 0 on process 0 and 1 on process 1"),
        (["--train.epochs=1"], "must agree: train.epochs is 3 on process 0 and 1 on process 1"),
        (["--data={missing}"], "{missing} "),
        (["--data={grown}"], "the data, by the sha256 of"),
        (["--distributed.processes=3"], "must be the same on every process, found 2 on process 0"),
        (["--resume={grown}"], "must agree: --resume is not given on process 0 and given on"),
        (["XLA_FLAGS=--xla_force_host_platform_device_count=2"], "devices, found 1 and 2; JAX_LOC"),
    ],
)
def test_processes_that_differ_are_refused(
    changed: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    missing, grown = tmp_path / "missing", tmp_path / "grown"
    if "grown" in changed[0]:
        write_grown(grown, open_dataset(data))
    changed = [flag.format(missing=missing, grown=grown) for flag in changed]
    port, folder = free_port(), tmp_path / "run"
    given = [[*flags(data, folder), *distributed(process, port)] for process in (0, 1)]
    given[1] = [*given[1], *changed]
    if changed[0].startswith("--resume"):
        given[1] = [*changed, *distributed(1, port)]
    variables = dict([given[1].pop().split("=", 1)]) if changed[0].startswith("XLA_FLAGS") else {}
    ended = run_together(*given, variables=lambda process: variables if process else {})
    for process, each in enumerate(ended):
        assert each.status == MISTAKE, ended
        assert message.format(missing=missing) in each.said
        assert "Traceback" not in each.said
        [line] = lines_of(each.said)[-1:]
        assert line.startswith("process 1: error: " if process else "error: ")
    assert not folder.exists()


def test_a_mistake_in_all_processes_is_said_by_all(data: Path, tmp_path: Path) -> None:
    """``test_documentation.py`` has processes whose settings are wrong."""
    (tmp_path / "file").touch()
    port = free_port()
    for each in run_together(*([*flags(data, tmp_path), *distributed(n, port)] for n in (0, 1))):
        assert each.status == MISTAKE, each
        assert "is not empty; choose another folder" in each.said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
