"""The benchmark of scoring makes tables that predict reads, and has a row for each command."""

import csv
import json
from pathlib import Path

import pytest
from support import many_items, untrained_run

from benchmarks import scoring
from dien_jax.data.dataset import open_dataset

pytestmark = [pytest.mark.long, pytest.mark.repository]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    data = many_items.write(folder / "data")
    return untrained_run.write(folder / "run", data, model="din", statistics=False, factors=False)


def test_tables_have_known_users_candidates_and_histories(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 4)
    dataset, file = open_dataset(run.parent / "data"), tmp_path / "requests.csv"
    scoring.write_requests(file, dataset, 9)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    items = set(dataset.vocabulary("item")[1:])
    for row in rows:
        history = row["history"].split("|")
        assert len(history) == scoring.BEHAVIOURS
        assert {row["item"], *history} <= items
        assert row["user"] in dataset.groups()


def test_each_table_and_split_has_a_row(run, tmp_path, monkeypatch, capsys) -> None:
    commands = []

    def measured(command, folder, out) -> dict[str, float]:
        commands.append(command[1:5])
        return {"seconds": 2.0, "peak_mb": 3.0, "disk_mb": 0.0, "peak_disk_mb": 0.0}

    monkeypatch.setattr(scoring, "measure", measured)
    file = tmp_path / "rows.json"
    scoring.main([str(run), "--rows", "5", "--json", str(file)])
    rows = json.loads(file.read_text())
    sizes = [120, 30, 30]
    assert [(row["system"], row["rows"]) for row in rows] == [
        ("predict", 5), *(("evaluate", size) for size in sizes)
    ]  # fmt: skip
    assert [row["samples_per_second"] for row in rows] == [size / 2 for size in (5, *sizes)]
    assert [command[1] for command in commands] == ["dien_jax.predict", *["dien_jax.evaluate"] * 3]
    assert capsys.readouterr().out.count("| evaluate |") == 3


@pytest.mark.slow
def test_commands_run(run, tmp_path) -> None:
    file = tmp_path / "rows.json"
    scoring.main([str(run), "--rows", "5", "--json", str(file)])
    rows = json.loads(file.read_text())
    assert len(rows) == 4
    assert all(row["peak_mb"] > 50 and row["seconds"] > 0.1 for row in rows)
