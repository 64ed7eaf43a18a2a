"""The memory limit of a preparation: how it is divided, and that it holds."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.small_dataset import assert_equal

from benchmarks import preparation
from dien_jax import UserError
from dien_jax.data.dataset import open_dataset
from dien_jax.preparation.memory import PROGRAM, divide, parse_size, reading_limit
from dien_jax.preparation.reading.duckdb_engine import duckdb_workspace
from dien_jax.prepare import main

pytestmark = [pytest.mark.fast, pytest.mark.repository]

SIZES = {"users": 10**6, "items": 10**5, "events": 10**7, "longest": 500, "examples": 2}


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5 kib", 1536), ("20mb", 20 * 10**6), ("1TB", 10**12)]
)
def test_sizes_have_units_of_1000_or_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_parts_get_larger_with_the_memory_and_smaller_with_the_log() -> None:
    less, more = (divide(text, **SIZES)[1] for text in ("3GB", "4GB"))
    assert 10**6 < less < more
    for change in ({"users": 5 * 10**6}, {"examples": 5}):
        assert divide("4GB", **SIZES | change)[1] < more


def test_the_database_has_what_the_rest_leaves(tmp_path) -> None:
    limit = parse_size("4GB")
    assert PROGRAM < limit - reading_limit("4GB") < limit - divide("4GB", **SIZES)[0]
    with duckdb_workspace(tmp_path / "data", tmp_path, "4GB") as workspace:
        workspace.limit(2**30)
        found = workspace._connection.execute("SELECT current_setting('memory_limit')").fetchone()
        assert found == ("1.0 GiB",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"users": 10**9}, "1,000,000,000 users, .* take about 10[0-9],[0-9]{3}MB"),
        ({"longest": 10**7}, "of 10,000,000 events at most"),
        ({"examples": 1001}, "1,001 examples of an event"),
    ],
)
def test_a_log_that_does_not_fit_is_refused_with_an_estimate(change, match) -> None:
    with pytest.raises(UserError, match=f"--memory 2.5GB is too little: .*{match}"):
        divide("2.5GB", **SIZES | change)


@pytest.mark.long
@pytest.mark.parametrize("log", ["interactions", "impressions"])
def test_a_small_limit_holds_and_gives_the_same_folder(log: str, tmp_path) -> None:
    events, file = 100_000, tmp_path / "log.parquet"
    preparation.write_log(file, events)
    if log == "impressions":
        labels = np.random.default_rng(0).integers(0, 2, events, np.int8)
        pq.write_table(pq.read_table(file).append_column("label", pa.array(labels)), file)
    command = [log, str(file), "--item-features", "category", "--out"]
    small = ["-m", "dien_jax.prepare", *command, str(tmp_path / "small"), "--memory", "800MB"]
    measured = preparation.measure([sys.executable, *small], tmp_path, tmp_path / "small")
    assert measured["peak_mb"] * 2**20 < parse_size("800MB")
    assert main([*command, str(tmp_path / "large")]) == 0
    assert_equal(*(open_dataset(tmp_path / name) for name in ("small", "large")))
