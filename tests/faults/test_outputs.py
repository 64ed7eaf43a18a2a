"""What a command may write over: its own outputs, and others with --overwrite, but no input."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import faults
from support.faults import Case
from support.holder import held

pytestmark = pytest.mark.long

NOTES = "notes of the user\n"
OUTPUTS = {
    "evaluate": (("evaluate", "run", "--predictions"), "out.csv"),
    "predict": (("predict", "run", "--input", "queries.csv", "--out"), "out.csv"),
    "export": (("export", "run", "--out"), "out.dien"),
    "explain": (("explain", "run", "--example", "0", "--out"), "out.png"),
    "report": (("report", "run", "--out"), "out.html"),
}
"""Commands up to the name of the file that they write, and such a name."""
FOLDERS = {
    "prepare": ("interactions", "log.csv", "--out"),
    "train": ("--data", "data", "--run-dir"),
    "baselines": ("data", "--out"),
    "reproduce": ("--data", "data", "--seeds", "1", "--out"),
}
"""Arguments up to the name of the folder that a command makes."""


def written(name: str, text: str = NOTES) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def occupied(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text(NOTES)


def _refused() -> Iterator[Case]:
    for name, ((command, *arguments), file) in OUTPUTS.items():
        places = {
            file: "give --overwrite",
            "n" * 300 + Path(file).suffix: "cannot be written: File name too long",
            f"log.csv/{file}": "there is no folder log.csv",
        }
        if name in ("evaluate", "predict", "export"):
            places |= {"data": "it is a folder", "run/config.json": "cannot be written|--overwrite"}
        if name == "predict":
            places |= {"queries.csv": "it is an input"}
        for out, message in places.items():
            flags = ("--overwrite",) if out in ("run/config.json", "queries.csv") else ()
            damage = written(file) if out == file else None
            yield Case(command, f"{name} {out[:40]}", (*arguments, out, *flags), damage, message)
    for command, arguments in FOLDERS.items():
        for out, damage, message in (
            ("out", occupied, "exists already|not empty|was not written"),
            ("data", None, "exists already|not empty"),
            ("log.csv/out", None, "cannot be written"),
            ("loop", lambda _: Path("loop").symlink_to("loop"), "exists already|symbolic link"),
            ("loop/out", lambda _: Path("loop").symlink_to("loop"), "cannot be written"),
            ("n" * 300, None, "cannot be written: File name too long"),
        ):
            yield Case(command, out[:40], (*arguments, out), damage, message)
    loop = (*FOLDERS["prepare"], "loop/data")
    message = "loop is a symbolic link that leads to noth"
    yield Case("prepare", "a loop", loop, lambda f: (f / "loop").symlink_to("loop"), message)


@pytest.mark.parametrize("case", list(_refused()), ids=str)
def test_output_is_refused_and_nothing_changes(case, workspace):
    faults.attempt(case, workspace)


AGAIN = [
    Case(command, f"{name}: {kind}", (*arguments, file, *flags), damage, status=0,
         left=(file,))
    for name, ((command, *arguments), file) in OUTPUTS.items()
    if name in ("evaluate", "explain")  # others write by the same function
    for kind, damage, flags in (
        ("--overwrite", written(file), ("--overwrite",)),
        ("an empty file", written(file, ""), ()),
    )
]  # fmt: skip


@pytest.mark.parametrize("case", AGAIN, ids=str)
def test_output_is_replaced_and_then_refreshed_by_the_same_command(case, workspace):
    faults.attempt(case, workspace)
    arguments = [argument for argument in case.arguments if argument != "--overwrite"]
    ending = faults.run_in_process(case.command, *arguments)
    assert ending.status == 0, ending.output


WRITERS = {
    "predict": ("atomic_path", "run", "--input", "queries.csv", "--out", "out.csv"),
    "prepare": ("partial_folder", "interactions", "log.csv", "--out", "out"),
    "baselines": ("partial_folder", "data", "--out", "out"),
    "reproduce": ("locked", "--data", "data", "--seeds", "1", "--out", "out"),
    "train": ("locked", "--resume", "run"),
}


@pytest.mark.parametrize("command", WRITERS)
def test_second_writer_is_refused_with_the_number_of_the_first(command, workspace):
    manager, *arguments = WRITERS[command]
    if command == "train":
        faults.unfinish(workspace)
    target = workspace / arguments[-1]
    if manager == "locked":
        target.mkdir(exist_ok=True)
    with held(target, manager) as holder:
        before = faults.contents(workspace)
        ending = faults.run_in_process(command, *arguments)
        assert ending.status == 2, ending.output
        assert f"process {holder}; wait until it ends" in faults.flat(ending.output)
        assert not [path for path in faults.contents(workspace) if path not in before]
