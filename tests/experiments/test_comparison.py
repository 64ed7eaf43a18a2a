"""Runs side by side: what is said of them, what is left out, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import tiny_run
from support.json_files import edit_json
from support.tiny_run import light_flags, refused_by

from dien_jax import compare, evaluate, resume, train
from dien_jax.data.dataset import data_digest, open_dataset
from dien_jax.experiments import comparison
from dien_jax.experiments.comparison import compare_runs
from dien_jax.metrics.intervals import bootstrap, delong, mean_over_users, paired_seeds
from dien_jax.metrics.scores import METRICS, Metric
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import SplitScores
from dien_jax.utils.files import read_json

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, and copies that pretend another seed, learning rate and outcome."""
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_run.write_data(folder / "tiny")
    assert train.main([*light_flags(data, folder / "0.02-0"), "--train.epochs=1"]) == 0
    settings = read_json(folder / "0.02-0" / "config.json", dict)
    for number, (rate, seed) in enumerate([(0.02, 1), (0.005, 0), (0.005, 1)], start=1):
        optim = settings["optim"] | {"learning_rate": rate}
        run = copied(folder / "0.02-0", folder / f"{rate}-{seed}", optim=optim, seed=seed)
        result = read_json(run / "result.json", dict) | {"best_step": 4 * number}
        for split in ("valid", "test"):
            for metric in ("auc", "gauc", "logloss"):
                result[split][metric] = 0.5 + 0.01 * number**2
        (run / "result.json").write_text(json.dumps(result))
    return folder


def copied(run: Path, to: Path, **config: object) -> Path:
    """A run folder with something else in its ``config.json``."""
    shutil.copytree(run, to)
    (to / "config.json").write_text(json.dumps(read_json(run / "config.json", dict) | config))
    return to


@pytest.fixture
def scored(monkeypatch) -> list[Path]:
    """The runs that were scored: by random numbers of their own, the model left out."""
    folders: list[Path] = []

    def scores(folder, split, data):
        folders.append(folder)
        seed = [ord(letter) for letter in f"{folder.name} {split} {Run.load(folder).seed}"]
        labels = data.splits[split].label
        scores = np.random.default_rng(seed).random(len(labels), np.float32)
        return SplitScores(labels, scores, data.splits[split].group)

    monkeypatch.setattr(comparison, "score_split", scores)
    return folders


def output(arguments: list, capfd) -> tuple[str, str]:
    capfd.readouterr()
    assert compare.main([str(argument) for argument in arguments]) == 0
    return capfd.readouterr()


def line(text: str, start: str) -> list[str]:
    """The words of the one line that starts so."""
    [found] = [each for each in text.splitlines() if each.startswith(start)]
    return found.split()


def test_each_run_has_a_line_with_its_figures(runs, capfd, scored):
    shown, _ = output([runs / "0.02-0", runs / "0.02-1"], capfd)
    table = shown[: shown.index("\n\n")]
    for seed in ("0", "1"):
        result = read_json(runs / f"0.02-{seed}" / "result.json", dict)
        expected = [f"0.02-{seed}", "wide_dien", "tiny", seed, str(result["best_step"])]
        for split in ("valid", "test"):
            expected += [f"{result[split][name]:.4f}" for name in METRICS]
        expected.append(f"{result['train_examples_per_second']:,.0f}")
        assert line(table, f"0.02-{seed} ") == expected
    assert "all settings are the same" in shown
    assert "all settings" not in output([runs / "0.02-0"], capfd)[0]


def test_metric_added_to_the_table_is_trained_and_compared_with(runs, tmp_path, capfd, monkeypatch):
    """One entry is all that a metric needs."""

    def brier(labels, scores, groups):
        return float(np.mean((scores - labels) ** 2))

    entry = Metric("brier", "Brier", brier, higher_is_better=False)
    monkeypatch.setitem(METRICS, "brier", entry)
    folder = tmp_path / "added"
    assert train.main([*light_flags(runs / "tiny", folder), "--train.epochs=1"]) == 0
    result, output_of_training = read_json(folder / "result.json", dict), capfd.readouterr()
    value = f"{result['test']['brier']:.4f}"
    assert "Brier" in output_of_training.out
    assert value in output_of_training.out
    [evaluation] = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    before_calibration = evaluation["valid"]["brier"]
    assert f"validation Brier {before_calibration:.4f}" in output_of_training.err
    shown, _ = output([runs / "0.02-0", folder], capfd)
    assert line(shown[: shown.index("\n\n")], "added ")[4 + 2 * len(METRICS)] == value
    [row] = [each.split() for each in shown.splitlines() if each.split()[1:2] == ["Brier"]]
    assert row[0] == "added"
    assert row[4] == "to"


def test_runs_that_differ_by_seed_give_a_mean_and_are_compared_over_seeds_and_at_each(
    runs, capfd, scored
):
    folders = [runs / f"{rate}-{seed}" for rate in ("0.02", "0.005") for seed in (0, 1)]
    shown, _ = output(folders, capfd)
    values = {
        rate: [read_json(runs / f"{rate}-{s}" / "result.json", dict)["test"]["auc"] for s in (0, 1)]
        for rate in ("0.02", "0.005")
    }
    table = shown[shown.index("mean ± deviation") : shown.index("mean difference")]
    for rate, found in values.items():
        words = line(table, f"{rate}-*  ")
        assert words[1] == "2"
        test = 2 + 3 * len(METRICS)
        assert words[test : test + 3] == [
            f"{np.mean(found):.4f}",
            "±",
            f"{np.std(found, ddof=1):.4f}",
        ]
    expected = paired_seeds(values["0.005"], values["0.02"])
    rows = shown[shown.index("mean difference to 0.02-* over seeds") :].splitlines()
    words = rows[1].split()
    assert words[:4] == ["0.005-*", "AUC", "2", f"{expected.value:+.4f}"]
    assert words[4:7] == [f"{expected.low:+.4f}", "to", f"{expected.high:+.4f}"]
    table = shown[shown.index("test, difference to the run of 0.02-* with equal seed") :]
    examples = (dataset := open_dataset(runs / "tiny")).splits["test"]
    for seed in (0, 1):
        first, second = (
            comparison.score_split(runs / f"{rate}-{seed}", "test", dataset).scores
            for rate in ("0.02", "0.005")
        )
        exact = delong(examples.label, second, first)
        rows = [each.split() for each in table.splitlines() if each.startswith(f"0.005-{seed} ")]
        assert rows[0][1:3] == ["AUC", f"{exact.value:+.4f}"]
    assert "\n0.02-1" not in table  # another seed of the first model
    assert "by its seed too" not in table
    assert "difference to" not in output(folders[:2], capfd)[0]
    shown, _ = output([folders[0], folders[3]], capfd)
    assert shown.endswith("\n0.005-1 differs from 0.02-0 by its seed too\n")


def test_a_run_that_started_from_another_is_no_seed_of_one_that_did_not(
    runs, tmp_path, capfd, scored
):
    start = {"run": "/Runs/First", "step": 4, "vectors": True}
    warm = copied(runs / "0.02-0", tmp_path / "warm", warm_start=start, seed=1)
    shown, _ = output([runs / "0.02-0", warm], capfd)
    assert "mean ± deviation" not in shown
    rows = shown[shown.index("settings that differ") :].splitlines()
    assert rows[1].split() == ["warm_start", "none", "/Runs/First"]


@pytest.mark.parametrize("split", ["test", "valid"])
def test_differences_are_those_of_the_scores_and_settings(split, runs, capfd, scored):
    folders = [runs / "0.02-0", runs / "0.005-1"]
    shown, _ = output([*folders, "--split", split], capfd)
    start = shown.index("settings that differ")
    settings = shown[start : shown.index("\n\n", start)].splitlines()[1:]
    assert [each.split() for each in settings] == [["optim.learning_rate", "0.02", "0.005"]]
    dataset = open_dataset(runs / "tiny")
    examples = dataset.splits[split]
    first, second = (comparison.score_split(each, split, dataset).scores for each in folders)
    exact = delong(examples.label, second, first)
    drawn = bootstrap(examples.label, second, first, examples.group)
    start = shown.index(f"{split}, difference to 0.02-0")
    rows = [each.split() for each in shown[start:].splitlines()[1 : 1 + len(METRICS)]]
    for row, (name, metric) in zip(rows, METRICS.items(), strict=True):
        value, _, low, high, _ = drawn[name]
        expected = [
            "0.005-1",
            *metric.label.split(),
            f"{value:+.4f}",
            f"{low:+.4f}",
            "to",
            f"{high:+.4f}",
        ]
        if name in ("auc", "auc_known"):  # all candidates are known here
            expected += [f"{exact.low:+.4f}", "to", f"{exact.high:+.4f}", f"{exact.p_value:.4f}"]
        assert row == expected


def test_unfinished_run_is_shown_by_its_evaluations_and_has_no_test_figures(
    runs, tmp_path, capfd, scored
):
    other = copied(runs / "0.005-0", tmp_path / "other")
    (other / "result.json").unlink()
    shown, said = output([runs / "0.02-0", other], capfd)
    [record] = tiny_run.evaluations(other)
    words = line(shown, "other (unfinished)")
    assert words[5:7] == ["4", f"{record['valid']['auc']:.4f}"]
    assert words[6 + len(METRICS) :] == ["-"] * (len(METRICS) + 1)
    assert "other is unfinished: its best evaluation so far is shown, and no test" in said
    assert "difference to" not in shown
    (other / "metrics.jsonl").unlink()
    shown, said = output([other, runs / "0.02-0"], capfd)
    assert line(shown, "other (unfinished)")[5:] == ["-"] * (2 + 2 * len(METRICS))
    assert "no paired differences: the first run, other, is unfinished" in said
    assert "difference to" not in shown


def test_runs_on_other_data_are_in_the_table_but_not_in_the_pairs(runs, tmp_path, capfd, scored):
    other = copied(runs / "0.005-0", tmp_path / "other", data="/else/where", data_digest="0")
    shown, said = output([runs / "0.02-0", other, runs / "0.005-1"], capfd)
    assert line(shown[: shown.index("\n\n")], "other ")[2] == "where"
    assert "no paired difference of other to 0.02-0: it was trained on other data" in said
    pairs = shown[shown.index("test, difference to 0.02-0") :]
    assert "other" not in pairs
    assert "0.005-1" in pairs


def test_data_can_have_moved_but_must_be_the_same(runs, tmp_path, capfd, scored):
    first, other = (
        copied(runs / name, tmp_path / name, data="/gone") for name in ("0.02-0", "0.005-0")
    )
    shown, _ = output([first, other, "--data", runs / "tiny"], capfd)
    assert "difference to 0.02-0" in shown
    data = shutil.copytree(runs / "tiny", tmp_path / "data")
    edit_json(data / "meta.json", "changed", value=True)
    # though one run has no differences
    alone = refused_by(compare.main, [first, "--data", data], capfd)
    message = refused_by(compare.main, [first, other, "--data", data], capfd)
    assert message == alone
    assert f"{data} is not the data that 0.02-0 was trained on" in message


def test_folders_of_one_name_are_told_apart_by_what_is_above(runs, tmp_path, capfd, scored):
    first = copied(runs / "0.02-0", tmp_path / "a" / "run")
    other = copied(runs / "0.005-0", tmp_path / "b" / "run")
    shown, _ = output([first, other], capfd)
    assert line(shown, "a/run  ")[0] == "a/run"


def test_undefined_metrics_are_said_to_be_so(runs, tmp_path, capfd, scored):
    data = tiny_run.write_data(tmp_path / "tiny", test=1)
    digest = data_digest(open_dataset(data))
    folders = [
        copied(runs / name, tmp_path / name, data=str(data), data_digest=digest)
        for name in ("0.02-0", "0.005-0")
    ]
    result = read_json(folders[0] / "result.json", dict)
    result["test"] |= {"auc": None, "auc_known": None, "gauc": None}
    (folders[0] / "result.json").write_text(
        json.dumps(result | {"train_examples_per_second": None})
    )
    shown, _ = output(folders, capfd)
    words = line(shown, "0.02-0  ")[5 + len(METRICS) :]
    assert words[:3] == ["none"] * 3
    assert words[len(METRICS)] == "-"
    rows = shown.splitlines()[-1 - len(METRICS) : -1]
    undefined = [name for name, row in zip(METRICS, rows, strict=True) if "undefined" in row]
    assert undefined == ["auc", "auc_known", "gauc", "normalised_entropy"]


def test_run_that_is_given_twice_is_refused(runs, capfd):
    assert "0.02-0 is given twice" in refused_by(compare.main, [runs / "0.02-0"] * 2, capfd)


def test_lists_that_evaluate_measured_are_shown(runs, tmp_path, capsys):
    run, other = (copied(runs / "0.02-0", tmp_path / name) for name in ("measured", "other"))
    assert evaluate.main([str(run), "--ranking"]) == 0
    stored, printed = read_json(run / "lists.json", dict), json.loads(capsys.readouterr().out)
    assert len(stored.pop("ranks")) == stored["targets"]
    assert {"step": read_json(run / "result.json", dict)["best_step"], **printed["lists"]} == stored
    later = json.dumps(stored | {"step": stored["step"] + 1})
    (other / "lists.json").write_text(later)  # of a checkpoint that is no longer the best
    result = read_json(other / "result.json", dict)
    of_training = {**printed["lists"], "hr_10": 0.25, "mrr": None}
    (other / "result.json").write_text(json.dumps(result | {"lists": of_training}))
    finished = resume(other)
    assert finished.lists == of_training
    assert "test HR@10 0.2500" in repr(finished)
    [section] = [text for text in compare_runs([run, other]) if text.startswith("lists over all")]
    _, header, *rows = section.splitlines()
    assert header.split()[:3] == ["run", "data", "HR@10"]
    interval = [f"{end:.4f}" for end in stored["hr_10_interval"]]
    data = Path(read_json(run / "config.json", dict)["data"]).name
    simple = (f"{stored[f'hr_10_{name}']:.4f}" for name in ("popularity", "sequential_rules"))
    values = [interval[0], "to", interval[1], *simple]
    assert [row.split()[:8] for row in rows[:2]] == [
        ["measured", data, f"{stored['hr_10']:.4f}", *values],
        ["other", data, "0.2500", *values],
    ]
    [note] = rows[2:]
    clicks = f"{stored['targets']} clicks"
    assert f"alike: measured ({clicks}), other ({clicks}, as recommend lists); python -m" in note
    (run / "lists.json").unlink()
    (run / "lists.json").mkdir()
    assert evaluate.main([str(run), "--ranking"]) == 0
    assert "lists.json" in capsys.readouterr().err


def test_lists_of_the_same_clicks_are_compared_over_users(runs, tmp_path, capfd, scored):
    examples = open_dataset(runs / "tiny").splits["test"]
    random, clicks = np.random.default_rng(0), np.flatnonzero(examples.label)
    ranks = {
        name: np.where(random.random(len(clicks)) < 0.7, random.integers(1, 25, len(clicks)), 0)
        for name in ("first", "second", "third")
    }
    folders = {name: copied(runs / "0.02-0", tmp_path / name) for name in ranks}
    copied(runs / "0.005-0", tmp_path / "other")
    about = dict.fromkeys(("mrr", "coverage", "mean_popularity"))
    about |= dict.fromkeys(("hr_10", "hr_10_popularity", "ndcg_10"), 0.5)
    about |= {"step": read_json(runs / "0.02-0" / "result.json", dict)["best_step"]}
    for name, places in ranks.items():
        kept = dict(zip(clicks.tolist(), [int(place) or None for place in places], strict=True))
        if name == "third":
            kept.popitem()
        lists = about | {"targets": len(kept), "ranks": kept}
        (folders[name] / "lists.json").write_text(json.dumps(lists))
    shown, _ = output([*folders.values(), tmp_path / "other"], capfd)
    *_, title, hit, ndcg = shown.splitlines()
    assert title.split("  ")[0] == "lists, difference to first"
    first, second = (np.where(ranks[name], ranks[name], np.inf) for name in ("first", "second"))
    hits = (second <= 10).astype(float) - (first <= 10)
    gains = np.where(second <= 10, 1 / np.log2(1 + second), 0)
    gains = gains - np.where(first <= 10, 1 / np.log2(1 + first), 0)
    for row, label, values in ((hit, "HR@10", hits), (ndcg, "NDCG@10", gains)):
        mean = mean_over_users(values, np.asarray(examples.group)[clicks])
        ends = [f"{mean.low:+.4f}", "to", f"{mean.high:+.4f}"]
        assert row.split() == ["second", label, f"{values.mean():+.4f}", *ends]
    note = f"third ({len(clicks) - 1} clicks, as recommend lists)"
    assert f"second ({len(clicks)} clicks, as recommend lists), {note}; python -m" in shown
    beyond = about | {"targets": 1, "ranks": {len(examples.label): 1}}
    for folder in folders.values():
        (folder / "lists.json").write_text(json.dumps(beyond))
    assert compare.main([str(folders["first"]), str(folders["second"])]) == 2
    expected = f"{folders['second']}/lists.json: expected ranks of examples below"
    assert expected in capfd.readouterr().err
    (folders["first"] / "lists.json").write_text(json.dumps(beyond | {"ranks": {0: 0}}))
    assert compare.main([str(folders["first"])]) == 2
    assert f"{folders['first']}/lists.json: Expected 'int' >= 1" in capfd.readouterr().err
