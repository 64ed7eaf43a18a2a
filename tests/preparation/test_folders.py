"""A log in a folder of files is the log of their rows, in the order of their names."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny_logs
from support.small_dataset import assert_equal

pytestmark = pytest.mark.fast

NAMES = ("a.csv", "day=1/part.csv", "day=2/part.csv")
HEADER = "user,item,kind,timestamp"
ROWS = [f"u{k % 7},i{k * k % 11},k{k % 3},{100 + k // 2}" for k in range(60)]
make = partial(tiny_logs.make, item_features=("kind",), max_bad_share=0.5)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of three files, and names that are no data."""
    folder = tmp_path / "log"
    for number, name in enumerate((*NAMES, "_SUCCESS", ".a.csv.crc")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = ROWS[number * 20 : number * 20 + 20]
        (folder / name).write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def as_parquet(folder: Path) -> None:
    for name in NAMES:
        rows = [line.split(",") for line in (folder / name).read_text().splitlines()[1:]]
        columns = dict(zip(HEADER.split(","), zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table(columns), folder / name.replace("csv", "parquet"))
        (folder / name).unlink()


@pytest.mark.long
def test_folder_equals_one_file(folder, tmp_path):
    one, summary = make(tiny_logs.write(tmp_path, "\n".join([HEADER, *ROWS])), out=tmp_path / "one")
    parts, same = make(folder, out=tmp_path / "parts")
    assert_equal(one, parts)
    assert same == summary
    assert list(parts.meta["source"]["files"]) == list(NAMES)
    as_parquet(folder)
    assert_equal(one, make(folder, out=tmp_path / "parquet")[0])


def test_malformed_lines_have_the_file_that_they_are_in(folder, tmp_path):
    file = folder / NAMES[1]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], "u1,i1,k1,soon", *lines[3:], "u1,i1"]))
    _, summary = make(folder)
    assert summary[:3] == [
        "2 of 62 lines are malformed and were left out:",
        f"  {file}:23: expected 4 columns, found 2",
        f"  {file}:4: timestamp 'soon' is not a whole number",
    ]


@pytest.mark.long
def test_rows_of_parquet_have_the_file_that_they_are_in(folder, tmp_path):
    as_parquet(folder)
    file = folder / NAMES[2].replace("csv", "parquet")
    columns = {"user": ["u1", ""], "item": ["i1"] * 2, "kind": ["k"] * 2, "timestamp": ["1"] * 2}
    pq.write_table(pa.table(columns), file)
    assert f"  {file}:2: the user is empty" in make(folder)[1]
