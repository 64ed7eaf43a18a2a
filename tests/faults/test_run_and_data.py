"""A run, its data folder and its exported file know each other by content."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import faults
from support.faults import PREPARE, Case, run_in_process

pytestmark = pytest.mark.long

KIND = "run and data"


_prepared: list[Path] = []
"""The data folder of the other log, once a case has made it."""


@pytest.fixture(scope="module")
def whole_workspace(workspace_without_export: Path) -> Path:
    return workspace_without_export


def other_split(folder: Path) -> None:
    """Prepare the log anew at the same path: equal sizes, other users in the vocabularies."""
    log = folder / "log.csv"
    log.write_text(log.read_text().replace("u1,", "v1,").replace("i3,", "k3,"))
    shutil.rmtree(folder / "data")
    if _prepared:
        shutil.copytree(_prepared[0], folder / "data")
        return
    assert run_in_process(*PREPARE).status == 0
    _prepared.append(shutil.copytree(folder / "data", folder.parent / "other"))


def any_export(folder: Path) -> None:
    """Write a file in place of an exported one: it is refused before it is read."""
    (folder / "model.dien").write_bytes(b"PK")


def swapped_lines(folder: Path) -> None:
    """Swap two lines of the vocabulary of items."""
    file = folder / "data" / "vocab" / "item.txt"
    lines = file.read_text().splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    file.write_text("".join(lines))


def lost_data(folder: Path) -> None:
    """Remove the data folder."""
    shutil.rmtree(folder / "data")


COMMANDS = {
    "evaluate": ("run",),
    "predict": ("run", "--input", "queries.csv", "--out", "scores.csv"),
    "export": ("run", "--out", "other.dien"),
    "explain": ("run", "--example", "0", "--out", "inside.png"),
    "report": ("run", "--out", "report.html"),
    "train": ("--resume", "run"),
}
DAMAGES = {
    "another log prepared at the same path": (other_split, r"data\b.*(changed|other|differ)"),
    "two lines of a vocabulary swapped": (swapped_lines, r"data\b.*(changed|other|differ)"),
    "data folder lost": (lost_data, r"data\b"),
}


def unfinished(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """Stop the run before its end, then do the damage."""
    return lambda folder: (faults.unfinish(folder), damage(folder))[1]


CASES = [
    Case(
        command,
        KIND,
        name,
        arguments,
        unfinished(damage) if command == "train" else damage,
        message,
    )
    for command, arguments in COMMANDS.items()
    for name, (damage, message) in DAMAGES.items()
]


def with_export(command: str, arguments: tuple[str, ...]) -> Case:
    """Give a command an exported file in place of the run, and a data folder."""
    words = tuple("model.dien" if word == "run" else word for word in arguments)
    message = "needs no data" if command == "serve" else r"model\.dien is not a folder"
    name = "an exported file together with a data folder"
    return Case(command, KIND, name, (*words, "--data", "data"), any_export, message)


EXPORTED = [
    with_export(command, arguments)
    for command, arguments in (COMMANDS | {"serve": ("run", "--port=0")}).items()
    if command != "train"
]


@pytest.mark.parametrize("case", EXPORTED, ids=str)
def test_exported_file_is_never_used_with_other_data(case, attempt):
    attempt(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_data_that_changed_since_training_is_refused(case, attempt):
    attempt(case)


WHOLE = [
    Case("evaluate", "nothing broken", "metrics", ("run",), message='"auc"', status=0),
    Case(
        *("predict", "nothing broken", "scores of a table", COMMANDS["predict"]),
        message="scores.csv",
        status=0,
        left=("scores.csv",),
    ),
    Case(
        *("train", "nothing broken", "resume", COMMANDS["train"], faults.unfinish),
        message="finished",
        status=0,
        left=("run",),
    ),
]


@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_workspace_is_whole(case, attempt):
    """The other cases would all pass if the commands failed anyway."""
    attempt(case)


NO_DEVICE = [
    Case(
        *(command, "environment", "a device that JAX does not know", arguments),
        damage=faults.unfinish if command == "train" else None,
        message="error: Unable to initialize backend 'abacus': .*; JAX_PLATFORMS in the env",
        environment={"JAX_PLATFORMS": "abacus"},
        left=("run",) if command == "train" else (),
    )
    for command, arguments in COMMANDS.items()
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if place else ())
        for place, case in enumerate(NO_DEVICE)
    ],
    ids=str,
)
def test_device_that_is_not_there_is_one_line(case, attempt):
    attempt(case)
