"""The benchmark of weekly updates: training data, test data and ids of each policy."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks import incremental
from dien_jax.data.dataset import open_dataset
from dien_jax.runs.folder import Run

pytestmark = [pytest.mark.long, pytest.mark.repository]

TINY = {
    **{"model.embedding_size": 2, "model.layers": [4], "model.extractor": "none"},
    **{"model.evolution": "none", "model.auxiliary_weight": 0.0, "model.statistics": False},
    **{"train.batch_size": 64, "train.max_history": 4, "train.buckets": [4]},
    **{"train.epochs": 1, "train.log_every": 1},
}
FIRST = datetime(2013, 1, 1, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """Run the benchmark and return its folder.

    Its users choose something every other day for five weeks; there is a new item each week.
    """
    rng = np.random.default_rng(0)
    out = tmp_path_factory.mktemp("incremental")
    rows = [
        f"u{user},i{(item := rng.integers(0, 8 + day // 7))},c{item % 3},{FIRST + 86400 * day:.0f}"
        for user in range(20)
        for day in range(user % 2, 35, 2)
    ]
    (out / "log.csv").write_text("user,item,category,timestamp\n" + "\n".join(rows) + "\n")
    flags = ["--out", str(out / "work"), "--from", "2013-01-22", "--periods", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incremental, "SETTINGS", TINY)
        patch.setattr(incremental, "enable_compile_cache", lambda: None)
        incremental.main([str(out / "log.csv"), *flags, "--json", str(out / "rows.json")])
    return out


def test_each_model_and_day_has_a_row(done):
    rows = json.loads((done / "rows.json").read_text())
    models, differences = rows[:-2], rows[-2:]
    assert [(row["policy"], row["day"]) for row in models] == [
        ("never updated", "2013-01-22"),
        ("never updated", "2013-01-29"),
        ("warm start", "2013-01-29"),
        ("from scratch", "2013-01-29"),
    ]
    never, warm, scratch = models[1:]
    assert never["test_examples"] == warm["test_examples"] == scratch["test_examples"] > 0
    assert never["train_examples"] == 0 < warm["train_examples"] < scratch["train_examples"]
    assert warm["unknown_items"] <= never["unknown_items"]
    for row, other in zip(differences, (never, scratch), strict=True):
        assert row["case"] == f"warm start less {other['policy']}"
        assert row["auc"] == pytest.approx(warm["auc"] - other["auc"])


def test_update_trains_on_new_events_and_sees_no_test_event(done):
    work = done / "work"
    base, update = (open_dataset(work / "new" / number) for number in "01")

    def days(dataset, split: str) -> set[int]:
        positive = dataset.splits[split].label == 1
        times = dataset.event_timestamp[dataset.splits[split].history_end[positive]]
        return set(((times - FIRST) // 86400).astype(int).tolist())

    assert days(base, "train") == set(range(2, 14))
    assert days(base, "valid") == days(update, "train") == set(range(14, 21))
    assert days(base, "test") == days(update, "valid") == set(range(21, 28))
    assert days(update, "test") == set(range(28, 35))
    assert days(open_dataset(work / "whole" / "1"), "train") == set(range(2, 21))
    run = Run.load(work / "runs" / "warm-start-1")
    assert run.warm_start is not None
    assert run.warm_start["run"] == str(work / "runs" / "warm-start-0")


def test_model_is_tested_with_the_ids_it_was_trained_with(done):
    base, update = (open_dataset(done / "work" / "new" / number) for number in "01")
    seen = incremental.in_terms_of(update, base)
    items, known = update.vocabulary("item"), base.vocabulary("item")
    assert items[: base.schema.num_items] == known
    for now, then in zip(update.splits["test"].item, seen.splits["test"].item, strict=True):
        assert known[then] == (items[now] if items[now] in known else "")
    assert (seen.splits["test"].label == update.splits["test"].label).all()
    assert seen.schema == base.schema


def test_a_day_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        incremental.main([str(tmp_path), "--out", "out", "--from", "soon"])
    assert "--from must be a day such as 2013-03-01, got 'soon'" in capsys.readouterr().err
