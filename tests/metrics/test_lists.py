"""Metrics of lists against direct computations."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import untrained_run
from support.json_files import edit_json
from support.small_dataset import write_wide

from dien_jax import evaluate
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted
from dien_jax.inference.list_metrics import (
    list_targets,
    measure_finished,
    report_lists,
    sorted_items,
)
from dien_jax.inference.ranker import Ranker
from dien_jax.metrics import list_metrics, mean_over_users


def test_metrics_are_those_of_ranks() -> None:
    ranks, users = np.array([1, 2, 10, 11, np.inf]), np.array([3, 3, 5, 6, 7])
    popularity = np.array([0, 4, 2, 0, 6])
    metrics = list_metrics(ranks, users, [np.array([1, 2]), np.array([1])], popularity)
    assert metrics["hr_10"] == 3 / 5
    assert metrics["ndcg_10"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(11)) / 5)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)
    low, high = metrics["hr_10_interval"]
    assert 0 <= low < 3 / 5 < high <= 1
    assert (metrics["coverage"], metrics["mean_popularity"]) == (2 / 3, 10 / 3)
    empty = list_metrics(np.zeros(0), np.zeros(0, int), [], popularity)
    assert (empty["mrr"], empty["mean_popularity"], empty["targets"]) == (None, None, 0)


def test_the_interval_of_a_mean_is_as_wide_as_its_users_differ() -> None:
    random = np.random.default_rng(0)
    of_users = random.normal(size=400)
    values, groups = np.repeat(of_users, 5), np.repeat(np.arange(400), 5)
    assert mean_over_users(values, groups).standard_error == pytest.approx(0.05, rel=0.15)
    assert mean_over_users(values, np.zeros(2000)) is None


def test_ranks_leave_out_what_was_chosen_before_and_items_without_a_training_event(tmp_path):
    dataset = open_dataset(write_wide(tmp_path / "data"))
    targets = list_targets(dataset, "test")
    assert targets
    assert all(target.item not in target.history for target in targets)
    assert len(list_targets(dataset, "test", most=3)) == 3
    popularity = np.asarray(dataset.popularity).copy()
    popularity[5] = 0
    lists = [sorted_items(target, np.arange(60.0), popularity) for target in targets]
    found, _ = report_lists(targets, lists, popularity)
    listed_items = {*np.flatnonzero(popularity).tolist()} - {0}
    allowed = [listed_items - {*target.history} for target in targets]
    ranks = [
        1 + sum(item > target.item for item in items) if target.item in items else np.inf
        for target, items in zip(targets, allowed, strict=True)
    ]
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    listed = [sorted(items)[-10:] for items in allowed]
    assert found["mean_popularity"] == pytest.approx(popularity[np.array(listed)].mean())


@pytest.mark.long
def test_evaluate_and_the_end_of_a_run_measure_the_lists_of_recommend(tmp_path, capsys) -> None:
    data = write_wide(tmp_path / "data")
    edit_json(data / "meta.json", "split", "negative_distribution", value="popularity")
    run = untrained_run.write(tmp_path / "run", data, model="base_model", buckets=())
    assert evaluate.main([str(run), "--ranking"]) == 0
    found = json.loads(capsys.readouterr().out)["lists"]
    dataset, ranker = open_dataset(data), Ranker(run)
    names, users = dataset.vocabulary("item"), dataset.vocabulary("user")
    hits, targets = [], list_targets(dataset, "test")
    for target in targets:
        user = users[dataset.splits["test"].user[target.example]]
        history = [names[row] for row in target.history]
        hits.append(names[target.item] in ranker.recommend(history, user=user).ids)
    assert found["targets"] == len(targets)
    assert found["hr_10"] == np.mean(hits)
    file = run / "lists.json"
    stored = json.loads(file.read_text())
    exact = stored.pop("ranks")
    assert stored == {"step": stored["step"], **found}
    assert list(exact) == [str(target.example) for target in targets]
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in exact.values()]))
    file.unlink()

    def interrupted() -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        measure_finished(run, dataset, least=len(targets), watch=interrupted)
    assert not file.exists()
    at_the_end = measure_finished(run, dataset, least=len(targets))
    assert at_the_end == found | {"mrr": None, "mrr_interval": None}
    listed = {example: rank if rank <= 10 else None for example, rank in exact.items()}
    assert json.loads(file.read_text()) == {"step": stored["step"], **at_the_end, "ranks": listed}
    assert measure_finished(run, dataset, least=len(targets) + 1) is None
    assert measure_finished(run, replace(dataset, meta={})) is None  # negatives that were shown
    order = np.argsort(-np.asarray(dataset.popularity[1:]), kind="stable") + 1
    popular = [[*order[~np.isin(order, target.history)][:10]] for target in targets]
    expected = [target.item in ten for target, ten in zip(targets, popular, strict=True)]
    assert found["hr_10_popularity"] == np.mean(expected)
    counts, rows, hits = dataset.statistics.values["item"], np.arange(1, len(names)), []
    for target in targets:
        score = np.zeros(len(names))
        for age, event in enumerate(reversed(target.history[-10:].tolist()), 1):
            pairs = slice(counts.offsets[event], counts.offsets[event + 1])
            after = counts.together[pairs] - counts.before[pairs]
            score[counts.other[pairs]] += after / np.sqrt(counts.count[event] + 1) / age
        order = rows[np.lexsort((-dataset.popularity[rows], -score[rows].round(9)))]
        hits.append(target.item in order[~np.isin(order, target.history)][:10])
    assert found["hr_10_sequential_rules"] == np.mean(hits)
