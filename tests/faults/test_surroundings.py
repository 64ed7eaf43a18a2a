"""Streams that are closed or full, odd environments and names: what surrounds a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import faults
from support.faults import Case

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, names of bytes"),
]
EVALUATE = ("run",)
ODD = "run\udcff"
"""A name that is not UTF-8."""
RESULT = b'{"auc": '


@pytest.fixture(scope="module")
def whole_workspace(workspace_without_export: Path) -> Path:
    return workspace_without_export


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of the shell in which ``dj`` is ``python -m dien_jax``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = f'dj() {{ "{sys.executable}" -m dien_jax "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", command],
        env=environment,
        capture_output=True,
        timeout=faults.SECONDS,
        check=False,
    )


STREAMS = {
    "no list of commands on a full disk": ("dj > /dev/full", "standard output cannot be written"),
    "no version on a closed output": ("dj --version >&-", "standard output is closed"),
    "no overview on a full disk": ("dj prepare --help >/dev/full", "cannot be written: No space"),
    "no metrics on a full disk": ("dj evaluate run > /dev/full", "cannot be written: No space"),
    "no metrics on a closed output": ("dj evaluate run >&-", "standard output is closed"),
    "nothing in a folder that was removed": (
        "mkdir gone; cd gone; rmdir ../gone; dj evaluate ../run",
        "error: the current folder was removed; change to another",
    ),
    "nothing prepared with a closed output": (
        "dj prepare interactions log.csv --out new >&-",
        "standard output is closed; expected a file, a pipe or a terminal",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_result_that_is_lost_is_an_error(name, workspace, record_property):
    line, message = STREAMS[name]
    word = line.rpartition("dj ")[2].split()[0]
    record_property("fault", f"{word if word.isalpha() else 'dien_jax'}: streams")
    before = faults.contents(workspace)
    ending = shell(line)
    assert ending.returncode == 2, ending
    assert message in ending.stderr.decode()
    assert b"Traceback" not in ending.stderr
    assert b"Exception ignored" not in ending.stderr
    assert faults.contents(workspace) == before


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_messages_that_are_lost_end_nothing_and_are_no_result(stream, workspace, record_property):
    record_property("fault", "evaluate: streams")
    ending = shell(f"dj evaluate run {stream}")
    assert ending.returncode == 0, ending
    assert ending.stdout.startswith(RESULT)
    assert ending.stdout.count(b"\n") == 1


TO_OUTPUT = {
    "predict": ("predict run --input queries.csv --out", b"user,item,history,score\n", 5),
    "evaluate": ("evaluate run --predictions", b"user,item,label,score\n", 41),
}


@pytest.mark.parametrize("name", TO_OUTPUT)
def test_table_on_standard_output_has_no_line_of_the_summary(name, workspace, record_property):
    record_property("fault", f"{name}: streams")
    line, header, lines = TO_OUTPUT[name]
    ending = shell(f"dj {line} /dev/stdout")
    assert ending.returncode == 0, ending
    assert ending.stdout.startswith(header)
    assert ending.stdout.count(b"\n") == lines
    assert b"{" not in ending.stdout
    assert b'{"' in ending.stderr


ENVIRONMENTS = [
    Case(
        *(command, "environment", f"{command} in 64 bits", arguments),
        message=r"error: JAX computes in 64 bits \(JAX_ENABLE_X64.*; expected 32 bits",
        environment={"JAX_ENABLE_X64": "1"},
    )
    for command, arguments in {
        "evaluate": EVALUATE,
        "train": ("--data", "data", "--run-dir", "new"),
    }.items()
] + [
    Case(
        *("evaluate", "environment", "devices without their plugin", EVALUATE),
        message=r"^(?!.*Assertion).*error: .*JAX_PLATFORMS in the env",
        environment={"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""},
    )
]


@pytest.mark.parametrize("case", ENVIRONMENTS, ids=str)
def test_environment_in_which_no_run_fits_is_one_line(case, attempt):
    attempt(case)


def renamed(folder: Path) -> None:
    (folder / "run").rename(folder / ODD)


NAMES = [
    Case("evaluate", "paths", "a run folder that is not UTF-8", (ODD,), renamed, "path of UTF-8"),
    Case(
        *("train", "paths", "a new run folder that is not UTF-8"),
        arguments=("--data", "data", "--run-dir", ODD),
        message=r"run folder run\\udcff: expected a path of UTF-8 characters",
    ),
]


@pytest.mark.parametrize("case", NAMES, ids=str)
def test_folder_that_is_not_utf_8_is_refused_before_training(case, attempt):
    attempt(case)
