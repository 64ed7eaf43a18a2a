"""What a command may write over: its own outputs, and others with --overwrite, but no input."""

import os
import shutil
from collections.abc import Callable
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
    "explain features": (("explain", "run", "--features", "--out"), "out.png"),
    "report": (("report", "run", "--out"), "out.html"),
}
"""Commands up to the name of the file that they write, and such a name."""
FOLDERS = {
    "prepare": ("prepare", "interactions", "log.csv", "--out"),
    "train": ("train", "--data", "data", "--run-dir"),
    "compare": ("compare", "run", "--out"),
    "baselines": ("baselines", "data", "--out"),
    "tune": ("tune", "--data", "data", "--trials", "1", "--out"),
    "reproduce": ("reproduce", "--data", "data", "--seeds", "1", "--out"),
}
"""Commands up to the name of the folder that they make."""
SUFFIXED = ("explain", "explain features", "report")
INPUTS = ("run", "run/config.json", "data/meta.json", "log.csv", "queries.csv", "model.dien")


def written(name: str, text: str = NOTES) -> Callable[[Path], object]:
    """Write a text into a file of the workspace."""
    return lambda folder: (folder / name).write_text(text)


def kept(name: str, text: str = NOTES) -> Callable[[Path], None]:
    """Check that a file still has its text."""

    def check(folder: Path) -> None:
        assert (folder / name).read_text() == text

    return check


def occupied(folder: Path) -> None:
    """Make a folder with a file of the user's."""
    (folder / "out").mkdir()
    (folder / "out" / "compare.png").write_text(NOTES)


def _cases() -> list[Case]:
    cases = []
    for name, ((command, *arguments), file) in OUTPUTS.items():

        def case(
            kind: str, out: str, message: str, *flags: str, start: object = (command, arguments),
            name: str = name, **options: object,
        ) -> Case:  # fmt: skip
            own, given = start
            return Case(own, kind, f"{name} {out[:40]}", (*given, out, *flags), message=message,
                        **options)  # fmt: skip

        theirs = {"damage": written(file), "check": kept(file)}
        cases += [case("output of the user's", file, "give --overwrite", **theirs)]
        odd = "n" * 300 + Path(file).suffix
        cases += [case("impossible output", odd, "cannot be written: File name too long")]
        cases += [case("impossible output", f"nowhere/{file}", "there is no folder nowhere")]
        cases += [case("impossible output", f"log.csv/{file}", "there is no folder log.csv")]
        if name not in SUFFIXED:
            cases += [case("impossible output", "data", "it is a folder")]
            read = [file for file in INPUTS if command == "predict" or file != "queries.csv"]
            cases += [
                case("output that is an input", own, "cannot be written|give --overwrite", *flags)
                for own in read
                if own.startswith("run") or (command, own) == ("predict", "queries.csv")
                for flags in [("--overwrite",)]
            ]
    for command, (_, *arguments) in FOLDERS.items():
        for out, damage, message in (
            ("out", occupied, "exists already|not empty|was not written"),
            ("data", None, "exists already|not empty"),
            ("run", None, "exists already|not empty"),
            ("log.csv", None, "exists already|cannot be written"),
            ("log.csv/out", None, "cannot be written"),
            ("n" * 300, None, "cannot be written: File name too long"),
        ):
            kind = "impossible output" if "log" in out or "nn" in out else "output of the user's"
            name = f"{command} {out[:40]}"
            cases.append(Case(command, kind, name, (*arguments, out), damage, message))
    return cases


@pytest.mark.parametrize("case", _cases(), ids=str)
def test_output_is_refused_and_nothing_changes(case, attempt):
    attempt(case)


AGAIN = [
    Case(
        command,
        kind,
        f"{name} {kind}",
        (*arguments, file, *flags),
        damage,
        status=0,
        left=(file, *([Path(file).with_suffix(".json").name] if "features" in name else [])),
    )
    for name, ((command, *arguments), file) in OUTPUTS.items()
    if name != "export"  # takes long; in tests/inference
    for kind, damage, flags in (
        ("--overwrite", written(file), ("--overwrite",)),
        ("an empty file", written(file, ""), ()),
    )
]


def _marked(case: Case) -> object:
    return pytest.param(case, marks=pytest.mark.slow if case.command == "report" else ())


@pytest.mark.parametrize("case", list(map(_marked, AGAIN)), ids=str)
def test_output_is_replaced_and_then_refreshed_by_the_same_command(case, attempt, workspace):
    attempt(case)
    arguments = [argument for argument in case.arguments if argument != "--overwrite"]
    ending = faults.run_in_process(case.command, *arguments)
    assert ending.status == 0, ending.output


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_pipe_gets_what_a_file_would_get(name, workspace):
    (command, *arguments), file = OUTPUTS[name]
    assert faults.run_in_process(command, *arguments, file).status == 0
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert faults.run_in_process(command, *arguments, "pipe").status == 0
    assert os.read(reader, 1 << 20) == Path(file).read_bytes()
    os.close(reader)
    assert Path("pipe").is_fifo()


def test_link_to_an_input_is_refused(workspace):
    Path("link.csv").symlink_to("queries.csv")
    before = faults.contents(workspace)
    ending = faults.run_in_process(
        "predict", "run", "--input", "queries.csv", "--out", "link.csv", "--overwrite"
    )
    assert ending.status == 2
    assert "it is an input" in ending.output
    assert faults.contents(workspace) == before


def test_folder_of_an_earlier_comparison_is_used_again(workspace):
    for _ in range(2):
        assert faults.run_in_process("compare", "run", "--out", "out").status == 0
    shutil.copy("log.csv", "out/compare.png")
    ending = faults.run_in_process("compare", "run", "--out", "out")
    assert ending.status == 2
    assert "compare.png exists and was not written by this command" in ending.output


WRITERS = {
    "evaluate": (("evaluate", "run", "--predictions", "out"), "atomic_path"),
    "predict": (("predict", "run", "--input", "queries.csv", "--out", "out.csv"), "atomic_path"),
    "export": (("export", "run", "--out", "out"), "atomic_path"),
    "prepare": (("prepare", "interactions", "log.csv", "--out", "out"), "partial_folder"),
    "synthetic": (("prepare", "synthetic", "--users", "40", "--out", "out"), "partial_folder"),
    "baselines": (("baselines", "data", "--out", "out"), "partial_folder"),
    "tune": (("tune", "--data", "data", "--trials", "1", "--out", "out"), "locked"),
    "reproduce": (("reproduce", "--data", "data", "--seeds", "1", "--out", "out"), "locked"),
    "resume": (("train", "--resume", "run"), "locked"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_second_writer_is_refused_with_the_number_of_the_first(name, workspace, record_property):
    (command, *arguments), manager = WRITERS[name]
    record_property("fault", f"{command}: two writers")
    if name == "resume":
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
