"""Parquet files whose content is far larger than they are: refused, within little memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dien_jax import UserError
from dien_jax.utils import parquet_files
from dien_jax.utils.parquet_files import BATCH_BYTES, parquet_batches

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LONG = "x" * (1 << 22)
MANY = 100_000
SHARED = {"user": "DELTA_BYTE_ARRAY"}


def written(file: Path, values: Any, **options: Any) -> Path:
    table = pa.table({"user": values, "other": pa.nulls(len(values))})
    pq.write_table(table, file, compression="zstd", store_schema=False, **options)
    return file


def repeated(count: int) -> Any:
    """One long value, many times: a dictionary of one entry."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([LONG]))


def in_one_list(values: Any) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


@pytest.mark.long
@pytest.mark.parametrize(
    ("values", "options"),
    [
        (lambda: repeated(MANY), {}),
        (lambda: repeated(MANY), {"row_group_size": MANY // 10}),
        (lambda: pa.array([LONG] * 70), {"use_dictionary": False}),
        (lambda: pa.array(np.zeros(1 << 26, np.int64)), {}),
        (lambda: pa.array([LONG] * 99), {"use_dictionary": False, "column_encoding": SHARED}),
    ],
    ids=["dictionary", "dictionaries", "pages", "numbers", "shared prefixes"],
)
def test_content_far_larger_than_the_file_is_refused_within_little_memory(
    values: Callable[[], Any], options: dict[str, Any], tmp_path: Path
) -> None:
    file = written(tmp_path / "log.parquet", values(), **options)
    assert file.stat().st_size < 1 << 20
    before = pa.total_allocated_bytes()
    batches, sizes = parquet_batches(file, 1 << 18, ["user"]), []
    with pytest.raises(UserError, match=r"log\.parquet: holds more than 100 times .* to CSV"):
        sizes.extend(pa.total_allocated_bytes() - before for _ in batches)
    # Buffers grow by doubling, and a batch is decoded.
    assert max(sizes, default=0) <= 2 * BATCH_BYTES + (1 << 26)
    with pytest.raises(UserError, match=r"given\.parquet: holds"):
        list(parquet_batches(file, 1 << 18, shown=Path("given.parquet")))


def test_what_was_read_does_not_stay_in_memory(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 62, 1 << 21)
    file = written(tmp_path / "log.parquet", values, row_group_size=1 << 17)
    assert file.stat().st_size > 1 << 23
    before = pa.total_allocated_bytes()
    batches = parquet_batches(file, 1 << 14)
    sizes = [pa.total_allocated_bytes() - before for _ in batches]
    assert max(sizes) < 1 << 22


def test_list_that_repeats_a_long_value_is_refused(tmp_path: Path) -> None:
    inner = pa.array([LONG[: 1 << 16]] * 2)
    file = written(tmp_path / "log.parquet", in_one_list(inner))
    assert [batch.num_rows for batch in parquet_batches(file, 9)] == [1]
    small = pa.array([LONG[: 1 << 11]] * (1 << 18))  # half a gigabyte
    file = written(tmp_path / "log.parquet", in_one_list(small))
    with pytest.raises(UserError, match="holds more than 100 times"):
        list(parquet_batches(file, 9))


@pytest.mark.parametrize("encoding", [None, "PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_rows_are_those_of_the_file(
    encoding: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [f"user {number % 7}" for number in range(1000)]
    options: dict[str, Any] = {"use_dictionary": encoding is None, "row_group_size": 300}
    options |= {} if encoding is None else {"column_encoding": {"user": encoding}}
    file = written(tmp_path / "log.parquet", pa.array(values), **options)
    read = pa.Table.from_batches(parquet_batches(file, 100, ["user"]))
    assert read.column_names == ["user"]
    assert read["user"].to_pylist() == values
    monkeypatch.setattr(parquet_files, "BATCH_BYTES", 120)
    batches = list(parquet_batches(file, 100))
    repeats = encoding in (None, "DELTA_BYTE_ARRAY")
    assert (max(batch.num_rows for batch in batches) < 100) == repeats
    assert pa.Table.from_batches(batches)["user"].to_pylist() == values
