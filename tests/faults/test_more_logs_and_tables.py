"""Folders of logs with what is no file, cells of any length, and columns of two uses."""

import csv
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.faults import PREPARE, Case

pytestmark = pytest.mark.long

Damage = Callable[[Path], object]
LONG = "|".join(["i1"] * 60_000)
"""A history of more characters than Python's reader of CSV takes by default."""


@pytest.fixture(scope="module")
def whole_workspace(workspace_without_export: Path) -> Path:
    return workspace_without_export


def preparing(file: str) -> tuple[str, ...]:
    """A command line that prepares a log in another folder."""
    return ("interactions", file, "--out", "other", *PREPARE[5:])


def folder_of(place: Callable[[Path, Path], object]) -> Damage:
    """Make the log a folder of two files, and put something next to them."""

    def damage(folder: Path) -> None:
        header, *rows = (folder / "log.csv").read_text().splitlines()
        (folder / "logs" / "sub").mkdir(parents=True)
        for name, part in (("a.csv", rows[:80]), ("sub/b.csv", rows[80:])):
            (folder / "logs" / name).write_text("\n".join([header, *part, ""]))
        place(folder / "logs", folder)

    return damage


PLACED = {
    "a link to a lost file": (
        lambda logs, _: (logs / "c.csv").symlink_to("gone.csv"),
        r"logs/c\.csv: .* found a link to a file that is not there",
    ),
    "a link to itself": (
        lambda logs, _: (logs / "sub" / "c.csv").symlink_to("c.csv"),
        r"logs/sub/c\.csv: .* found a link to a file that is not there|levels of symbolic links",
    ),
    "a link to a folder": (
        lambda logs, folder: (logs / "more").symlink_to(folder / "data"),
        r"logs/more: .* found a link to a folder, which is not followed",
    ),
    "a link to the folder itself": (
        lambda logs, _: (logs / "loop").symlink_to(logs),
        r"logs/loop: .* found a link to a folder, which is not followed",
    ),
    "a pipe": (
        lambda logs, _: os.mkfifo(logs / "c.csv"),
        r"logs/c\.csv: expected a file of the log, found no regular file",
    ),
}
FOLDERS = [
    Case("prepare", "folders", name, preparing("logs"), folder_of(place), message)
    for name, (place, message) in PLACED.items()
]


@pytest.mark.parametrize("case", FOLDERS, ids=str)
def test_folder_of_a_log_is_read_whole_or_not_at_all(case, attempt):
    attempt(case)


def appended(*lines: str) -> Damage:
    """Append lines to the log."""

    def damage(folder: Path) -> None:
        with (folder / "log.csv").open("a") as stream:
            stream.writelines(f"{line}\n" for line in lines)

    return damage


def compressed(folder: Path) -> None:
    with (folder / "queries.csv").open(newline="") as stream, gzip.open("q.parquet.gz", "wb") as to:
        pq.write_table(pa.Table.from_pylist(list(csv.DictReader(stream))), to)


def queries(text: str) -> Damage:
    return lambda folder: (folder / "queries.csv").write_text(text)


SCORING = ("run", "--input", "queries.csv", "--out", "scores.csv")
TABLES = [
    Case(
        *("prepare", "cells", "a long quoted cell next to a malformed line"),
        arguments=preparing("log.csv"),
        damage=appended(f'u1,i1,c1,1.5,"{"t" * 200_000}",190', "cut"),
        message=r"1 of 162 lines are malformed .* log\.csv:163: expected 6 columns, found 1",
        status=0,
        left=("other",),
    ),
    Case(
        *("predict", "cells", "a long history", SCORING),
        damage=queries(f"user,item,history\nu1,i3,{LONG}\n"),
        message='"rows": 1, .* "unknown_history": 0',
        status=0,
        left=("scores.csv",),
    ),
    Case(
        *("predict", "columns", "user and item in one", (*SCORING, "--user", "item")),
        message="error: --item must name another column than --user, got 'item'",
    ),
    Case(
        *("predict", "columns", "history and time in one", (*SCORING, "--timestamp", "history")),
        message="error: --timestamp must name another column than --history, got 'history'",
    ),
    Case(
        *("predict", "archives", "Parquet within gzip"),
        arguments=("run", "--input", "q.parquet.gz", "--out", "scores.parquet"),
        damage=compressed,
        message=r"q\.parquet\.gz is Parquet within gzip; unpack it first",
    ),
]


@pytest.mark.parametrize("case", TABLES, ids=str)
def test_cells_and_columns(case, attempt):
    attempt(case)
