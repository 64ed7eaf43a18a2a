"""The benchmarks of presets and of candidate defaults are studies of the one runner."""

import json
from pathlib import Path

import pytest
from support import tiny_run

from benchmarks import quality, trials
from benchmarks.common import authors_data
from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.experiments.result_tables import read_results

TRAIN = TrainConfig(batch_size=16, epochs=2, patience=0, max_history=8, buckets=())
MODEL = ModelConfig(embedding_size=2, layers=(4,), statistics=False)
CONFIG = Config(member("base_model", MODEL), train=TRAIN)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two sets whose files are prepared dataset folders already."""

    def prepared_sets(folder, out, **settings):
        return {name: open_dataset(folder / name) for name in ("beauty", "toys")}

    for command in (quality, trials):
        monkeypatch.setattr(command, "prepared_sets", prepared_sets)
        monkeypatch.setattr(command, "preset", lambda name: CONFIG)
    for name, examples in (("beauty", 64), ("toys", 48)):
        sizes = {"train": examples, "valid": 24, "test": 20}
        tiny_run.write_data(tmp_path / "sets" / name, sizes=sizes)
    monkeypatch.setattr("dien_jax.utils.compile_cache.enable_compile_cache", lambda: None)
    return tmp_path / "sets"


def test_quality_has_a_line_for_each_row_and_set(folder, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "rows.json"
    flags = [str(folder), "--out", str(out), "--rows", "dien, as given", "--json", str(file)]
    assert quality.main([*flags, "--seeds", "2"]) == 0
    rows = json.loads(file.read_text())
    assert [(row["row"], row["set"], row["seeds"]) for row in rows] == [
        ("dien, as given", "beauty", 2),
        ("dien, as given", "toys", 2),
    ]
    published = json.loads((Path(quality.__file__).parent / "results/cpu/quality.json").read_text())
    lines = read_results(out / "quality" / "results.csv")
    for row in rows:
        assert set(row) == set(published[0])
        scores = [float(line["test_auc"]) for line in lines if line["data"] == row["set"]]
        assert row["test_auc"] == round(sum(scores) / 2, 4)
    assert capsys.readouterr().out.startswith("| row | set |")
    assert quality.main([*flags, "--seeds", "2"]) == 0  # without a run


def test_trials_score_validation_only(folder, tmp_path, capsys):
    flags = [str(folder), "--out", str(tmp_path / "out"), "--trials", "authors preset"]
    assert trials.main(flags) == 0
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert line.startswith("| authors preset | as given | 0.")
    assert line.count(" @") == 2
    for result in read_results(tmp_path / "out" / "trials" / "results.csv"):
        assert not [name for name in result if name.startswith("test")]


def test_sets_are_prepared_once(tmp_path, monkeypatch):
    calls = []

    def prepare(options):
        calls.append(options)
        tiny_run.write_data(options.out)

    monkeypatch.setattr(authors_data.authors, "prepare", prepare)
    (tmp_path / "sets" / "beauty").mkdir(parents=True)
    for _ in range(2):
        sets = authors_data.prepared_sets(tmp_path / "sets", tmp_path, every_event=True)
    assert list(sets) == ["beauty"]
    assert sets["beauty"].path == tmp_path / "data" / "beauty-every-event-0.1"
    assert [(options.folder, options.every_event) for options in calls] == [
        (tmp_path / "sets" / "beauty", True)
    ]
