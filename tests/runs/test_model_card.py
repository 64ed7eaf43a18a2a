"""Model cards say what the files of a run say."""

from pathlib import Path

import pytest
from support.tiny_run import write_data

from dien_jax.config.presets import preset
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.runs.calibration import Calibration
from dien_jax.runs.folder import Run
from dien_jax.runs.model_card import CARD_FILE, lists_line, model_card, read_card

METRICS = {
    "auc": 0.8, "auc_known": 0.81, "gauc": None, "logloss": 0.5, "normalised_entropy": 0.7,
    "calibration_error": 0.02, "examples": 1234,
}  # fmt: skip
OTHERS = "0.8100 | none | 0.5000 | 0.7000 | 0.0200"
RESULT = {
    "model": "dien", "parameters": 12345, "steps": 300, "best_step": 200, "device": "cpu",
    "baselines": {"popularity": 0.55, "counts alone": None},
    "valid": METRICS, "test": METRICS,
    "lists": {"hr_10": 0.12, "hr_10_interval": (0.1, 0.14), "hr_10_popularity": 0.02,
              "ndcg_10": 0.06, "targets": 1000},
}  # fmt: skip
INTERVALS = {"valid": (0.78, 0.82), "test": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    dataset = open_dataset(write_data(tmp_path_factory.mktemp("card") / "data"))
    return Run.create(preset="dien", seed=3, dataset=dataset, config=preset("dien"))


def card(run: Run, calibration: Calibration | None = None, **split: object) -> str:
    meta = open_dataset(Path(run.data)).meta
    return model_card(run, meta | {"split": split}, RESULT, INTERVALS, calibration)


def test_a_card_has_data_metrics_and_versions(run: Run) -> None:
    text = card(run, policy="by-user")
    for line in (
        "| model | `dien` (preset `dien`, seed 3) |",
        "| parameters | 12,345 |",
        "| examples | 64 train, 24 valid, 20 test |",
        "| item features | item, category |",
        f"| folder | `data`, sha256 of its `meta.json` {run.data_digest} |",
        f"| validation | 1,234 | 0.8000 (0.7800 to 0.8200) | {OTHERS} |",
        f"| test | 1,234 | 0.8000 | {OTHERS} |",
    ):
        assert line in text.splitlines()
    assert "Test AUC of simple models: popularity 0.5500." in text
    assert "HR@10 0.120 (0.100 to 0.140), NDCG@10 0.060; of the most popular items" in text
    assert run.versions["jax"] in text
    assert "Negatives were drawn" not in text
    assert "started from" not in text


def test_a_card_says_what_drawn_negatives_and_calibration_mean(run: Run) -> None:
    drawn = {"negatives": 1, "negative_distribution": "uniform"}
    assert "Negatives were drawn (uniform)" in card(run, **drawn)
    assert "No negative was in the history" in card(run, **drawn, allow_own_negatives=False)
    assert "No negative was in the history" not in card(run, **drawn, allow_own_negatives=True)
    assert "Scores are as the network gives them." in card(run)
    fitted = Calibration(1.5, -0.25, 200, fitted_on={"click_share": 0.5})
    text = card(run, fitted)
    assert "Platt scaling (slope 1.500, offset -0.250), fitted on validation for its share" in text
    assert "share of clicks, 0.5000. Where" in text
    shifted = Calibration(1.5, 0.0, 200, shift=-3.0)
    assert "scores are shifted to the click rate of `train.click_rate`" in card(run, shifted)


def test_text_of_data_cannot_break_a_card(run: Run) -> None:
    text = card(run, policy="a\x1b[31m\n## Results")
    assert "policy a\\u001b[31m\\u000a## Results" in text
    assert text.splitlines().count("## Results") == 1


def test_metrics_of_lists_may_be_undefined() -> None:
    names = ("hr_10", "hr_10_popularity", "ndcg_10", "mrr", "coverage", "mean_popularity")
    line = lists_line({**dict.fromkeys(names), "targets": 0})  # type: ignore[typeddict-item]
    assert line.startswith("Lists of all items: HR@10 none, NDCG@10 none; of the most popular")


def test_a_card_is_read_again_within_bounds(tmp_path: Path) -> None:
    assert read_card(tmp_path) == ""
    (tmp_path / CARD_FILE).write_text("card \u00e9", encoding="utf-8")
    assert read_card(tmp_path) == "card \u00e9"
    (tmp_path / CARD_FILE).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"model_card\.md: expected text in UTF-8"):
        read_card(tmp_path)
    (tmp_path / CARD_FILE).write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UserError, match="expected at most 1,048,576 bytes, found more"):
        read_card(tmp_path)
