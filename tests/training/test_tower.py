"""The tower: its part of a run, what the network beside it leaves, and what is said of both."""

import dataclasses
import functools
import itertools
import re
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from support import tiny_run, untrained_run

from dien_jax import Ranker, auc, train
from dien_jax.config.presets import member
from dien_jax.config.settings import Config, OptimConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.model.tower import of_part
from dien_jax.runs.trained import load_run, score_batches, score_split
from dien_jax.steps import make_predict_step, make_train_step, training_tables
from dien_jax.steps.placement import OneDevice
from dien_jax.training.result import COUNTS_ALONE, RunResult, _remarks

MODEL = member("base_model", untrained_run.SMALL)
CONFIG = Config(model=MODEL, train=TrainConfig(batch_size=16, max_history=8, buckets=()))


@pytest.mark.long
@pytest.mark.parametrize("part", ["tower", "network"])
def test_a_step_trains_one_part_whether_it_updates_tables_or_their_rows(part, data):
    dataset, losses = open_dataset(data), []
    place = OneDevice(dataset.schema, dense_rows=3)
    for update in ("dense", "lazy_adam"):
        config = dataclasses.replace(CONFIG, optim=OptimConfig(embedding_update=update))
        state = untrained_run.random_state(config, dataset.schema)
        before = jax.device_get((state.params, state.batch_stats, state.optimizer_state))
        loader = Loader(dataset, "train", config.train, statistics=True)
        step = make_train_step(config, dataset.schema, loader.steps_per_epoch, place, part)
        tables = training_tables(dataset, config)
        for batch in itertools.islice(loader.epoch(0), 2):
            state, metrics = step(state, tables, batch)
            losses.append(float(metrics["loss"]))
        after = jax.device_get((state.params, state.batch_stats, state.optimizer_state))
        for old, new in zip(before, after, strict=True):
            slots = old is before[2]
            for name in ("tower", "network"):
                left, right = (tree[name] if slots else of_part(tree, name) for tree in (old, new))
                moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), left, right)
                assert (max(jax.tree.leaves(moved)) > 0) == (name == part)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)  # float32


@pytest.mark.long
def test_a_run_trains_both_parts_and_is_never_below_the_tower_on_validation(tmp_path, capfd):
    """At a rate at which the network is ruined, the best checkpoint is one of the tower alone."""
    data, folder = tiny_run.write_data(tmp_path / "data"), tmp_path / "run"
    flags = [*tiny_run.light_flags(data, folder), "--model.statistics", "--train.epochs=2"]
    assert train.main([*flags, "--optim.learning-rate=3"]) == 0
    lines = tiny_run.evaluations(folder)
    assert [line["part"] for line in lines] == ["tower", "tower", "network", "network"]
    assert [line["step"] for line in lines] == [4, 8, 12, 16]
    trained = load_run(folder)
    assert trained.step == max(lines[:2], key=lambda line: line["valid"]["auc"])["step"]
    dataset, config, scores = (
        trained.dataset,
        trained.run.config,
        score_split(trained, "test").scores,
    )
    step = make_predict_step(config, dataset.schema, part="tower")
    inputs = (trained.params, trained.batch_stats, trained.feature_tables())
    predict = functools.partial(step, *inputs, logit_map=trained.logit_map(in_use=False))
    alone = score_batches(predict, evaluation_loader(dataset, "test", config.train))
    np.testing.assert_allclose(alone, scores, rtol=1e-6)
    area = auc(np.asarray(dataset.splits["test"].label), scores)
    printed, said = capfd.readouterr()
    assert said.count("compiling the train step") == 2  # of the tower, and of the network
    assert re.search(rf"^test, {COUNTS_ALONE} +{area:.4f}$", printed, re.MULTILINE)
    assert "Reading the history adds nothing to counts alone." in printed


@pytest.mark.long
def test_labels_that_are_noise_are_not_learned(tmp_path, caplog):
    """Counts leave out the example's own event: with it, they would tell the clicks of training.

    The step of each part is compiled once, also where embeddings start from vectors.
    """
    flags = [*tiny_run.LIGHT, "--train.max-history=8", "--train.buckets=8", "--train.epochs=2"]
    flags += ["--model.layers=8"]
    # 32,000 examples for validation: the error of an AUC is .0032
    log = {"rows": 40_000, "users": 400, "items": 200, "rates": [0.5] * 20, "valid_share": 0.8}
    with jax.log_compiles():
        run = tiny_run.train_on_impressions(tmp_path, *flags, **log)
    assert sum("Compiling jit(train_step)" in line for line in caplog.messages) == 2
    for line in tiny_run.evaluations(run):
        assert line["valid"]["auc"] == pytest.approx(0.5, abs=0.01)
        assert line["train"]["click_loss"] > 0.68  # log 2 is .693


@pytest.mark.long
def test_an_unknown_candidate_scores_within_the_known_ones(tmp_path):
    """Every item is seen many times, and the tower decides the scores."""
    flags = [*tiny_run.LIGHT, "--model.layers=4", "--model.statistics", "--train.epochs=8"]
    flags += ["--train.max-history=8", "--train.buckets=8", "--optim.learning-rate=1e-9"]
    clicks = {"rows": 6000, "users": 60, "items": 12, "rates": (0.05, 0.1, 0.2)}
    ranker = Ranker(tiny_run.train_on_impressions(tmp_path, *flags, **clicks))
    for history in ([], ["i1", "i2", "i3"]):
        ranking = ranker.rank(history, [*(f"i{k}" for k in range(12)), "never seen"], user="u1")
        scores = dict(zip(ranking.ids, ranking.scores.tolist(), strict=True))
        unknown = scores.pop("never seen")
        assert min(scores.values()) / 2 < unknown < 2 * max(scores.values())


LISTS = {"hr_10": 0.12, "hr_10_popularity": 0.02, "ndcg_10": 0.06, "targets": 1000}


@pytest.mark.parametrize(
    ("simple", "changes", "expected"),
    [
        ({"popularity": 0.792}, {}, ["0.0080 above that of pop"]),
        ({"popularity": 0.81, COUNTS_ALONE: None}, {}, ["0.0100 below that of pop"]),
        ({"popularity": 0.5, "best possible": 0.9}, {}, []),
        ({"popularity": None}, {"best_step": 40}, ["more epochs"]),
        ({COUNTS_ALONE: 0.77}, {}, ["in order adds 0.0300 to the AUC of counts alone"]),
        ({COUNTS_ALONE: 0.798}, {}, ["adds only 0.0020 to the AUC of counts"]),
        ({COUNTS_ALONE: 0.81}, {}, ["in order takes 0.0100 from the AUC"]),
        ({COUNTS_ALONE: 0.80001}, {}, ["history adds nothing"]),
        (
            {},
            {"lists": LISTS},
            ["HR@10 0.120, NDCG@10 0.060; of the most popular items HR@10 0.020"],
        ),
    ],
)
def test_table_says_in_words_what_parts_and_simple_models_are_worth(simple, changes, expected):
    about = {"test": {"auc": 0.8}, "baselines": simple, "best_step": 30, "steps": 40}
    about["lists"] = None
    result = Mock(RunResult, **about | changes)
    lines = list(_remarks(result))
    assert len(lines) == len(expected)
    assert all(part in line for line, part in zip(lines, expected, strict=True))
