"""The report on a run: the right numbers, in text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import tiny_run, untrained_run

from dien_jax import report
from dien_jax.inspection.example_view import example_lines
from dien_jax.inspection.examples import Inspector
from dien_jax.inspection.report import report_run
from dien_jax.metrics.scores import example_losses
from dien_jax.runs.folder import METRICS_FILE, RESULT_FILE
from dien_jax.runs.trained import load_run, trained_scores
from dien_jax.utils.files import write_json

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_run.write_data(folder / "data")
    run = untrained_run.write(folder / "run", data, model="din", buckets=())
    metrics = {"auc": 0.75, "gauc": None, "logloss": 0.5, "examples": 24}
    records = [
        {
            "step": step,
            "epoch": step / 4,
            "part": "network",
            "train": {"loss": 1 / step},
            "valid": metrics,
        }
        for step in (1, 2)
    ]
    (run / METRICS_FILE).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    result = {"best_step": 1, "valid": metrics, "test": metrics, "train_examples_per_second": 9.0}
    result["baselines"] = {"counts alone": 0.7312, "popularity": None}
    write_json(run / RESULT_FILE, result)
    return run


def test_numbers_are_those_of_the_run(run):
    text = "\n\n".join(report_run(run))
    trained = load_run(run)
    scores = trained_scores(trained, "valid")
    labels = np.asarray(trained.dataset.splits["valid"].label)
    assert f"click probability is {scores.mean():.4f}, and {labels.mean():.4f}" in text
    worst = int(np.argmax(np.where(labels == 0, scores, -1)))
    loss = example_losses(labels[[worst]], scores[[worst]])[0]
    users = trained.dataset.groups()
    first = text.partition("Wrong: not clicked, at the highest probabilities")[2].splitlines()
    assert "--split valid --example NUMBER" in first[0]
    row = first[2].split()
    assert row[0] == users[trained.dataset.splits["valid"].group[worst]]
    assert row[2:5] == [str(worst), f"{scores[worst]:.4f}", f"{loss:.3f}"]
    inspector = Inspector(trained)
    [example] = inspector.examples("valid", [worst])
    assert "\n".join(example_lines(example, inspector.names.feature, "utf-8")) in text
    assert "counts alone 0.7312" in text
    assert "0.7500  undefined" in text.replace("   ", "  ")


def test_unfinished_run_without_attention(tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data", test=1)
    run = untrained_run.write(tmp_path / "run", data, model="wide_deep", buckets=())
    assert report.main([str(run), "--split", "test"]) == 0
    text = capfd.readouterr().out
    assert "unfinished" in text
    assert "wide_deep has no attention" in text
    assert "undefined" in text  # AUC of one label


def test_split_without_examples_is_refused(run, tmp_path, capfd):
    known = load_run(run).run.data
    sizes = {"train": tiny_run.SIZES["train"]}  # the same rows
    data = tiny_run.write_data(tmp_path / "data", sizes=sizes)
    shutil.copytree(f"{known}/vocab", data / "vocab", dirs_exist_ok=True)
    assert report.main([str(run), "--data", str(data)]) == 2
    assert "has no valid examples to score" in capfd.readouterr().err
