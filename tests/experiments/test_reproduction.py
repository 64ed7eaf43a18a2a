"""The table of many runs: what is trained, what is not trained again, and what is said of it."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
from support.tiny_run import SETTINGS, write_data

from dien_jax import reproduce, train
from dien_jax.config.preset_files import with_settings
from dien_jax.config.presets import PRESETS, member
from dien_jax.config.settings import Config
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted, UserError
from dien_jax.experiments import reproduction
from dien_jax.experiments.baselines import BASELINES
from dien_jax.experiments.reproduction import Table, read_results, reproduce_table, write_tables
from dien_jax.runs.folder import Run
from dien_jax.steps import rows as embedding_rows
from dien_jax.training.run import fit

pytestmark = [pytest.mark.long, pytest.mark.repository]

ROWS = ("din", "dien")
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "cpu" / "present_defaults.csv"


def tiny_tables() -> dict[str, Table]:
    """Tables of which no row but DIN's is what its name says: smaller models stand for them."""
    arguments = train.parse(["dien", *SETTINGS, "--train.epochs=1"])
    rows = {
        row: Config(member(model, arguments.model), arguments.optim, arguments.train)
        for row, model in (("din", "din"), ("dien", "base_model"))
    }
    return {"family": Table(rows, {"DIN": "din", "DIEN": "dien"})}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A dataset, and an OUT in which both rows were trained with both seeds."""
    folder = tmp_path_factory.mktemp("reproduce")
    data = write_data(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "paper_tables", tiny_tables)
        assert reproduce.main(flags(data, folder / "out")) == 0
        yield data, folder / "out", patch


def flags(data: Path, out: Path) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--seeds", "2"]


def test_parts_change_one_part_of_the_present_default() -> None:
    tables = reproduction.paper_tables()
    rows = tables["parts"].rows
    assert rows["wide_dien"] == tables["wide"].rows["wide_dien"] == PRESETS["wide_dien"]
    assert tables["family"].rows["dien"] == PRESETS["dien"]
    assert len(set(rows.values())) == len(rows)
    wide = tables["wide"].rows  # a name stands for the same settings in all tables
    assert all(config == wide.get(row, config) for row, config in rows.items())


def test_runs_are_identified_by_the_settings_that_their_data_decides(data, monkeypatch) -> None:
    dataset, config = open_dataset(data), PRESETS["dien"]
    small = with_settings(config, {"optim.embedding_update": "dense"})
    for given in (config, small):
        task = reproduction._task(dataset, "dien", 0, given)
        assert (task.config, task.key[1]) == (small, reproduction.settings_digest(small))
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 0)
    monkeypatch.setattr(embedding_rows, "LAZY_ROWS", 0)
    large = with_settings(config, {"optim.embedding_update": "lazy_adam"})
    for given, expected in ((config, large), (small, small)):
        task = reproduction._task(dataset, "dien", 0, given)
        assert (task.config, task.key[1]) == (expected, reproduction.settings_digest(expected))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (",0,", ",one,", "a number of 0 or more"),
        (",0.", ",nan", "a number of 0 or more"),
        (",0,", ",,", "a value for 'seed'"),
    ],
)
def test_damaged_results_are_refused_by_line(old, new, expected, tmp_path) -> None:
    lines = RESULTS.read_text().splitlines(keepends=True)[:3]
    (tmp_path / "results.csv").write_text("".join([*lines[:2], lines[2].replace(old, new, 1)]))
    with pytest.raises(UserError, match=rf"results\.csv, line 3: expected {expected}"):
        read_results(tmp_path / "results.csv")


def test_published_results_are_written_as_they_are_read(tmp_path) -> None:
    write_tables(tmp_path, read_results(RESULTS), reproduction.paper_tables())
    assert (tmp_path / "results.csv").read_bytes() == RESULTS.read_bytes()


def test_every_row_and_seed_has_a_line_and_a_mean(tiny) -> None:
    _, out, _ = tiny
    with (out / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    runs, fitted = [line for line in lines if line["row"] in ROWS], lines[2 * len(ROWS) :]
    assert [(line["row"], line["seed"]) for line in runs] == [
        (row, seed) for row in ROWS for seed in "01"
    ]
    assert [(line["row"], line["seed"]) for line in fitted] == [(row, "0") for row in BASELINES]
    lines = runs
    scores: dict[str, list[float]] = {row: [] for row in ROWS}
    for line in lines:
        run = out / "runs" / "tiny" / line["row"] / line["seed"]
        result = json.loads((run / "result.json").read_text())
        assert float(line["test_auc"]) == result["test"]["auc"]
        assert result["preset"] == line["row"]
        scores[line["row"]].append(result["test"]["auc"])
        assert float(line["auc_difference_error_din"] or 1) > 0
    text = (out / "results.md").read_text()
    for row in ROWS:
        mean, deviation = statistics.mean(scores[row]), statistics.stdev(scores[row])
        assert f"| {row} | 2 | {mean:.4f} ± {deviation:.4f} |" in text


def test_what_is_done_is_not_done_again(tiny, tmp_path, capfd) -> None:
    data, out, patch = tiny
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(out / "results.csv", copy)
    with patch.context() as inner:
        inner.setattr(reproduction, "fit", None)
        inner.setattr(reproduction, "resume", None)
        for folder in (out, copy):
            assert reproduce.main(flags(data, folder)) == 0
            told = capfd.readouterr()
            assert "4 runs, 4 of them done\n" in told.err
            assert told.out == (out / "results.md").read_text()
    assert (copy / "results.csv").read_bytes() == (out / "results.csv").read_bytes()


def test_a_stopped_command_goes_on_with_the_run_it_was_in(tiny, tmp_path, capfd) -> None:
    data, _, patch = tiny
    out = tmp_path / "out"
    command = [*flags(data, out), "--rows", "din"]
    stops = iter([False, True])

    def stopped(config, *, data, run_dir, stop_signal, **options):
        if next(stops):
            # As a signal before the first step: the run folder is there, and nothing is lost.
            Run.create(config=config, dataset=data, **options).save(run_dir)
            raise Interrupted(15)
        return fit(config, data=data, run_dir=run_dir, **options)

    with patch.context() as inner:
        inner.setattr(reproduction, "fit", stopped)
        assert reproduce.main(command) == 128 + 15
    assert "Run the same command again" in capfd.readouterr().err
    lines = read_results(out / "results.csv")
    assert [line["seed"] for line in lines if line["row"] == "din"] == ["0"]
    assert reproduce.main(command) == 0
    assert "2 runs, 1 of them done\n" in capfd.readouterr().err
    lines = read_results(out / "results.csv")
    assert [line["seed"] for line in lines if line["row"] == "din"] == ["0", "1"]


def test_rows_of_the_same_settings_on_other_data_keep_their_names(
    tiny, tmp_path, monkeypatch
) -> None:
    data, _, _ = tiny
    other = write_data(tmp_path / "other", sizes={"train": 48, "valid": 24, "test": 20})
    config = tiny_tables()["family"].rows["din"]
    monkeypatch.setattr(
        reproduction,
        "paper_tables",
        lambda: {"parts": Table({"here": config, "there": config}, {})},
    )
    for row, folder in (("here", data), ("there", other), ("here", data)):
        reproduce_table([folder], tmp_path / "out", "parts", [row], seeds=1)
    lines = read_results(tmp_path / "out" / "results.csv")
    assert [(line["row"], line["data"]) for line in lines] == [
        ("there", "other"), ("here", data.name)
    ]  # fmt: skip


def test_a_run_of_other_settings_is_not_gone_on_with(tiny, tmp_path, capfd) -> None:
    data, out, _ = tiny
    other = tmp_path / "out"
    shutil.copytree(out, other)
    (other / "results.csv").unlink()
    config = other / "runs" / "tiny" / "din" / "0" / "config.json"
    config.write_text(config.read_text().replace('"epochs": 1', '"epochs": 2'))
    assert reproduce.main(flags(data, other)) == 2
    assert f"{config.parent} was begun with other settings" in capfd.readouterr().err


def test_differences_are_of_shared_seeds(tmp_path) -> None:
    scores = {"din": {"0": 0.70, "1": 0.72, "2": 0.9}, "dien": {"0": 0.73, "1": 0.76}}
    lines = [
        {"data": "set", "row": row, "seed": seed, "test_auc": str(score), "valid_auc": "",
         "test_gauc": "", "test_logloss": "", "device": "cpu", "python": "3", "jax": "1"}
        for row, seeds in scores.items()
        for seed, score in seeds.items()
    ]  # fmt: skip
    table = Table(dict.fromkeys(ROWS), {"DIN": "din", "DIEN": "dien"})
    write_tables(tmp_path, lines, {"family": table})
    text = (tmp_path / "results.md").read_text()
    assert "| dien | 2 | 0.7450 ± 0.0212 | none | none | none | +0.0350 ± 0.0050 |  |" in text
    assert "| din | 3 | 0.7733 ± 0.1102 | none | none | none |  | -0.0350 ± 0.0050 |" in text
