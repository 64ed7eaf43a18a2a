"""Logs, tables, folders, streams and surroundings that no command can work with.

Files of any bytes are drawn in ``tests/preparation/test_any_bytes.py``; here are those that need a
whole command, and what a user may do by accident.
"""

import csv
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import faults
from support.faults import LIGHT, PREPARE, SETTINGS, Case

pytestmark = pytest.mark.long
Damage = Callable[[Path], object]


def prepares(file: str, *flags: str) -> tuple[str, ...]:
    return ("interactions", file, "--out", "other", *PREPARE[5:], *flags)


def predicts(file: str, *flags: str) -> tuple[str, ...]:
    return ("run", "--input", file, "--out", f"scores{Path(file).suffix}", *flags)


def to_parquet(folder: Path, name: str, odd: str = "") -> None:
    """Write a CSV file of the workspace as Parquet; a column of no type that is read may be odd."""
    with (folder / f"{name}.csv").open(newline="") as stream:
        table = pa.Table.from_pylist(list(csv.DictReader(stream)))
    if odd:
        values = pa.array([[("a", 1)]] * len(table), pa.map_(pa.string(), pa.int8()))
        table = table.set_column(table.column_names.index(odd), odd, values)
    pq.write_table(table, folder / f"{name}.parquet")


COLUMNS = [
    Case(command, f"a map in {column}", words(f"{name}.parquet"),
         partial(to_parquet, name=name, odd=column),
         rf"{name}.parquet: column '{column}' \(--.*\) must hold .* found ")
    for command, name, words, columns in (
        ("prepare", "log", prepares, "user item category tags price timestamp"),
        ("predict", "queries", predicts, "user item history"),
    )
    for column in columns.split()
]  # fmt: skip
"""All types and uses are in ``tests/data/test_value_text.py``."""


def odd_names(folder: Path) -> None:
    """Give a log columns whose names a terminal would act on."""
    content = (folder / "log.csv").read_text()
    (folder / "log.csv").write_text(content.replace("user,", "\x1b[31muser\u202e,", 1))


def within_gzip(folder: Path) -> None:
    to_parquet(folder, "queries")
    (folder / "q.parquet.gz").write_bytes(gzip.compress((folder / "queries.parquet").read_bytes()))


def folder_of(place: Callable[[Path], object], folder: Path) -> None:
    """Make the log a folder of two files, and put something next to them."""
    header, *rows = (folder / "log.csv").read_text().splitlines()
    (folder / "logs" / "sub").mkdir(parents=True)
    for name, part in (("a.csv", rows[:80]), ("sub/b.csv", rows[80:])):
        (folder / "logs" / name).write_text("\n".join([header, *part, ""]))
    place(folder / "logs")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


PLACED: dict[str, Callable[[Path], object]] = {
    r"logs/c\.csv: .* found a link to a folder or to nothing":
        lambda logs: (logs / "c.csv").symlink_to("gone.csv"),
    "logs/loop: .* found a link to a folder or to nothing":
        lambda logs: (logs / "loop").symlink_to(logs),
    r"logs/c\.csv: expected a regular file or a folder, found another kind":
        lambda logs: os.mkfifo(logs / "c.csv"),
}  # fmt: skip
PIPE = "pipe is a pipe, and this file is read more than once; write it to a file"
ODD = "run\udcff"
"""A name that is not UTF-8."""
FILES = [
    *(Case("prepare", message, prepares("logs"), partial(folder_of, place), message)
      for message, place in PLACED.items()),
    Case("prepare", "a pipe", prepares("pipe"), pipe, PIPE),
    Case("predict", "a pipe", predicts("pipe"), pipe, PIPE),
    Case("prepare", "escapes in names of columns", prepares("log.csv"), odd_names,
         r"no column 'user' .* its columns are \\u001b\[31muser\\u202e, item"),
    Case("predict", "user and item in one", predicts("queries.csv", "--user", "item"), None,
         "error: --item must name another column than --user, got 'item'"),
    *(Case(command, "Parquet within gzip", words("q.parquet.gz"), within_gzip,
           r"q\.parquet\.gz is Parquet within gzip; unpack it first", left=("queries.parquet",))
      for command, words in (("prepare", prepares), ("predict", predicts))),
    Case("evaluate", "a run folder that is not UTF-8", (ODD,),
         lambda folder: (folder / "run").rename(folder / ODD), "path of UTF-8"),
    Case("compare", "a loop of links", ("run", "loop"),
         lambda folder: (folder / "loop").symlink_to("loop"), "run folder loop does not exist"),
    Case("train", "a new run folder that is not UTF-8", ("--data", "data", "--run-dir", ODD),
         message=r"run folder run\\udcff: expected a path of UTF-8 characters"),
    Case("prepare", "a data folder that is not UTF-8", ("interactions", "log.csv", "--out", ODD),
         message=r"--out run\\udcff: expected a path of UTF-8 .*; rename it, or use a locale"),
]  # fmt: skip


def swapped_lines(folder: Path) -> None:
    file = folder / "data" / "vocab" / "item.txt"
    lines = file.read_text().splitlines(keepends=True)
    lines[2], lines[3] = lines[3], lines[2]
    file.write_text("".join(lines))


def moved_data(folder: Path) -> None:
    """Move the data folder, and add a second run."""
    (folder / "data").rename(folder / "moved")
    shutil.copytree(folder / "run", folder / "second")


def other_log(folder: Path) -> None:
    """Prepare another log at the same path: equal sizes, other users in the vocabularies."""
    log = folder / "log.csv"
    log.write_text(log.read_text().replace("u1,", "v1,").replace("i3,", "k3,"))
    moved_data(folder)
    assert faults.run_in_process(*PREPARE).status == 0


READERS = {
    "evaluate": ("run",),
    "predict": predicts("queries.csv"),
    "export": ("run", "--out", "other.dien"),
    "explain": ("run", "--example", "0", "--out", "inside.png"),
    "report": ("run", "--out", "report.html"),
    "train": ("--resume", "run"),
}


def unfinished(damage: Damage, folder: Path) -> None:
    faults.unfinish(folder)
    damage(folder)


WARM_START = ("--data", "moved", "--run-dir", "new", *SETTINGS, *LIGHT, "--warm-start", "run")
REMEDIES = {
    moved_data: r"dataset folder .*/data of run does not exist; if it was moved, ",
    other_log: r"dataset folder .*/data has changed since the run run began: expected meta.json "
               r"of sha256 \w+..., found \w+...; if the folder was moved, ",
}  # fmt: skip
CHANGED = [
    Case(command, f"{words[0]} {damage.__name__}", words,
         partial(unfinished, damage) if "--resume" in words else damage,
         f"{message}{'move it back, or make' if command == 'train' else 'name it with --data'}")
    for command, words in (
        *READERS.items(), ("train", WARM_START), ("compare", ("run", "second")),
        ("recommend", ("run", "--users", "queries.csv", "--out", "out.csv")),
    )
    for damage, message in REMEDIES.items()
] + [
    Case(command, "swapped lines", words,
         partial(unfinished, swapped_lines) if command == "train" else swapped_lines,
         r"data\b.*has other values")
    for command, words in READERS.items()
]  # fmt: skip
EXPORTED = [
    Case(command, "an exported file and a data folder",
         (*("model.dien" if word == "run" else word for word in words), "--data", "data"),
         message="needs no data" if command == "serve" else r"model\.dien is a file; expected")
    for command, words in (READERS | {"serve": ("run", "--port=0")}).items()
    if command != "train"
]  # fmt: skip
SOUND = [
    Case("evaluate", "a sound run", ("run",), message='"auc"', status=0),
    Case("predict", "a sound run", READERS["predict"], status=0, left=("scores.csv",)),
    Case("train", "a sound run", READERS["train"], faults.unfinish, "finished", 0, ("run",)),
]
"""The other cases would all pass if the commands failed anyway."""


ELSEWHERE = [
    Case("evaluate", "a device that JAX does not know", ("run",),
         message="error: Unable to initialize backend 'abacus': .*; JAX_PLATFORMS in the env",
         environment={"JAX_PLATFORMS": "abacus"}),
    Case("evaluate", "a device without its plugin", ("run",),
         message="error: .*JAX_PLATFORMS in the environment names the devices",
         environment={"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""}),
    Case("train", "64 bits", ("--data", "data", "--run-dir", "new"),
         message=r"error: JAX computes in 64 bits \(JAX_ENABLE_X64.*; expected 32 bits",
         environment={"JAX_ENABLE_X64": "1"}),
    Case("train", "a compiler that is missing",
         ("--data", "data", "--run-dir", "new", *SETTINGS, "--model.implementation=native"),
         message="error: model.implementation: .*the compiler /no/cxx does not run",
         left=("cache",),
         environment={"DIEN_KERNELS_CACHE": "cache", "DIEN_KERNELS_NATIVE": "1",
                      "CXX": "/no/cxx"}),
    Case("train", "help on a terminal without Unicode", ("--help",), None, "usage", 0,
         environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [*COLUMNS, *FILES, *CHANGED, *EXPORTED, *SOUND, *ELSEWHERE], ids=str
)
def test_what_no_command_can_work_with_is_refused_by_name(case, workspace):
    faults.attempt(case, workspace)


STREAMS = {
    "dj prepare --help >/dev/full": (2, "cannot be written: No space"),
    "dj evaluate run >&-": (2, "standard output is closed"),
    "dj train --help | true; exit ${PIPESTATUS[0]}": (141, ""),
    "dj evaluate run | true; exit ${PIPESTATUS[0]}": (141, ""),
    "mkdir gone; cd gone; rmdir ../gone; dj evaluate ../run": (
        2,
        "error: the current folder was removed; change to another",
    ),
    "dj evaluate run <&- 2>&-": (0, ""),
    "dj predict run --input queries.csv --out /dev/stdout": (0, '{"'),
}
"""Lines of the shell in which ``dj`` is ``python -m dien_jax``: status, and standard error."""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("line", STREAMS)
def test_a_result_that_is_lost_is_an_error_and_a_lost_message_is_not(line, workspace):
    status, message = STREAMS[line]
    before = faults.contents(workspace)
    ending = subprocess.run(
        ["bash", "-c", f'dj() {{ "{sys.executable}" -m dien_jax "$@"; }}\n{line}'],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=faults.SECONDS,
        check=False,
    )
    said = ending.stderr.decode()
    assert ending.returncode == status, ending
    assert message in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert faults.contents(workspace) == before
    if status == 141:  # nobody reads: nothing is said of that
        assert "ipe" not in said
    if status == 0:  # the result alone is on standard output
        start, lines = (b'{"auc": ', 1) if "evaluate" in line else (b"user,item,history,score\n", 5)
        assert ending.stdout.startswith(start)
        assert ending.stdout.count(b"\n") == lines
