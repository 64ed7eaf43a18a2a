"""The table of many runs: what is trained, what is not trained again, and what is said of it."""

import csv
import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest
from support.tiny_run import SETTINGS, compilation_cache, write_data

from dien_jax import reproduce, train
from dien_jax.config.presets import FAMILY, PRESETS, member
from dien_jax.config.settings import Config
from dien_jax.errors import Interrupted, UserError
from dien_jax.experiments.result_tables import read_results, write_tables
from dien_jax.runs.folder import Run
from dien_jax.training.run import fit

ROWS = ("din", "dien")


def tiny_settings() -> dict[str, dict[str, reproduce.Frozen]]:
    arguments = train.parse(["dien", *SETTINGS, "--train.epochs=1"])
    rows = {
        name: reproduce.Frozen(
            Config(member(name, arguments.model), arguments.optim, arguments.train), name
        )
        for name in ROWS
    }
    return {"family": rows, "choices": {"dien": rows["dien"]}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A dataset, and an OUT in which both rows were trained with both seeds."""
    folder = tmp_path_factory.mktemp("reproduce")
    data = write_data(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch, compilation_cache():
        patch.setattr(reproduce, "settings", tiny_settings)
        assert reproduce.main(flags(data, folder / "out")) == 0
        yield data, folder / "out", patch


def flags(data: Path, out: Path) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--seeds", "2"]


def test_frozen_settings_are_the_presets_without_batch_norm() -> None:
    """Which is a default since these tables were run."""
    tables = reproduce.settings()
    found = {name: row.config for name, row in tables["family"].items()}

    def without(config: Config) -> Config:
        model = dataclasses.replace(config.model, batch_norm="none")
        return dataclasses.replace(config, model=model)

    assert found == {name: without(PRESETS[name]) for name in FAMILY}
    base = json.loads(without(PRESETS["dien"]).to_json())
    for row, frozen in tables["choices"].items():
        values = json.loads(frozen.config.to_json())
        differing = [
            f"{group}.{name}"
            for group, settings in values.items()
            for name, value in settings.items()
            if value != base[group][name]
        ]
        assert len(differing) == (row != "dien"), row
    assert tables["choices"]["dien"].digest == tables["family"]["dien"].digest
    digests = {frozen.digest for frozen in tables["choices"].values()}
    assert len(digests) == len(tables["choices"])


def test_every_row_and_seed_has_a_line_and_a_mean(tiny) -> None:
    _, out, _ = tiny
    with (out / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["row"], line["seed"]) for line in lines] == [
        (row, seed) for row in ROWS for seed in "01"
    ]
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
    assert (out / "family.png").stat().st_size > 5_000


def test_what_is_done_is_not_done_again(tiny, tmp_path, capfd) -> None:
    data, out, patch = tiny
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(out / "results.csv", copy)
    with patch.context() as inner:
        inner.setattr(reproduce, "fit", None)
        inner.setattr(reproduce, "resume", None)
        for folder in (out, copy):
            assert reproduce.main(flags(data, folder)) == 0
            told = capfd.readouterr()
            assert "4 runs, 4 of them done; nothing is left to do" in told.err
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
        inner.setattr(reproduce, "fit", stopped)
        assert reproduce.main(command) == 128 + 15
    assert "Run the same command again" in capfd.readouterr().err
    assert [line["seed"] for line in read_results(out / "results.csv")] == ["0"]
    assert reproduce.main(command) == 0
    assert "2 runs, 1 of them done; about" in capfd.readouterr().err
    assert len(read_results(out / "results.csv")) == 2


def test_a_run_of_other_settings_is_not_gone_on_with(tiny, tmp_path, capfd) -> None:
    data, out, _ = tiny
    other = tmp_path / "out"
    shutil.copytree(out, other)
    (other / "results.csv").unlink()
    config = other / "runs" / "tiny" / "din" / "0" / "config.json"
    config.write_text(config.read_text().replace('"epochs": 1', '"epochs": 2'))
    assert reproduce.main(flags(data, other)) == 2
    assert f"{config.parent} was begun with other settings" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rows", "dien", "gru"], "--rows 'gru' is no row of the table 'family' (rows: din, di"),
        (["--rows", "diem"], "--rows 'diem' is no row of the table 'family'; did you mean 'dien'"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--data", "a/x", "b/x"], "--data folders must have different names, got x, x"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named(tiny, tmp_path, capfd, extra, message) -> None:
    data, _, _ = tiny
    assert reproduce.main([*flags(data, tmp_path / "out"), *extra]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_list_of_results_is_named_by_line(tmp_path) -> None:
    file = tmp_path / "results.csv"
    file.write_text("data,row,seed,test_auc,settings,data_digest,seconds\na,din,0,,b,c,1\n")
    with pytest.raises(UserError, match=r"results.csv, line 2: expected a value for 'test_auc'"):
        read_results(file)


def test_differences_are_of_shared_seeds(tmp_path) -> None:
    scores = {"din": {"0": 0.70, "1": 0.72, "2": 0.9}, "dien": {"0": 0.73, "1": 0.76}}
    lines = [
        {"data": "set", "row": row, "seed": seed, "test_auc": str(score), "valid_auc": "",
         "test_gauc": "", "test_logloss": "", "device": "cpu", "python": "3", "jax": "1"}
        for row, seeds in scores.items()
        for seed, score in seeds.items()
    ]  # fmt: skip
    write_tables(tmp_path, lines, {"family": ["din", "dien"]}, "none.csv")
    text = (tmp_path / "results.md").read_text()
    assert "| dien | 2 | 0.7450 ± 0.0212 | none | none | none | +0.0350 ± 0.0050 |  |" in text
    assert "| din | 3 | 0.7733 ± 0.1102 | none | none | none |  | -0.0350 ± 0.0050 |" in text
