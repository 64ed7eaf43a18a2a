"""Rows of a log that come back as requests are known, whatever file they come from."""

import csv
import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import untrained_run

from dien_jax.data.dataset import open_dataset
from dien_jax.inference import score_requests
from dien_jax.preparation.sources.impressions import ImpressionsOptions, prepare

pytestmark = pytest.mark.long

ROWS = 40
DAYS = [datetime.date(2024, 1, 1 + k % 28) for k in range(ROWS)]
NOONS = [datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=7 * k) for k in range(ROWS)]
COLUMNS = {
    "user": pa.array([f"u{k % 4}" for k in range(ROWS)]).dictionary_encode(),
    "item": pa.array([Decimal(10**17 + k % 5) for k in range(ROWS)]),
    "label": pa.array([k % 3 == 0 for k in range(ROWS)]),
    "timestamp": pa.array(NOONS, pa.timestamp("ns")),
    "day": pa.array(DAYS),
    "number": pa.array([k % 7 for k in range(ROWS)], pa.uint8()),
    "names": pa.array([[f"n{k % 3}", None, "x"] if k % 4 else None for k in range(ROWS)]),
    "codes": pa.array([[k % 3, 9] for k in range(ROWS)], pa.list_(pa.int16(), 2)),
    "one": pa.array([k % 3 for k in range(ROWS)]),
    "half": pa.array([0.1 * k for k in range(ROWS)], pa.float32()),
    "flag": pa.array([k % 2 == 0 for k in range(ROWS)]),
    "price": pa.array([Decimal(k) / 100 for k in range(ROWS)], pa.decimal128(9, 2)),
}
FEATURES = (
    "day", "number", "names:multivalued", "codes:multivalued", "one:multivalued", "half:numeric",
    "flag:numeric", "price:numeric",
)  # fmt: skip


def options(folder: Path, columns: dict[str, pa.Array], **changes) -> ImpressionsOptions:
    file = folder / "log.parquet"
    pq.write_table(pa.table(columns), file)
    return ImpressionsOptions(file=file, out=folder / "data", **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    prepare(options(folder, COLUMNS, context_features=FEATURES, split="by-time"))
    return untrained_run.write(folder / "run", folder / "data", model="base_model")


def cell(value) -> str:
    if isinstance(value, list):
        return "|".join("" if part is None else str(part) for part in value)
    return str(int(value)) if isinstance(value, bool) else "" if value is None else str(value)


def test_the_logs_own_rows_are_known_as_parquet_and_as_csv(run, tmp_path) -> None:
    train = {name: values.slice(0, ROWS // 2) for name, values in COLUMNS.items()}
    pq.write_table(pa.table(train), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(train)
        train_texts = train | {"half": train["half"].cast(pa.string())}  # the shortest digits
        values = [column.to_pylist() for column in train_texts.values()]
        writer.writerows([list(map(cell, row)) for row in zip(*values, strict=True)])
    scores = []
    for kind in ("parquet", "csv"):
        out = tmp_path / f"out.{kind}"
        counts = score_requests(run, tmp_path / f"a.{kind}", out)
        unknown = {name: count for name, count in counts.items() if name.startswith("unknown")}
        assert set(unknown.values()) == {0}, unknown
        assert counts["rows"] == ROWS // 2
        # Four users have no click before their first row, and others none for some rows.
        assert counts["empty_histories"] < ROWS // 4
    table = pq.read_table(tmp_path / "out.parquet")
    scores = np.array(table["score"].to_pylist(), np.float32)
    with (tmp_path / "out.csv").open(newline="") as stream:
        written = np.array([row["score"] for row in csv.DictReader(stream)], np.float32)
    np.testing.assert_array_equal(scores, written)
    assert table.drop_columns("score") == pa.table(train)


def test_a_column_is_found_by_its_exact_case(tmp_path) -> None:
    other = pa.array(["other"] * ROWS)
    columns = {"User": other, "ITEM": other} | COLUMNS | {"Timestamp": other}
    prepare(options(tmp_path, columns))
    assert open_dataset(tmp_path / "data").groups() == ["u0", "u1", "u2", "u3"]
