"""The benchmark of preparation makes logs, and measures what reads them."""

import json
from importlib.util import find_spec

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import preparation

pytestmark = [pytest.mark.long, pytest.mark.repository]


def test_made_logs_are_in_the_order_of_time_and_have_few_popular_items(tmp_path) -> None:
    for log, columns in (("interactions", 4), ("impressions", 5)):
        preparation.write_log(tmp_path / "log.parquet", log, 20_001)
        table = pq.read_table(tmp_path / "log.parquet")
        assert (table.num_rows, table.num_columns) == (20_001, columns)
        assert (np.diff(table["timestamp"].to_numpy()) >= 0).all()
        counts = np.sort(np.bincount(table["item"].to_numpy()))[::-1]
        assert counts[:20].sum() > 0.3 * counts.sum()
        assert len(counts) <= 2_000


def test_rows_of_each_system_have_time_memory_disk_and_growth(tmp_path, capsys) -> None:
    file = tmp_path / "rows.json"
    arguments = ["--events", "500", "2000", "--folder", str(tmp_path), "--json", str(file)]
    preparation.main([*arguments, "--plot", str(tmp_path / "curves.png")])
    rows = json.loads(file.read_text())
    systems = ["dien_jax", *(name for name in preparation.QUERIES if find_spec(name))]
    assert [row["system"] for row in rows] == 2 * systems
    for row in rows:
        assert row["peak_mb"] > 10
        assert 0 < row["disk_mb"] <= row["peak_disk_mb"]
    assert [row["growth"] != 0 for row in rows] == [False] * len(systems) + [True] * len(systems)
    assert "| 2,000 interactions | dien_jax |" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "rows.json"]
