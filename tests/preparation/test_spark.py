"""Folders that Spark prepares are those of DuckDB, to the last bit.

These tests run in ``.ci/spark``, in the session of the environment.
"""

import dataclasses
import datetime
import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.small_dataset import assert_equal
from support.source_samples import SAMPLES, review
from support.spark import needs_spark
from support.tiny_logs import PREPARE, SPLITS, log_of, of_every_column, old_and_new

from dien_jax.data.dataset import open_dataset
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.sources import impressions, interactions

pytestmark = needs_spark


@pytest.fixture
def both(tmp_path) -> Callable[..., None]:
    """Return a function that prepares with both engines and compares."""

    def prepared(options: LogOptions, prepare: Callable[[Any], list[str]]) -> None:
        said = prepare(options)
        other = dataclasses.replace(options, out=tmp_path / "s", engine="spark")
        assert prepare(other) == said
        folders = open_dataset(options.out), open_dataset(other.out)
        assert_equal(*folders)
        meta = [dict(folder.meta) for folder in folders]
        assert meta[1]["source"] == {**meta[0].pop("source"), "engine": "spark"}
        del meta[1]["source"]
        assert meta[0] == meta[1]
        assert not list(tmp_path.glob(".*")), "nothing is left behind"

    return prepared


@pytest.mark.parametrize(
    ("kind", "split"),
    [
        ("interactions", "by-user"),
        ("interactions", "train-from"),
        ("impressions", "last-event"),
        ("impressions", "by-time"),
    ],
)
def test_logs_of_every_column(kind, split, both, tmp_path):
    settings = SPLITS[split] | {"max_values": 2, "min_count": 2}
    both(of_every_column(kind, log_of(tmp_path), tmp_path / "data", **settings), PREPARE[kind])


@pytest.mark.long
def test_extension(both, tmp_path):
    first, second = old_and_new(tmp_path)
    options = of_every_column("interactions", first, tmp_path / "old", split="by-time")
    interactions.prepare(options)
    extension = {"file": second, "out": tmp_path / "new", "extend": tmp_path / "old"}
    both(dataclasses.replace(options, **extension), interactions.prepare)


def test_files_that_tasks_share(both, tmp_path):
    count, folder = 100_000, tmp_path / "log"
    folder.mkdir()
    random = np.random.default_rng(0)
    user, item = random.integers(0, 5000, count), random.integers(0, 300, count)
    names = [f"user {k} of the log with a long id" for k in user]
    for number in range(2):
        own = slice(number * count // 2, (number + 1) * count // 2)
        times = np.arange(count // 2) // 7
        table = pa.table({"user": names[own], "item": item[own], "timestamp": times})
        file = folder / f"{number}.parquet"
        pq.write_table(table, file, row_group_size=2000, use_dictionary=False)
    options = interactions.InteractionsOptions(
        file=folder, out=tmp_path / "data", split="by-user", max_examples=1
    )
    both(options, interactions.prepare)


def test_parquet_of_all_types_in_a_folder(both, tmp_path):
    day, count = datetime.date(2024, 1, 31), 40
    random = np.random.default_rng(0)
    moments = [datetime.datetime(2024, 1, 1 + k // 2, k, 5, 7, 999_999) for k in range(24)]
    table = pa.table(
        {
            "user.of `it`": pa.array(random.integers(0, 5, count), pa.int32()),
            "item": pa.array([decimal.Decimal(k % 7) for k in range(count)], pa.decimal128(12, 0)),
            "at": pa.array([moments[k % 24] for k in range(count)], pa.timestamp("us")),
            "kind": pa.array([day + datetime.timedelta(k % 3) for k in range(count)]),
            "tags": [
                None if k % 9 == 0 else [f"t{k % 4}", None, f" t{k % 3}"] for k in range(count)
            ],
            "price": pa.array([float("nan") if k == 3 else k / 7 for k in range(count)]),
            "sale": [None if k == 5 else k % 2 == 0 for k in range(count)],
            "weight": pa.array([k * 1.5 for k in range(count)], pa.float32()),
            "label": pa.array([k % 3 == 0 for k in range(count)]),
            "slot": [f"s{k % 3}" for k in range(count)],
        }
    )
    (tmp_path / "log").mkdir()
    for number in range(3):
        part = table.slice(number * 15, 15)
        pq.write_table(part, tmp_path / "log" / f"part-{number}.parquet", row_group_size=4)
    options = impressions.ImpressionsOptions(
        file=tmp_path / "log",
        out=tmp_path / "data",
        user="user.of `it`",
        timestamp="at",
        item_features=("kind", "tags:multivalued", "price:numeric"),
        request_features=("sale:numeric", "weight:numeric", "slot"),
        valid_share=0.2,
        test_share=0.2,
    )
    both(options, impressions.prepare)


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("alimama", {}),
        ("amazon", {"five_core": True}),
        ("movielens", {"min_rating": 1.0}),
        ("taobao", {}),
    ],
)
def test_published_sets(source, changes, both, tmp_path):
    sample, folder = SAMPLES[source], tmp_path / "log"
    added = {name: [lines[0][0]] for name, lines in sample.bad.items()}
    if source == "amazon":
        added["reviews"] += [review(f"v{u}", f"B{i}", i) for u in range(6) for i in range(6)]
    sample.write(folder, **added)
    options = sample.options(folder, out=tmp_path / "data", max_bad_share=0.4, **changes)
    both(options, sample.prepare)
