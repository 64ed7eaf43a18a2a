"""Permutation importance: the inputs that are exchanged, and the AUC that is lost."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from support import small_dataset, tiny_run
from support.untrained_run import trained

from dien_jax.data.arrays import Column
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.inspection.importance import (
    Input,
    exchanged_scores,
    importance_table,
    make_exchanged_step,
    model_inputs,
    permutation_importance,
)
from dien_jax.metrics.scores import auc
from dien_jax.runs.trained import trained_scores
from dien_jax.steps.state import feature_tables

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    return trained(small_dataset.write(tmp_path_factory.mktemp("data") / "small"), "din")


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny")


compiled = functools.cache(make_exchanged_step)


def exchanged(model, split: str, input_: Input, seed: int = 4) -> np.ndarray:
    config, dataset = model.run.config, model.dataset
    step, tables = compiled(config, dataset.schema), feature_tables(dataset, config.model)
    return exchanged_scores(model, tables, step, split, input_, np.random.default_rng(seed))


def moved_scores(model, split: str, *columns: str, seed: int = 4) -> np.ndarray:
    """Scores of a dataset whose examples have these columns of other examples."""
    dataset = model.dataset
    examples = dataset.splits[split]
    order = np.random.default_rng(seed).permutation(len(examples.label))
    assert (order != np.arange(len(order))).any()
    values = {name: getattr(examples.take(order), name) for name in columns}
    moved = dataclasses.replace(dataset, splits={split: examples._replace(**values)})
    return trained_scores(model._replace(dataset=moved), split)


def test_every_feature_is_an_input(small):
    assert [input_.name for input_ in model_inputs(small.dataset.schema, True)] == [
        "candidate",
        "candidate: item id",
        "candidate: category",
        "candidate: tags",
        "candidate: price",
        "user",
        "user: user id",
        "user: words",
        "context: device",
        "context: query",
        "history",
        "history order",
        "statistics",
    ]


def test_nothing_exchanged_leaves_the_scores(small):
    scores = exchanged(small, "train", Input("nothing", "item"))
    np.testing.assert_allclose(scores, trained_scores(small, "train"), atol=1e-6)


@pytest.mark.parametrize("name", ["aigru", "wide_deep"])
def test_whole_inputs_are_those_of_other_examples(tiny_data, name):
    model = trained(tiny_data, name, statistics=False)
    candidate, _, _, user, history, _ = model_inputs(model.dataset.schema, False)
    for input_, columns in (
        (candidate, ("item",)),
        (user, ("user",)),
        (history, ("sequence", "history_end")),
    ):
        expected = moved_scores(model, "train", *columns)
        np.testing.assert_allclose(exchanged(model, "train", input_), expected, atol=1e-6)
        assert not np.allclose(expected, trained_scores(model, "train"))


def test_whole_context_is_that_of_other_examples(small):
    both = Input("context", "context", ("device", "query"))
    expected = moved_scores(small, "train", "context")
    np.testing.assert_allclose(exchanged(small, "train", both), expected, atol=1e-6)


def test_one_feature_is_exchanged_and_the_others_stay(small):
    examples = small.dataset.splits["train"]
    order = np.random.default_rng(4).permutation(4)
    device = {**examples.context, "device": Column(examples.context["device"].values[order], None)}
    changed = {"train": examples._replace(context=device)}
    moved = small._replace(dataset=dataclasses.replace(small.dataset, splits=changed))
    scores = exchanged(small, "train", Input("device", "context", ("device",)))
    np.testing.assert_allclose(scores, trained_scores(moved, "train"), atol=1e-6)
    alone = exchanged(small, "train", Input("id", "item", ("item",)))
    assert not np.allclose(alone, exchanged(small, "train", Input("tags", "item", ("tags",))))


def test_order_is_worth_nothing_to_a_model_that_ignores_it(tiny_data):
    for name, sees in (("wide_deep", False), ("aigru", True)):
        model = trained(tiny_data, name, statistics=False)
        scores = exchanged(model, "train", Input("order", "order"))
        same = np.allclose(scores, trained_scores(model, "train"), atol=1e-5)
        assert same != sees


def test_figures_are_those_of_the_scores(tiny_data, capfd):
    model = trained(tiny_data, "wide_deep")
    importance = permutation_importance(model, "valid", 2)
    assert capfd.readouterr().out == ""
    labels = np.asarray(model.dataset.splits["valid"].label)
    assert importance.auc == auc(labels, trained_scores(model, "valid"))
    drops = [row.drop.value for row in importance.inputs]
    assert drops == sorted(drops, reverse=True)
    named = {row.input: row for row in importance.inputs}
    for row in importance.inputs:
        assert row.drop.value == pytest.approx(importance.auc - np.mean(row.aucs))
        assert row.drop.low <= row.drop.value <= row.drop.high
    assert named["user"].drop.value == pytest.approx(0, abs=1e-12)  # held-out users are one
    text = importance_table(importance)
    assert len(text.splitlines()) == len(importance.inputs) + 3


def test_split_of_one_label_is_refused(tmp_path):
    data = tiny_run.write_data(tmp_path / "data", valid=1)
    model = trained(data, "wide_deep")
    with pytest.raises(UserError, match="valid split has 24 clicks among 24 examples"):
        permutation_importance(model, "valid", 1)


def test_examples_are_taken_with_all_their_columns(small):
    examples = small.dataset.splits["train"]
    taken = examples.take(np.array([2, 0, 0]))
    np.testing.assert_array_equal(taken.item, [1, 2, 2])
    np.testing.assert_array_equal(taken.context["query"].values, [0, 1, 2, 3, 1, 2, 3])
    assert taken.context["query"].offsets.tolist() == [0, 1, 4, 7]
    assert taken.probability.tolist() == [1, 0.5, 0.5]
    everything = open_dataset(small.dataset.path).splits["train"].take(np.arange(4))
    np.testing.assert_array_equal(everything.history_end, examples.history_end)
