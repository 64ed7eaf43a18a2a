"""Copies of files for engines that do not tell the places of rows."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dien_jax import UserError
from dien_jax.preparation.reading import spark_copies as copies


def rows_of(copy: Any) -> list[dict[str, Any]]:
    return pa.Table.from_batches(copy.batches, copy.schema).to_pylist()


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n"])
def test_lines_are_numbered_in_each_file(
    block: int, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "BYTES", block)
    plain, packed = tmp_path / "a.csv", tmp_path / "b.csv.gz"
    plain.write_bytes(f"é,1\r\n\nlast{end}".encode())
    packed.write_bytes(gzip.compress(b"x\ny"))
    names = [f"file://{plain}", str(packed)]
    expected = [
        {"value": text, "_file": str(file), "_block": 0, "_line_place": place}
        for file, lines in ((plain, ["é,1\r", "", "last"]), (packed, ["x", "y"]))
        for place, text in enumerate(lines)
    ]
    assert rows_of(copies.copy_lines(names)) == expected


def test_rows_have_the_types_of_the_first_file(tmp_path: Path) -> None:
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(pa.table({"item": pa.array([3, 4], pa.int32()), "other": ["", ""]}), files[0])
    pq.write_table(pa.table({"user": [0], "item": pa.array([5], pa.int64())}), files[1])
    rows = rows_of(copies.copy_rows(list(map(str, files)), ["item"]))
    assert [(row["item"], row["_line_place"]) for row in rows] == [(3, 0), (4, 1), (5, 0)]
    for wrong in ({"item": ["pear"]}, {"user": [1]}):
        pq.write_table(pa.table(wrong), files[1])
        with pytest.raises(UserError, match=r"b\.parquet: damaged, or other columns than .*a\.par"):
            rows_of(copies.copy_rows(list(map(str, files)), ["item"]))


def test_files_that_cannot_be_copied_are_refused(tmp_path: Path) -> None:
    text, packed, parquet = (tmp_path / name for name in ("a.csv", "b.csv.gz", "c.parquet"))
    text.write_bytes(b"user\nu1\n\xff\nu2\n")
    packed.write_bytes(gzip.compress(b"user\n" * 1000)[:-9])
    pq.write_table(pa.table({"item": list(range(100))}), parquet, compression="none")
    content = bytearray(parquet.read_bytes())
    content[4:60] = b"\0" * 56
    with pytest.raises(UserError, match=r"a\.csv:3: not UTF-8, which this engine does not read"):
        rows_of(copies.copy_lines([str(text)]))
    with pytest.raises(UserError, match=r"b\.csv\.gz: damaged gzip"):
        rows_of(copies.copy_lines([str(packed)]))
    with pytest.raises(UserError, match=r"/log/a\.csv: this engine .* files of this machine alone"):
        copies.copy_lines(["s3://bucket/log/a.csv"])
    parquet.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.parquet: damaged, or "):
        rows_of(copies.copy_rows([str(parquet)], ["item"]))
