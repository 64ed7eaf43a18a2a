"""The table of many runs: what is trained, what is not trained again, and what is said of it."""

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest
from support.tiny_run import SETTINGS, write_data

from dien_jax import reproduce, train
from dien_jax.config.presets import PRESETS, member
from dien_jax.config.settings import Config
from dien_jax.errors import Interrupted
from dien_jax.experiments import reproduction
from dien_jax.experiments.baselines import BASELINES
from dien_jax.runs.folder import Run
from dien_jax.training.run import fit

pytestmark = [pytest.mark.long, pytest.mark.repository]

ROWS = ("dien", "din")


def tiny_tables() -> dict[str, dict[str, Config]]:
    """Tables of which no row is what its name says: smaller models stand for them."""
    arguments = train.parse(["dien", *SETTINGS, "--train.epochs=1"])
    rows = {
        row: Config(member(model, arguments.model), arguments.optim, arguments.train)
        for row, model in (("dien", "base_model"), ("din", "wide_deep"))
    }
    return {"family": rows, "parts": rows}


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


def lines_of(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_parts_change_one_part_of_the_present_default() -> None:
    tables = reproduction.paper_tables()
    rows = tables["parts"]
    assert rows["wide_dien"] == tables["wide"]["wide_dien"] == PRESETS["wide_dien"]
    assert tables["family"]["dien"] == PRESETS["dien"]
    assert len(set(rows.values())) == len(rows)
    # A name stands for the same settings in all tables.
    assert all(config == tables["wide"].get(row, config) for row, config in rows.items())
    assert [next(iter(table)) for table in tables.values()] == ["dien", "wide_dien", "wide_dien"]


def test_every_row_and_seed_has_a_line_and_a_mean_and_is_not_trained_again(tiny, capfd) -> None:
    data, out, patch = tiny
    before, lines = (out / "results.csv").read_bytes(), lines_of(out)
    runs = [line for line in lines if line["row"] in ROWS]
    assert sorted((line["row"], line["seed"]) for line in runs) == [
        (row, seed) for row in ROWS for seed in "01"
    ]
    assert {line["row"] for line in lines} - {*ROWS} == {*BASELINES}
    scores: dict[str, list[float]] = {row: [] for row in ROWS}
    for line in runs:
        run = out / "runs" / "tiny" / line["row"] / line["seed"]
        result = json.loads((run / "result.json").read_text())
        assert float(line["test_auc"]) == result["test"]["auc"]
        assert result["preset"] == line["row"]
        scores[line["row"]].append(result["test"]["auc"])
    with patch.context() as inner:
        for name in ("fit", "resume", "run_baselines"):
            inner.setattr(reproduction, name, None)
        (data / "inner").mkdir()
        assert reproduce.main(flags(data / "inner" / "..", out)) == 0
    assert (out / "results.csv").read_bytes() == before
    shown, said = capfd.readouterr()
    assert "4 runs, 4 of them done\n" in said
    for row in ROWS:
        mean, deviation = statistics.mean(scores[row]), statistics.stdev(scores[row])
        assert f"  {mean:.4f} ± {deviation:.4f}" in shown[shown.index("mean ± deviation") :]
    difference = statistics.mean(scores["din"]) - statistics.mean(scores["dien"])
    differences = shown[shown.index("test, mean difference to dien/* over seeds") :].splitlines()
    assert differences[1].split()[:4] == ["din/*", "AUC", "2", f"{difference:+.4f}"]


def test_a_stopped_command_goes_on_with_the_run_it_was_in(tiny, tmp_path, capfd) -> None:
    data, _, patch = tiny
    out = tmp_path / "out"
    command = [*flags(data, out), "--table", "parts", "--rows", "din"]
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
    assert [line["seed"] for line in lines_of(out)] == ["0"]
    assert reproduce.main(command) == 0
    assert "2 runs, 1 of them done\n" in capfd.readouterr().err
    assert [line["seed"] for line in lines_of(out)] == ["0", "1"]


@pytest.mark.parametrize(("name", "old", "new"), [
    ("settings", '"epochs": 1', '"epochs": 2'), ("data", '"data_digest": "', '"data_digest": "0')
])  # fmt: skip
def test_a_run_of_other_settings_or_data_is_refused(name, old, new, tiny, tmp_path, capfd) -> None:
    data, out, _ = tiny
    other = shutil.copytree(out, tmp_path / "out")
    config = other / "runs" / "tiny" / "din" / "0" / "config.json"
    config.write_text(config.read_text().replace(old, new))
    assert reproduce.main(flags(data, other)) == 2
    assert f"{config.parent} was begun with other settings or data" in capfd.readouterr().err
