"""Training from where another run ended: rows follow their ids, and nothing fits by accident."""

import contextlib
import dataclasses
import gc
import io
import itertools
import shutil
import weakref
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from support import tiny_run
from support.tiny_run import GONE, NEW_ITEMS, bits, refusal, write_grown

from dien_jax import fit, train
from dien_jax.config.settings import ModelConfig
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import Interrupted, UserError
from dien_jax.metrics.scores import auc
from dien_jax.model.tower import of_part
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import load_run, score_split
from dien_jax.training import loop, warm_start
from dien_jax.training import run as training_run
from dien_jax.utils.files import read_json

pytestmark = pytest.mark.long

SMALL = (*tiny_run.LIGHT, "--model.statistics")
"""A model that compiles in little time, with statistics of both kinds and what is fitted first."""


class Tiny(NamedTuple):
    """Two folders, a run on the first, and one on the second that started from it, which said."""

    old: Dataset
    new: Dataset
    run: Path
    warm: Path
    said: str


def flags(data: Path, folder: Path, start: Path) -> list[str]:
    """The model's settings are those of the run to start from."""
    more = ("--model.statistics", "--train.epochs=1", "--warm-start", str(start))
    return [*tiny_run.flags(data, folder), *more]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    old = open_dataset(tiny_run.write_data(folder / "old"))
    new = open_dataset(write_grown(folder / "new", old))
    run, warm = folder / "run", folder / "warm"
    assert train.main([*tiny_run.flags(old.path, run), "--train.epochs=2", *SMALL]) == 0
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train.main(flags(new.path, warm, run)) == 0
    return Tiny(old, new, run, warm, said.getvalue())


def started(tiny: Tiny) -> warm_start.Grown:
    """What a run on the grown data starts from."""
    config = Run.load(tiny.run).config
    return warm_start.grown(warm_start.load_source(tiny.run, tiny.new, config), tiny.new)


def scores(tiny: Tiny, split: str) -> np.ndarray:
    """Of the new data, before training there."""
    state, trained = started(tiny), load_run(tiny.run)
    params = {"params": state.params, "batch_stats": state.batch_stats}
    model = trained._replace(dataset=tiny.new, calibration=None, **params)
    return score_split(model, split).scores


# Rows


def test_rows_are_matched_by_value_and_the_unknown_row_stays():
    rows = warm_start.trained_rows(["", "a", "b", "c"], ["", "c", "x", "a"])
    assert rows.tolist() == [0, 3, warm_start.NEW, 1]
    assert warm_start.trained_rows(["?", "a"], ["", "?", "a"]).tolist() == [0, warm_start.NEW, 1]


def test_a_table_of_the_unknown_row_alone_has_no_other_mean():
    assert warm_start.mean_row(np.full((1, 2), 9, np.float32), None).tolist() == [9, 9]


def test_parameters_and_statistics_go_over_and_rows_follow_their_ids(tiny):
    trained = load_run(tiny.run)
    found = started(tiny)
    params = found.params
    assert found.new_rows == {"item": 2, "category": 1, "user": 2}
    assert found.lost_rows == {"item": 1, "category": 0, "user": 0}
    assert str(found).endswith("; dropped rows: 1 of item")
    for group, name in (("item", "item"), ("item", "category"), ("user", "user")):
        table = np.asarray(trained.params[f"{group}_embeddings"][name])
        before = dict(zip(tiny.old.vocabulary(name), table, strict=True))
        now = dict(zip(tiny.new.vocabulary(name), params[f"{group}_embeddings"][name], strict=True))
        for value in set(before) & set(now):
            assert now[value].tobytes() == before[value].tobytes()
        if name == "user":
            assert now["v1"].tobytes() == now["v2"].tobytes() == now[""].tobytes()
        if name == "category":
            assert now["brand new"] == pytest.approx(table[1:].mean(0), rel=1e-5)
        if name == "item":
            weights = 1 / np.maximum(tiny.old.popularity[1:, None], 1)
            mean = (table[1:] * weights).sum(0) / weights.sum()
            assert now["n1"] == pytest.approx(mean, rel=1e-5)
        weights = [
            np.asarray(of["tower"][f"{group}_weights"][name]) for of in (trained.params, params)
        ]
        before = dict(zip(tiny.old.vocabulary(name), weights[0], strict=True))
        now = dict(zip(tiny.new.vocabulary(name), weights[1], strict=True))
        assert weights[0].any()
        assert all(now[value] == before.get(value, 0) for value in now)
    of_rows = {"item_embeddings", "user_embeddings", "tower"}
    for name in set(trained.params) - of_rows:
        assert bits(params[name]) == bits(trained.params[name])
    assert len(jax.tree.leaves(found.batch_stats)) >= 4  # BatchNorm and Dice
    assert bits(found.batch_stats) == bits(trained.batch_stats)


def test_the_optimiser_goes_on_and_its_slots_follow_their_rows(tiny):
    found = started(tiny)
    _, before, _ = tiny_run.saved_states(tiny.run)["best"]
    (old, _), (new, schedule) = (s.optimizer_state["tower"] for s in (before, found))
    assert int(new.count) == int(old.count) > 0
    assert int(schedule.count) == 0, "the schedule starts anew"
    assert bits(new.nu["tower"]["logit"]) == bits(old.nu["tower"]["logit"])
    items = tiny.new.vocabulary("item")
    for slots, trained in ((new.mu, old.mu), (new.nu, old.nu)):
        table = np.asarray(slots["tower"]["item_weights"]["item"])
        assert not table[[items.index(item) for item in NEW_ITEMS]].any()
        for row, item in enumerate(tiny.old.vocabulary("item")):
            if row and item != GONE:
                expected = np.asarray(trained["tower"]["item_weights"]["item"][row])
                assert table[items.index(item)].tobytes() == expected.tobytes()


def test_before_training_scores_are_those_of_the_run(tiny):
    before = score_split(load_run(tiny.run)._replace(calibration=None), "train").scores
    after = scores(tiny, "train")
    gone = tiny.old.vocabulary("item").index(GONE)
    starts, examples = tiny.old.event_offsets, tiny.old.splits["train"]
    knows_all = np.array(
        [
            gone not in [item, *tiny.old.event_item[starts[sequence] : end]]
            for item, sequence, end in zip(
                examples.item, examples.sequence, examples.history_end, strict=True
            )
        ]
    )
    assert knows_all.sum() > 20
    assert (~knows_all).any()
    assert after[knows_all] == pytest.approx(before[knows_all], abs=1e-6)


# The run


def test_the_run_tells_what_it_started_from_and_trains(tiny):
    told = Run.load(tiny.warm).warm_start
    best = read_json(tiny.run / "result.json", dict)["best_step"]
    assert told == {"run": str(tiny.run), "step": best, "vectors": False, "near_vectors": False}
    assert Run.load(tiny.run).warm_start is None
    result = read_json(tiny.warm / "result.json", dict)
    assert result["steps"] == tiny_run.STEPS_PER_EPOCH
    start, ended = (
        of_part(params, "network") for params in (started(tiny).params, latest(tiny.warm)[1].params)
    )
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), start, ended)
    assert 0 < max(jax.tree.leaves(moved)) < 0.2, "four steps of Adam at 0.02 from the start"


def test_the_start_is_scored_on_the_new_validation_split(tiny):
    before, _, after = tiny.said.partition("before the first step: validation AUC ")
    assert "starting from" in before
    area = auc(np.asarray(tiny.new.splits["valid"].label), scores(tiny, "valid"))
    assert after.startswith(f"{area:.4f}, ")
    result = read_json(tiny.warm / "result.json", dict)
    assert result["valid_before"]["auc"] == area
    is_worse = result["valid"]["auc"] < area
    assert ("validation was better before the first step" in after) == is_worse


def test_settings_of_the_run_are_the_defaults_unless_a_preset_is_named(tiny):
    of_run = train.parse(["--warm-start", str(tiny.run)])
    assert of_run.model == Run.load(tiny.run).config.model
    assert of_run.train.batch_size == 16
    named = train.parse(["din", f"--warm-start={tiny.run}"])
    assert named.model.hidden_size == ModelConfig().hidden_size
    assert named.warm_start == tiny.run


def latest(folder: Path):
    return tiny_run.saved_states(folder)["latest"][:2]


def test_a_run_killed_in_its_first_steps_resumes_without_the_other_run(tiny, tmp_path, monkeypatch):
    start, folder = tmp_path / "start", tmp_path / "run"
    shutil.copytree(tiny.run, start)
    take, taken = loop.Trainer._step, itertools.count(1)

    def dies(*arguments):
        if next(taken) == 3:
            raise KeyboardInterrupt
        take(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", dies)
        assert train.main(flags(tiny.new.path, folder, start)) == 130
    step, state = latest(folder)
    assert step == 0
    expected = started(tiny)
    for name in ("params", "batch_stats", "optimizer_state"):
        assert bits(getattr(state, name)) == bits(getattr(expected, name))
    shutil.rmtree(start)
    assert train.main(["--resume", str(folder)]) == 0
    before = [read_json(run / "result.json", dict)["valid_before"] for run in (folder, tiny.warm)]
    assert before[0] == before[1] is not None
    step, state = latest(folder)
    assert step == tiny_run.STEPS_PER_EPOCH
    assert bits(state) == bits(latest(tiny.warm)[1])


def test_a_run_killed_before_it_has_the_parameters_looks_for_them_again(
    tiny, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"
    arguments = flags(tiny.new.path, folder, tiny.run)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "start_from", Mock(side_effect=KeyboardInterrupt))
        assert train.main(arguments) == 130
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    assert train.main(["--resume", str(folder)]) == 0
    ours, theirs = latest(folder)[1], latest(tiny.warm)[1]
    assert bits(ours) == bits(theirs)
    capfd.readouterr()
    text = (again / "config.json").read_text()
    (again / "config.json").write_text(text.replace('"step": ', '"step": 9'))
    assert train.main(["--resume", str(again)]) == 2
    assert "began from its checkpoint of step 9" in capfd.readouterr().err


# What is refused


def test_data_with_other_inputs_of_the_tower_is_refused(tiny):
    item, category = tiny.old.schema.item
    few, many = (
        dataclasses.replace(tiny.old.schema, item=(item, dataclasses.replace(category, size=size)))
        for size in (47, 48)
    )
    warm_start._check_inputs(few, dataclasses.replace(tiny.new, schema=few))
    with pytest.raises(UserError, match=r"\(category similarity_16_last, .*\); train a new run"):
        warm_start._check_inputs(few, dataclasses.replace(tiny.new, schema=many))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embedding_size": 5}, "must be 18, as in the run, got 5; train without a preset has"),
        ({"gates": "authors"}, "model.gates must be 'paper', as in the run, got 'authors'"),
        ({"layers": (8, 4)}, r"model.layers must be \(200, 80\), as in the run, got \(8, 4\)"),
        ({"auxiliary_weight": 0.0}, r"model.auxiliary_weight must be above 0, as in the run \(8\)"),
        ({"dropout": 0.5, "auxiliary_weight": 0.25, "auxiliary_negatives": 3}, None),
    ],
)
def test_a_model_of_other_parameters_is_refused_by_its_setting(changes, expected):
    refused = pytest.raises(UserError, match=expected) if expected else contextlib.nullcontext()
    with refused:
        warm_start._check_settings(ModelConfig(), ModelConfig(**changes))


def test_data_of_other_features_is_refused(tiny, monkeypatch):
    number = Feature("price", "numeric", mean=1.0, deviation=2.0)

    def with_feature(data: Dataset, feature: Feature) -> Dataset:
        schema = Schema((*data.schema.item, feature), data.schema.user)
        return dataclasses.replace(data, schema=schema)

    with_price = with_feature(tiny.old, number)
    otherwise = with_feature(tiny.new, dataclasses.replace(number, mean=1.5))
    config = Run.load(tiny.run).config
    monkeypatch.setattr(Run, "open_data", lambda *_: with_price)
    with pytest.raises(UserError, match=r"does not fit the run: expected the item features item"):
        warm_start.load_source(tiny.run, tiny.new, config)
    expected = "item feature 'price' had deviation 2.0, mean 1.0 in training, found .*--extend"
    with pytest.raises(UserError, match=expected):
        warm_start.load_source(tiny.run, otherwise, config)


def test_a_mistake_is_one_message_and_makes_no_run_folder(tiny, tmp_path, capfd):
    def refused(start: Path, *more: str) -> str:
        said = refusal([*flags(tiny.new.path, tmp_path / "run", start), *more], capfd)
        assert not (tmp_path / "run").exists()
        return said

    assert "does not exist" in refused(tmp_path / "missing")
    differs = f"warm start from {tiny.run}: model.activation must be 'dice', as in the run, got"
    assert differs in refused(tiny.run, "--model.activation=prelu")


def test_training_keeps_no_table_of_the_run_that_it_started_from(
    tiny, tmp_path, monkeypatch
) -> None:
    tables, load = [], training_run.load_source

    def noted(*arguments: object) -> warm_start.Source:
        source = load(*arguments)
        tables.append(weakref.ref(source.state.params["item_embeddings"]["item"]))
        return source

    def stopped(trainer: loop.Trainer, reporter: object) -> None:
        gc.collect()
        assert [table() for table in tables] == [None]
        raise Interrupted(2)

    monkeypatch.setattr(training_run, "load_source", noted)
    monkeypatch.setattr(loop.Trainer, "run", stopped)
    with pytest.raises(Interrupted):
        fit(Run.load(tiny.run).config, data=tiny.new, run_dir=tmp_path / "run", warm_start=tiny.run)
