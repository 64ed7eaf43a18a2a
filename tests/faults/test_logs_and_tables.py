"""Logs and tables of requests: types of columns, times, damaged and hostile files."""

import csv
import datetime
import gzip
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.faults import PREPARE, Case

pytestmark = pytest.mark.long

Damage = Callable[[Path], object]
PREDICT = ("run", "--input", "queries.parquet", "--out", "scores.parquet")
DAY = datetime.date(2024, 1, 31)
NOON = datetime.datetime(2024, 1, 31, 12)
VALUES = {
    "float": pa.array([2.5]),
    "float of whole numbers": pa.array([3.0]),
    "float32": pa.array([2.5], pa.float32()),
    "float16": pa.array([2.5]).cast(pa.float16()),
    "decimal": pa.array([Decimal("1.50")]),
    "boolean": pa.array([True]),
    "timestamp": pa.array([NOON]),
    "timestamp with a zone": pa.array([NOON], pa.timestamp("ns", "Asia/Tokyo")),
    "time": pa.array([datetime.time(12)]),
    "duration": pa.array([datetime.timedelta(1)], pa.duration("s")),
    "binary": pa.array([b"x"]),
    "binary of a fixed size": pa.array([b"xyz"], pa.binary(3)),
    "struct": pa.array([{"a": 1}]),
    "list": pa.array([["a"]]),
    "list of lists": pa.array([[["a"]]]),
    "list of structs": pa.array([[{"a": 1}]]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
    "floats in a dictionary": pa.array([2.5]).dictionary_encode(),
}
NUMBERS = {
    *("float", "float of whole numbers", "float32", "float16", "decimal", "boolean"),
    "floats in a dictionary",
}
TIMES = NUMBERS - {"boolean"} | {"timestamp", "timestamp with a zone"}
COLUMNS = {
    "user": ("--user", set()),
    "item": ("--item", set()),
    "category": ("--item-features", set()),
    "tags": ("--item-features", {"list"}),
    "price": ("--item-features", NUMBERS),
    "timestamp": ("--timestamp", TIMES),
}


def to_parquet(folder: Path, name: str, **columns: pa.Array) -> None:
    """Write a CSV file of the workspace as Parquet, with one value in all of some columns."""
    with (folder / f"{name}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pa.Table.from_pylist(rows)
    for column, value in columns.items():
        values = pa.concat_arrays([value] * len(rows))
        if column in table.column_names:
            table = table.set_column(table.column_names.index(column), column, values)
        else:
            table = table.append_column(column, values)
    pq.write_table(table, folder / f"{name}.parquet")


def thinned(cases: Iterable[Case], step: int) -> list[Any]:
    """Mark cases as slow, all but one of so many."""
    slow = pytest.mark.slow
    return [pytest.param(c, marks=slow if k % step else ()) for k, c in enumerate(cases)]


def log_of(column: str, value: pa.Array) -> Damage:
    return lambda folder: to_parquet(folder, "log", **{column: value})


def preparing(file: str, *flags: str) -> tuple[str, ...]:
    """A command line that prepares a log in another folder."""
    return ("interactions", file, "--out", "other", *PREPARE[5:], *flags)


def types() -> Iterator[Case]:
    for column, (flag, readable) in COLUMNS.items():
        for name, value in VALUES.items():
            if name not in readable:
                message = rf"log.parquet: column '{column}' \({flag}\) must hold .* found "
                yield Case(
                    *("prepare", "column types", f"{column} of {name}"),
                    arguments=preparing("log.parquet"),
                    damage=log_of(column, value),
                    message=message,
                )
    for column in ("user", "item", "history"):
        for name, value in VALUES.items():
            if (column, name) != ("history", "list"):
                yield Case(
                    *("predict", "column types", f"{column} of {name}", PREDICT),
                    damage=lambda f, c=column, v=value: to_parquet(f, "queries", **{c: v}),
                    message=rf"queries.parquet: column '{column}' \(--{column}\) must hold .* foun",
                )


@pytest.mark.parametrize("case", thinned(types(), 5), ids=str)
def test_types_without_one_text_are_refused(case, attempt):
    attempt(case)


def a_time(text: str, rows: int = 1, start: int = 100) -> Damage:
    """Write a time into the first rows of the log, whose times then start elsewhere."""

    def damage(folder: Path) -> None:
        lines = (folder / "log.csv").read_text().splitlines()
        for place, line in enumerate(lines[1:], start=1):
            head, _, time = line.rpartition(",")
            lines[place] = f"{head},{int(time) - 100 + start}"
            if place <= rows:
                lines[place] = f"{head},{text}"
        (folder / "log.csv").write_text("\n".join([*lines, ""]))

    return damage


ONE_TIME = {
    **dict.fromkeys(["nan", "-nan", "1_000", "0x10", "7.5", "soon", "2024-01-31"], "whole number"),
    **dict.fromkeys(["inf", "1e400", "1e37", str(2**70), "9" * 20, "9" * 400], "beyond the year"),
    **dict.fromkeys(["-1", "-inf", str(-(2**70))], "is negative"),
    "": "the timestamp is empty",
    "\x1b[31mred": r"\\u001b\[31mred' is not a whole number",
}
REPORTED = {"status": 0, "left": ("other",)}


def times() -> Iterator[Case]:
    for text, message in ONE_TIME.items():
        expected = f"1 of 160 lines are malformed .* log.csv:2: .*{message}"
        name = f"one time {text[:24]!r}"
        line = preparing("log.csv")
        yield Case("prepare", "times", name, line, a_time(text), expected, **REPORTED)
    for start, text, unit in (
        (1_300_000_000_000, "1300000000", "seconds, and most timestamps are milliseconds"),
        (1_300_000_000, "1300000000000", "milliseconds, and most timestamps are seconds"),
        (1_300_000_000, "200000000000", "milliseconds, and most timestamps are seconds"),
    ):
        for rows, status in ((1, 0), (60, 2)):
            name = f"{rows} of 160 times {text} among {start}"
            left = ("other",) * (status == 0)
            damage = a_time(text, rows, start)
            yield Case(
                *("prepare", "times", name, preparing("log.csv"), damage, unit), status, left
            )
    for text in ("20130201", "201302011230", "20130201123059", "19991231"):
        name, message = f"dates {text}", f"log.csv: the timestamps look like dates .* {text}"
        damage = a_time(text, 160)
        yield Case("prepare", "times", name, preparing("log.csv"), damage, message)
    by_time = ("--split", "by-time", "--test-from")
    for flag, message in {
        "1300000000000": "--valid-from looks like milliseconds",
        "20130201": "--valid-from looks like a date without hyphens",
        "9" * 5000: "--valid-from must be a whole number or an ISO date",
        "noon": "--valid-from must be a whole number or an ISO date",
    }.items():
        line = preparing("log.csv", *by_time, "1300000150", "--valid-from", flag)
        damage = a_time("1300000100", 1, 1_300_000_100)
        yield Case("prepare", "times", f"--valid-from {flag[:20]}", line, damage, message)


@pytest.mark.parametrize("case", thinned(times(), 4), ids=str)
def test_times_of_logs(case, attempt):
    attempt(case)


def asking_at(time: str) -> Damage:
    return lambda f: (f / "queries.csv").write_text(f"user,item,timestamp\nu1,i3,{time}\n")


SCORING = ("run", "--input", "queries.csv", "--out", "scores.csv")
REQUEST_TIMES = {
    "": "it is empty",
    "nan": "must be a whole number or an ISO date, got 'nan'",
    "1e400": "must be a whole number or an ISO date",
    "7.5": "must be a whole number or an ISO date",
    "9" * 5000: "must be a whole number or an ISO date",
    "-5": "is before 1970, or beyond 9999",
    "1300000000000": "looks like milliseconds, got 1300000000000; the log has seconds",
    "2024-02-30": "must be a whole number or an ISO date",
    "10000-01-01": "must be a whole number or an ISO date",
    "\x1b]0;x\x07": r"got '\\x1b\]0;x\\x07'",
}


@pytest.mark.parametrize("time", REQUEST_TIMES, ids=lambda time: repr(time[:20]))
def test_times_of_requests(time, attempt):
    message = rf"queries.csv:2: column 'timestamp': .*{REQUEST_TIMES[time]}"
    attempt(Case("predict", "times", repr(time[:20]), SCORING, asking_at(time), message))


def cut(source: str, name: str, size: int) -> Damage:
    """Keep the first bytes of a table in another form."""

    def damage(folder: Path) -> None:
        if name.endswith(".gz"):
            content = gzip.compress((folder / f"{source}.csv").read_bytes(), mtime=0)
        else:
            to_parquet(folder, source)
            content = (folder / f"{source}.parquet").read_bytes()
            (folder / f"{source}.parquet").unlink()
        assert size < len(content)
        (folder / name).write_bytes(content[:size])

    return damage


def truncations() -> Iterator[Case]:
    for kind, most in ((".parquet", 11), (".csv.gz", 8)):
        for size in (1 << power for power in range(most)):
            log, table = f"cut{kind}", f"ask{kind}"
            message = "cut off or damaged|damaged, or not a Parquet|NUL byte|UTF-8|no column|empty"
            name = f"{size} bytes of {kind}"
            yield Case(
                *("prepare", "truncation", name, preparing(log)),
                damage=cut("log", log, size),
                message=rf"cut{kind}.*({message})",
            )
            if size < 64:
                yield Case(
                    *("predict", "truncation", name),
                    arguments=("run", "--input", table, "--out", f"scores{kind}"),
                    damage=cut("queries", table, size),
                    message=rf"ask{kind}.*({message})",
                )


@pytest.mark.parametrize("case", thinned(truncations(), 3), ids=str)
def test_truncated_tables_are_refused(case, attempt):
    attempt(case)


def hostile_archive(place: int, value: int) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "ml-1m.zip"
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("ratings", "movies", "users"):
                archive.writestr(f"ml-1m/{name}.dat", "1::2::3::4::5\n")
        content = bytearray(file.read_bytes())
        entry = content.index(b"PK\x01\x02")
        content[entry + place : entry + place + 2] = value.to_bytes(2, "little")
        content[place - 2 : place] = value.to_bytes(2, "little")
        file.write_bytes(content)

    return damage


def bomb(
    line: bytes, name: str, header: bytes = b"user,item,category,price,tags,timestamp\n"
) -> Damage:
    """A small gzip of many equal lines after a header: 300 MB."""

    def damage(folder: Path) -> None:
        block = line * ((1 << 20) // len(line))
        with gzip.open(folder / name, "wb", compresslevel=9) as stream:
            stream.write(header)
            for _ in range(300):
                stream.write(block)

    return damage


def parquet_bomb(folder: Path) -> None:
    """A Parquet file of a few kB in which one long id is there 100,000 times: 400 GB of text."""
    rows = {"user": "x" * (1 << 22), "item": "i1", "category": "c", "price": "1", "tags": "t"}
    places = pa.array([0] * 100_000, pa.int32())
    table = pa.table(
        {
            name: pa.DictionaryArray.from_arrays(places, pa.array([value]))
            for name, value in (rows | {"timestamp": "100"}).items()
        }
    )
    pq.write_table(table, folder / "b.parquet", compression="zstd", store_schema=False)


def odd_names(folder: Path) -> None:
    content = (folder / "log.csv").read_text()
    (folder / "log.csv").write_text(content.replace("user,", "\x1b[31muser\u202e,", 1))


def odd_parquet_names(folder: Path) -> None:
    pq.write_table(pa.table({"a\x1b]0;x\x07\nerror: b": [1]}), folder / "log.parquet")


ZIP = ("movielens", "--name", "1m", "--from", "ml-1m.zip", "--out", "other")
TOO_LARGE = "holds more than 100 times its compressed size"
FILES: list[Case | Any] = [
    *(
        Case(
            *(command, "archives", f"{command}: a pipe"),
            arguments=arguments,
            damage=lambda folder: os.mkfifo(folder / "pipe"),
            message="pipe is a pipe, and this file is read more than once; write it to a file",
        )
        for command, arguments in {
            "prepare": preparing("pipe"),
            "predict": ("run", "--input", "pipe", "--out", "scores.csv"),
        }.items()
    ),
    Case("prepare", "archives", "encrypted", ZIP, hostile_archive(8, 1), "is encrypted"),
    Case("prepare", "archives", "patched", ZIP, hostile_archive(8, 32), "cannot be unpacked"),
    Case("prepare", "archives", "unknown", ZIP, hostile_archive(10, 99), "an unknown way, 99"),
    pytest.param(
        Case(
            *("prepare", "archives", "gzip of empty lines", preparing("b.csv.gz")),
            damage=bomb(b"\n", "b.csv.gz"),
            message=TOO_LARGE,
        ),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        Case(
            *("prepare", "archives", "gzip of rows", preparing("b.csv.gz")),
            damage=bomb(b"u,i,c,1,a,7\n", "b.csv.gz"),
            message=TOO_LARGE,
        ),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        Case(
            *("predict", "archives", "gzip of empty lines"),
            arguments=("run", "--input", "b.csv.gz", "--out", "scores.csv"),
            damage=bomb(b"\n", "b.csv.gz", b"user,item\n"),
            message="b.csv.gz:1048578: .* more than 1048576 lines in a row are empty",
        ),
        marks=pytest.mark.slow,
    ),
    Case(
        *("prepare", "archives", "Parquet of one value", preparing("b.parquet")),
        damage=parquet_bomb,
        message=TOO_LARGE,
    ),
    Case(
        *("predict", "archives", "Parquet of one value"),
        arguments=("run", "--input", "b.parquet", "--out", "scores.parquet"),
        damage=parquet_bomb,
        message=TOO_LARGE,
    ),
    Case(
        *("prepare", "terminal", "escapes in names of columns", preparing("log.csv")),
        damage=odd_names,
        message=r"no column 'user' .* its columns are \\u001b\[31muser\\u202e, item",
    ),
    Case(
        *("prepare", "terminal", "escapes in names of Parquet columns"),
        arguments=preparing("log.parquet"),
        damage=odd_parquet_names,
        message=r"its columns are a\\u001b\]0;x\\u0007\\u000aerror: b",
    ),
    Case(
        *("prepare", "columns", "other case", preparing("log.csv", "--user", "User")),
        message="no column 'User' .* did you mean 'user'",
    ),
    Case(
        *("prepare", "columns", "features that differ by case"),
        arguments=preparing("log.csv", "--user-features", "Category"),
        message="Category: that name is taken by --item-features, ignoring case",
    ),
]


@pytest.mark.parametrize("case", FILES, ids=str)
def test_hostile_files(case, attempt):
    attempt(case)


COMMANDS = (
    "train evaluate predict prepare compare baselines tune reproduce explain report export serve"
)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.split())
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "C"],
)
def test_help_on_terminals_without_unicode(command, environment, attempt):
    case = Case(command, "terminal", "help in ASCII", ("--help",), status=0, message="usage")
    attempt(Case(**{**vars(case), "environment": environment}))
