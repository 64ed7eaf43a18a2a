"""A run of an ensemble serves as any other: ranked with, exported, explained, continued."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from support import small_dataset, tiny_run, untrained_run
from support.random_model import trained

from dien_jax import Ranker, export
from dien_jax.data.batch import example_batch
from dien_jax.inference.exported_programs import row_arrays, row_scores
from dien_jax.inspection.gates import make_internals_step
from dien_jax.inspection.importance import permutation_importance
from dien_jax.inspection.item_map import embedding_map
from dien_jax.metrics.scores import auc
from dien_jax.model.ensemble import mean_one_by_one, split_networks
from dien_jax.runs.scoring import trained_scores
from dien_jax.runs.trained import load_run
from dien_jax.steps.state import feature_tables

PEAR, SLASH, ODD = small_dataset.ITEMS[1:]
CONTEXT = {"device": "desk", "query": ["q", "s"]}
TOLERANCE = {"rtol": 2e-5, "atol": 1e-7}
"""To float32 rounding: programs of other forms compute in another order."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset.write(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dien"
    return untrained_run.write(folder, data, buckets=(3,), ensemble=2)


def test_rankers_of_a_run_and_of_its_exported_file_agree(run, tmp_path) -> None:
    file = tmp_path / "model.dien"
    assert export.main([str(run), "--out", str(file)]) == 0
    history, candidates = [PEAR, SLASH, SLASH, ODD], [PEAR, SLASH, ODD]
    rankers = [Ranker(run), Ranker(file)]
    expected = rankers[0].rank(history, candidates, "Ann", CONTEXT)
    assert np.ptp(expected.scores) > 1e-3
    for ranker in rankers:
        ranker.remember("Ann", history[:-2])  # then into a larger bucket
        for event in history[-2:]:
            ranker.observe("Ann", event)
        remembered = ranker.rank(None, candidates, "Ann", CONTEXT)
        for ranking in (ranker.rank(history, candidates, "Ann", CONTEXT), remembered):
            assert ranking.ids == expected.ids
            np.testing.assert_allclose(ranking.scores, expected.scores, **TOLERANCE)


def test_scores_without_vmap_are_the_same(run) -> None:
    model = load_run(run)
    batch = row_arrays(example_batch(model.dataset.schema, batch_size=3))
    weights, together = row_scores(model, "reference")
    _, one_by_one = row_scores(model, "reference", mean_one_by_one)
    expected = jax.jit(together)(weights, batch)
    np.testing.assert_allclose(jax.jit(one_by_one)(weights, batch), expected, **TOLERANCE)


def test_measures_of_examples_are_means_over_the_networks(run) -> None:
    model = load_run(run)
    config, dataset = model.run.config, model.dataset
    inputs = (feature_tables(dataset, config.model), example_batch(dataset.schema, batch_size=3))
    networks = split_networks(2, (model.params, model.batch_stats))
    found = make_internals_step(config, dataset.schema)(*model[2:4], *inputs)
    alone = untrained_run.Config.from_dict(
        {**json.loads(config.to_json()), "model": {**vars(config.model), "ensemble": 1}}
    )
    step = make_internals_step(alone, dataset.schema)
    each = [step(*network, *inputs).measures for network in networks]
    assert found.measures.keys() == each[0].keys() == {*each[0]}
    for name, value in found.measures.items():
        mean = np.mean([measures[name] for measures in each], 0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-7)


def test_importance_and_map_read_every_network(data) -> None:
    model = trained(tiny_run_data(data), "din", ensemble=2, statistics=False)
    importance = permutation_importance(model, "valid", permutations=1)
    labels = np.asarray(model.dataset.splits["valid"].label)
    assert importance.auc == pytest.approx(auc(labels, trained_scores(model, "valid")))
    history_order = next(one for one in importance.inputs if one.input == "history order")
    assert history_order.drop.value == pytest.approx(0, abs=1e-6)  # DIN without counts ignores it
    assert len(embedding_map(model).points) == tiny_run.ITEMS - 1


def tiny_run_data(data: Path) -> Path:
    folder = data.parent / "tiny"
    return folder if folder.exists() else tiny_run.write_data(folder)
