"""The benchmark of reading measures folders with and without their files in memory."""

import json

import pytest
from support import many_items

from benchmarks import reading

pytestmark = [pytest.mark.long, pytest.mark.repository]


def test_each_folder_has_a_warm_and_a_cold_row(tmp_path, capsys) -> None:
    folder, file = many_items.write(tmp_path / "data"), tmp_path / "rows.json"
    reading.main([str(folder), "--batches", "3", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [row["policy"] for row in rows] == ["warm", "cold"]
    for row in rows:
        assert set(reading.COLUMNS) <= set(row)
        assert row["examples_per_second"] > 0
    assert capsys.readouterr().out.count("| warm |") == 1
