"""Attention and gates of single examples, and of models that lack them."""

from dataclasses import replace

import numpy as np
import pytest
from dien_kernels import Weights
from support import small_dataset, untrained_run
from support.recurrences import numpy_recurrence
from support.untrained_run import trained

from dien_jax.config.presets import FAMILY, member
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import printable
from dien_jax.inspection.examples import (
    UNKNOWN_NAME,
    Behaviour,
    Inspector,
    Names,
    available_measures,
    missing_measures,
)
from dien_jax.runs.trained import score_split

pytestmark = pytest.mark.long

MEASURES = {
    "base_model": set(),
    "wide_deep": set(),
    "pnn": set(),
    "din": {"attention"},
    "gru_att": {"extractor_gate", "attention", "update_gate"},
    "aigru": {"extractor_gate", "attention", "update_gate"},
    "agru": {"extractor_gate", "attention"},
    "augru": {"extractor_gate", "attention", "update_gate", "update"},
    "dien": {"extractor_gate", "attention", "update_gate", "update"},
}
NUMBERS = [3, 0, 17]
BATCH_MATES = {"follow_authors": True}
"""Settings that make a score depend on the batch."""


def gates(cell: str, form: str, weights, inputs: np.ndarray, attention: np.ndarray):
    """Return states of one history, and mean gates without and with attention, by the equations."""
    weights = Weights(**weights)
    initial = np.zeros((1, weights.bias.shape[1]))
    given = inputs[None], attention[None], weights, [len(inputs)], initial
    states, alone, under = numpy_recurrence(cell, form, *given)
    return states[0], alone[0].mean(-1), under[0].mean(-1)


@pytest.mark.parametrize(
    ("model", "form"), [("augru", "paper"), ("augru", "authors"), ("aigru", "paper")]
)
def test_gates_are_those_of_the_equations(data, model, form):
    made = trained(data, model, gates=form, **BATCH_MATES)
    params, dataset = made.params, made.dataset
    tables = params["item_embeddings"]
    for example in Inspector(made).examples("valid", NUMBERS):
        split = dataset.splits["valid"]
        end = split.history_end[example.number]
        start = dataset.event_offsets[split.sequence[example.number]]
        rows = dataset.event_item[max(start, end - 6) : end]
        assert example.older == max(0, end - start - 6)
        category = dataset.items["category"].values[rows]
        history = np.concatenate([tables["item"][rows], tables["category"][category]], axis=-1)
        network = params["network"]
        attention = example.measures["attention"]
        states, extractor, _ = gates("gru", form, network["extractor"], history, attention)
        if model == "aigru":
            inputs = states * attention[:, None]
            _, alone, _ = gates("gru", form, network["evolution"], inputs, attention)
        else:
            _, alone, whole = gates("augru", form, network["evolution"], states, attention)
            np.testing.assert_allclose(example.measures["update"], whole, atol=1e-5)
        np.testing.assert_allclose(example.measures["extractor_gate"], extractor, atol=1e-5)
        np.testing.assert_allclose(example.measures["update_gate"], alone, atol=1e-5)
        assert attention.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("model", ["wide_deep", "din", "agru"])
def test_examples_have_the_measures_of_their_model(data, model):
    made = trained(data, model)
    examples = Inspector(made).examples("valid", NUMBERS)
    assert [example.number for example in examples] == NUMBERS
    for example in examples:
        assert list(example.measures) == available_measures(made.run.config.model)
        for values in example.measures.values():
            assert values.shape == (len(example.behaviours),)


def test_models_name_the_measures_that_they_lack():
    assert set(MEASURES) == set(FAMILY)
    for name, has in MEASURES.items():
        model = member(name, untrained_run.SMALL)
        assert set(available_measures(model)) == has
        text = " ".join(missing_measures(model))
        assert ("no attention" in text) == ("attention" not in has)
        assert ("gate" in text) == ("update_gate" not in has)
    assert missing_measures(member("dien", untrained_run.SMALL)) == []


def test_score_is_that_of_evaluation_where_batch_mates_matter(data):
    made = trained(data, "augru", gates="paper", **BATCH_MATES)
    scores = score_split(made, "valid").scores
    examples = Inspector(made).examples("valid", NUMBERS)
    probabilities = [example.probability for example in examples]
    np.testing.assert_allclose(probabilities, scores[NUMBERS], atol=1e-6)


def test_raw_ids_and_categories_are_shown(data):
    made = trained(data, "din")
    split = made.dataset.splits["valid"]
    [example] = Inspector(made).examples("valid", [3])
    assert example.user == f"u{split.group[3]}"
    assert example.label == split.label[3]
    assert example.candidate.item == made.dataset.vocabulary("item")[split.item[3]]
    names = dict(zip(("", "x", "y", "z"), range(4), strict=True))
    assert example.candidate.category in (UNKNOWN_NAME, "x", "y", "z")
    for behaviour in example.behaviours:
        matches = behaviour.category == example.candidate.category and behaviour.category in names
        assert behaviour.matches == matches


def test_a_multivalued_feature_is_shown_and_compared_where_no_other_is(tmp_path):
    dataset = open_dataset(small_dataset.write(tmp_path / "data"))
    item, _, tags, _ = dataset.schema.item
    names = Names(replace(dataset, schema=replace(dataset.schema, item=(item, tags))))
    pear = "pear\\u000afig"
    assert names.behaviour(1, 1) == Behaviour(pear, "a, b, c", matches=True)
    assert names.behaviour(1, 3) == Behaviour(pear, "a, b, c", matches=False)
    assert names.behaviour(2, 1) == Behaviour(small_dataset.SLASH, "", matches=False)


def test_unknown_items_and_unprintable_characters_are_readable(data):
    names = Names(open_dataset(data))
    assert names.item(0) == UNKNOWN_NAME
    assert names.feature == "category"
    assert not names.behaviour(0, 0).matches  # both unknown, which is no category
    assert printable("a\nb\x1b[31m\ud800 é語") == "a\\u000ab\\u001b[31m\\ud800 é語"
