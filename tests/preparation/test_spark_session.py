"""Numbers and times that Spark reads, tables that are shared with it, and its errors.

The tests that need a session run in ``.ci/spark``, in the session of the environment.
"""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from support import tiny_logs
from support.programs import free_port
from support.small_dataset import assert_equal
from support.spark import needs_spark, without_spark
from support.tiny_logs import LOG, write
from support.value_texts import TEXTS, read_by

from dien_jax import errors
from dien_jax import prepare as command
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.logs import open_workspace
from dien_jax.preparation.options import LogOptions
from dien_jax.preparation.reading import spark_workspace
from dien_jax.preparation.reading.spark_workspace import PLACE, SharedFolder
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.preparation.sources import interactions

connect = pytest.importorskip("pyspark.sql.connect.session", reason="the extra spark brings it")


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory) -> Iterator[tuple[Workspace, Workspace]]:
    folder = tmp_path_factory.mktemp("engines")
    with (
        open_workspace(LogOptions(out=folder / "duckdb", split="by-user")) as duckdb,
        open_workspace(LogOptions(out=folder / "spark", split="by-user", engine="spark")) as spark,
    ):
        yield duckdb, spark


@needs_spark
@pytest.mark.parametrize("kind", TEXTS)
def test_both_engines_read_the_same_numbers_and_dates(kind, workspaces):
    texts = TEXTS[kind]
    mine, theirs = (read_by(workspace, texts, kind) for workspace in workspaces)
    found = dict(zip(texts, zip(mine, theirs, strict=True), strict=True))
    assert {text: both for text, both in found.items() if both[0] != both[1]} == {}
    assert "None" in mine
    assert len(set(mine)) > 10


@needs_spark
@pytest.mark.parametrize("separator", ["|", ".", "^", "[", "\\", "$", "; ", "ab", "é", "<"])
def test_both_engines_split_at_the_same_places(separator, workspaces):
    cells = [separator.join(["x", " y ", "", "z"]), "x", separator, "a.b|c^d"]
    rows = []
    for workspace in workspaces:
        table = workspace.store("cells", pa.table({"position": [0, 1, 2, 3], "raw": cells}))
        pieces = workspace.pieces(table, separator).order_by("position", "rank")
        batches = workspace.batches(pieces, ["position", "rank", "raw"])
        rows.append([tuple(row.values()) for batch in batches for row in batch.to_pylist()])
    assert rows[0] == rows[1]
    assert rows[0][:3] == [(0, 0, "x"), (0, 1, "y"), (0, 3, "z")]


@needs_spark
def test_rows_are_numbered_in_their_order(workspaces):
    numbers = np.random.default_rng(0).permutation(50_000)
    for workspace in workspaces:
        table = workspace.store("numbers", pa.table({"key": numbers // 7, "tie": numbers % 7}))
        ordered = workspace.store_ordered("ordered", table, ["key", "tie"])
        types = dict.fromkeys(("key", "tie"), np.int64)
        key, tie = (f.read() for f in workspace.array_files(ordered, types).values())
        np.testing.assert_array_equal(key * 7 + tie, np.arange(50_000))
        types = dict.fromkeys(("position", "tie"), np.int64)
        joined = workspace.array_files(ordered.order_by("position"), types)
        np.testing.assert_array_equal(joined["position"].read(), np.arange(50_000))
        np.testing.assert_array_equal(joined["tie"].read(), tie)


def test_files_of_a_sorted_table_are_read_in_its_order(tmp_path):
    folder, places = SharedFolder(str(tmp_path)), np.arange(30_000) * 3
    table = Path(folder.address_of("t"))
    table.mkdir()
    for number, part in enumerate((*np.split(places, 4)[::-1], places[:0])):
        columns = pa.table({PLACE: part, "x": part * 2})
        pq.write_table(columns, table / f"part-{number}.parquet", row_group_size=1_000)
    (table / "_SUCCESS").touch()
    read = np.concatenate([b.column("x").to_numpy() for b in folder.read("t", ["x"])])
    np.testing.assert_array_equal(read, places * 2)
    folder.remove()
    assert not list(tmp_path.iterdir())


def options(folder: Path, **changes: Any) -> interactions.InteractionsOptions:
    plain = {"engine": "spark", "item_features": ()}
    return tiny_logs.options(write(folder, LOG), **plain, **changes)


def refused(expected: str, folder: Path, **changes: Any) -> None:
    tiny_logs.refused(write(folder, LOG), expected, engine="spark", **changes)


def test_addresses_that_lead_nowhere_are_refused(tmp_path):
    closed = f"127.0.0.1:{free_port()}"
    expected = f"--spark-url .*: nothing answers at {closed}"
    refused(expected, tmp_path, spark_url=f"sc://{closed}")
    refused("expected sc://HOST:PORT, got .*[Pp]ort", tmp_path, spark_url="sc://x:port")


@without_spark
def test_no_session_in_the_environment_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    monkeypatch.setattr(connect.SparkSession, "_default_session", None)
    monkeypatch.setattr(connect.SparkSession, "_active_session", threading.local())
    refused("--engine spark: no Spark session .*--spark-url", tmp_path)


def test_the_session_of_the_environment_has_its_own_settings_again(monkeypatch):
    own = {"spark.sql.session.timeZone": "Europe/Berlin", "spark.sql.shuffle.partitions": "3"}
    settings = dict(own)
    conf = Mock(get=settings.get, set=settings.__setitem__, unset=settings.__delitem__)
    session = Mock(version="4.0.4", conf=conf)
    monkeypatch.setattr(spark_workspace, "_open_session", lambda url: session)
    with spark_workspace._session(None):
        assert settings == own | spark_workspace.SETTINGS
        assert settings["spark.sql.session.timeZone"] == "UTC"
    assert settings == own


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(errors.EXTRAS, "spark", ("no_such_module",))
    refused(r"--engine spark needs the extra 'spark'", tmp_path, spark_url="sc://x")


@needs_spark
def test_folders_that_one_side_does_not_see_are_refused(tmp_path, monkeypatch):
    file = write(tmp_path, "")
    refused("cannot be written", tmp_path, spark_folder=str(file))
    monkeypatch.setattr(SharedFolder, "address_of", lambda *_: "/no/such/folder")
    refused("Spark and this process must both see .*--spark-folder", tmp_path)


@needs_spark
def test_a_damaged_file_and_a_missing_column_are_named(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = options(folder)
    missing = r"(log.csv|logs) has no column 'usr' \(--user\); .*; did you mean 'user'"
    with pytest.raises(UserError, match=missing):
        interactions.prepare(dataclasses.replace(log, user="usr"))
    table = pa.table({"user": ["u"], "item": ["i"], "timestamp": [1.5]})
    pq.write_table(table, folder / "a.parquet")
    log.file.unlink()
    with pytest.raises(UserError, match=missing):
        interactions.prepare(dataclasses.replace(log, file=folder, user="usr"))
    (folder / "b.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(UserError, match=r"b\.parquet"):
        interactions.prepare(dataclasses.replace(log, file=folder))


@needs_spark
def test_an_address_is_read_like_a_path(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = options(folder, out=tmp_path / "duckdb")
    address = Path(f"file://{folder}")
    at_address = dataclasses.replace(log, file=address, out=tmp_path / "spark")
    with pytest.raises(UserError, match=r"file://.*: expected Parquet files, .* found .*log\.csv"):
        interactions.prepare(at_address)
    pq.write_table(pacsv.read_csv(log.file), folder / "log.parquet")
    log.file.unlink()
    log = dataclasses.replace(log, file=folder)
    interactions.prepare(dataclasses.replace(log, engine="duckdb"))
    interactions.prepare(at_address)
    one, other = open_dataset(log.out), open_dataset(at_address.out)
    assert_equal(one, other)
    assert other.meta["source"]["files"] == {"log.parquet": None}
    third = dataclasses.replace(at_address, out=tmp_path / "third")
    with pytest.raises(UserError, match=f"file://{folder} is no file of this .*--engine spark"):
        interactions.prepare(dataclasses.replace(third, engine="duckdb"))
    with pytest.raises(UserError, match=r"nothing.csv does not exist; an address such as hdfs"):
        interactions.prepare(dataclasses.replace(third, file=folder / "nothing.csv"))


@needs_spark
def test_the_command_prepares_at_an_address(tmp_path, capsys, monkeypatch):
    log = options(tmp_path)
    words = ["interactions", str(log.file), "--out", str(log.out), "--engine", "spark"]
    # The server of the environment, which a client that stops would end.
    monkeypatch.delenv("SPARK_LOCAL_REMOTE", raising=False)
    where = ["--spark-url", "sc://localhost:15002", "--spark-folder", str(tmp_path)]
    assert command.main([*words, *where]) == 0
    assert f"dataset folder: {log.out}" in capsys.readouterr().out
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "log.csv"]
