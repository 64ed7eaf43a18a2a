"""Simple models to compare with: inputs, fits, stored scores, and refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from support import small_dataset, tiny_run
from support.tiny_run import light_flags, refused_by

from dien_jax import baselines, compare, train
from dien_jax.data.dataset import open_dataset
from dien_jax.experiments.logistic_regression import Inputs, fit_single
from dien_jax.metrics.intervals import delong
from dien_jax.metrics.scores import logloss
from dien_jax.runs.calibration import fit_calibration
from dien_jax.runs.trained import score_split, split_scores
from dien_jax.utils.files import read_json

pytestmark = pytest.mark.long

pytest.importorskip("lightgbm")
NAMES = ["popularity", "attribute match", "co-occurrence", "logistic regression", "boosted trees"]
SIZES = {"train": 600, "valid": 200, "test": 200}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny", sizes=SIZES)


@pytest.fixture(scope="module")
def stored(data: Path) -> Path:
    out = data.parent / "baselines"
    assert baselines.main([str(data), "--out", str(out)]) == 0
    return out


def test_table_and_files_have_every_baseline_and_another_run_the_same(
    data, stored, tmp_path, capfd
):
    out = tmp_path / "new" / "out"
    assert baselines.main([str(data), "--out", str(out)]) == 0
    rows = capfd.readouterr().out.splitlines()
    assert len(rows) == 2 + len(NAMES)
    dataset = open_dataset(data)
    for name, row in zip(NAMES, rows[2:], strict=True):
        folder = out / name.replace(" ", "-")
        assert small_dataset.leftovers(folder) == [
            *("baseline.json", "result.json", "scores-test.npy", "scores-valid.npy")
        ]
        result = read_json(folder / "result.json", dict)
        for split in ("valid", "test"):
            scores = np.load(folder / f"scores-{split}.npy")
            assert scores.dtype == np.float32
            assert result[split] == split_scores(dataset, split, scores).metrics()
            again = np.load(stored / folder.name / f"scores-{split}.npy")
            np.testing.assert_array_equal(scores, again)
            assert row.startswith(f"{name}  ")
            assert f"{result[split]['auc']:.4f}" in row


def test_models_that_read_the_history_beat_popularity(stored):
    """Users click items of the category that they chose before, with a fifth of noise."""
    area = {name: read_json(stored / name.replace(" ", "-") / "result.json", dict)["test"]["auc"]
            for name in NAMES}  # fmt: skip
    for name in ("attribute match", "logistic regression", "boosted trees"):
        assert area[name] > area["popularity"] + 0.05, area


def test_probabilities_are_calibrated_on_validation_as_those_of_a_run(data, stored):
    labels = open_dataset(data).splits["valid"].label
    for name in NAMES:
        folder = stored / name.replace(" ", "-")
        assert read_json(folder / "baseline.json", dict)["settings"]["calibration_slope"] > 0
        scores = np.load(folder / "scores-valid.npy")
        again = fit_calibration(np.asarray(labels), scores, step=0)
        # Nothing is left to gain but what rounding to float32 costs.
        assert logloss(labels, scores) < logloss(labels, again.apply(scores)) + 1e-3, name


@pytest.mark.parametrize("sign", [1, -1])
def test_single_column_has_the_sign_of_training(sign):
    dense = np.arange(40, dtype=np.float32)[:, None] * 100
    labels = (sign * (np.arange(40) - 20) + np.arange(40) % 7 > 3).astype(np.int8)
    inputs = Inputs(dense, sparse.csr_array((40, 0)), labels)
    scores = fit_single(0, inputs).predict(inputs)
    assert (np.diff(scores) * sign > 0).all()
    assert abs(scores.mean() - labels.mean()) < 1e-3


def test_run_is_compared_with_baselines(data, stored, tmp_path, capfd):
    run, split = tmp_path / "run", "valid"
    assert train.main([*light_flags(data, run), "--train.epochs=1"]) == 0
    chosen = [stored / "logistic-regression", stored / "popularity"]
    capfd.readouterr()
    assert compare.main([*map(str, [run, *chosen]), "--split", split]) == 0
    shown = capfd.readouterr().out
    scored = score_split(run, split)
    pairs = shown[shown.index(f"{split}, difference to run") :].splitlines()
    for folder in chosen:
        expected = delong(scored.labels, np.load(folder / f"scores-{split}.npy"), scored.scores)
        rows = [line.split() for line in pairs if line.startswith(f"{folder.name}  ")]
        [row] = [row for row in rows if row[1] == "AUC" and row[2] != "known"]
        assert row[2] == f"{expected.value:+.4f}"
        assert row[6:9] == [f"{expected.low:+.4f}", "to", f"{expected.high:+.4f}"]
        result = read_json(folder / "result.json", dict)
        assert f"{result['valid']['auc']:.4f}" in shown
    assert "settings that differ" not in shown
    assert "mean ± deviation" not in shown


def test_stored_scores_of_other_examples_are_refused(stored, tmp_path, capfd):
    other = shutil.copytree(stored / "popularity", tmp_path / "other")
    np.save(other / "scores-test.npy", np.zeros(3, np.float32))
    assert compare.main([str(stored / "co-occurrence"), str(other)]) == 2
    expected = f"{other}/scores-test.npy: expected 200 entries, found 3; remove it"
    assert expected in capfd.readouterr().err
    np.save(other / "scores-test.npy", np.full(200, 1.5, np.float32))
    assert compare.main([str(stored / "co-occurrence"), str(other)]) == 2
    assert "entry 0 should be a probability, found 1.5; remove it" in capfd.readouterr().err


def test_folder_of_all_baselines_is_refused_with_one_of_them(stored, capfd):
    assert compare.main([str(stored / "popularity"), str(stored)]) == 2
    expected = f"{stored}: expected the folder of a run or baseline, found a folder of 5, {stored}/"
    assert expected in capfd.readouterr().err


def test_the_last_line_says_where_scores_are_and_how_to_compare(data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("dien_jax.experiments.baselines.run_baselines", lambda **_: [])
    assert baselines.main([str(data), "--out", str(tmp_path / "all of them")]) == 0
    last = capfd.readouterr().err.splitlines()[-1]
    command = f"python -m dien_jax.compare RUN '{tmp_path}/all of them/logistic-regression'"
    assert last == f"scores are in {tmp_path}/all of them; to compare: {command}"
    assert baselines.main([str(data)]) == 0
    assert "scores are in" not in capfd.readouterr().err


def test_mistake_is_refused_in_one_message(data, tmp_path, capfd):
    assert "nowhere" in refused_by(baselines.main, [tmp_path / "nowhere"], capfd)
    only = tiny_run.write_data(tmp_path / "only", train=1)
    assert "the train split has label 1 only" in refused_by(baselines.main, [only], capfd)
    no_valid = tiny_run.write_data(tmp_path / "no", sizes={"train": 40, "test": 20})
    assert "has no valid examples" in refused_by(baselines.main, [no_valid], capfd)


def test_split_without_examples_or_of_one_label_has_no_auc(tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data", sizes={"train": 60, "valid": 20}, valid=1)
    assert baselines.main([str(data), "--out", str(tmp_path / "out")]) == 0
    result = read_json(tmp_path / "out" / "boosted-trees" / "result.json", dict)
    assert result["valid"]["auc"] is None
    assert result["test"]["examples"] == 0
    assert "none" in capfd.readouterr().out
