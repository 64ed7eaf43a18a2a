"""Spaces of settings: the default one, files, and mistakes in them."""

import json

import pytest

from dien_jax.config.preset_files import with_settings
from dien_jax.config.presets import PRESETS
from dien_jax.errors import UserError
from dien_jax.experiments import search_space
from dien_jax.experiments.search_space import read_space
from tests.experiments.test_search import optuna


@pytest.mark.parametrize("name", PRESETS)
def test_default_space_fits_every_preset(name):
    space = search_space.default_space(PRESETS[name])
    search_space._check_values(space, PRESETS[name])


def test_default_space_has_nothing_that_the_model_has_not():
    base = with_settings(PRESETS["dien"], {"model.auxiliary_weight": 0})
    assert "model.auxiliary_weight" in search_space.default_space(PRESETS["dien"])
    assert "model.auxiliary_weight" not in search_space.default_space(base)
    assert "model.hidden_size" in search_space.default_space(base)
    assert "model.hidden_size" not in search_space.default_space(PRESETS["din"])


def test_space_file_replaces_the_default_space(tmp_path):
    file = tmp_path / "space.json"
    given = {
        "model.hidden_size": {"low": 8, "high": 24, "step": 8},
        "model.dropout": {"low": 0, "high": 0.5},
        "model.layers": [[200, 80], [16]],
        "train.click_rate": [None, 0.5],
    }
    file.write_text(json.dumps(given))
    space = read_space(file, PRESETS["dien"])
    kinds = optuna.distributions
    assert space == {
        "model.hidden_size": kinds.IntDistribution(8, 24, step=8),
        "model.dropout": kinds.FloatDistribution(0, 0.5),
        "model.layers": kinds.CategoricalDistribution(["[200, 80]", "[16]"]),
        "train.click_rate": kinds.CategoricalDistribution(["null", "0.5"]),
    }
    drawn = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        drawn.append(search_space.chosen_settings(study.ask(space).params))
        with_settings(PRESETS["dien"], drawn[-1])
    assert {each["model.hidden_size"] for each in drawn} == {8, 16, 24}
    assert {str(each["model.layers"]) for each in drawn} == {"[200, 80]", "[16]"}
    assert {each["train.click_rate"] for each in drawn} == {None, 0.5}
    assert all(0 <= each["model.dropout"] <= 0.5 for each in drawn)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.hiden_size": [3]}, "unknown setting 'model.hiden_size'; did you mean 'model.hidd"),
        (
            {"model.dropout": 0.5},
            "model.dropout: expected a list of one or more choices, or",
        ),
        ({"model.dropout": []}, "model.dropout: expected a list of one or more"),
        ({"model.dropout": {"low": 0, "hihg": 1}}, "unknown key 'hihg'; did you mean 'high'"),
        ({"model.dropout": {"low": 0}}, "model.dropout: Object missing required field 'high'"),
        ({"model.dropout": {"low": 0.5, "high": 0.4}}, "model.dropout: `low <= high` must hold"),
        (
            {"model.dropout": {"low": 0, "high": 0.5, "log": True}},
            "`low > 0` must hold for `log",
        ),
        ({"model.dropout": {"low": 0, "high": 0.5, "log": 1}}, "Expected 'bool', got 'int'"),
        (
            {"model.dropout": {"low": 0, "high": 0.5, "step": 0.2}},
            "is not divisible by `step`",
        ),
        ({"model.dropout": {"low": 0, "high": 0.5, "step": 0}}, "`step > 0` must hold"),
        ({"model.hidden_size": {"low": 1.5, "high": 3}}, "model.hidden_size: must be an integer"),
        ({"model.layers": {"low": 1, "high": 3}}, "model.layers: is not a number; give a li"),
        ({"model.activation": ["dise"]}, "model.activation must be one of"),
        ({"model.dropout": {"low": 0, "high": 1}}, r"model.dropout must be in [0, 1)"),
        ({"model.hidden_size": [8, 0]}, "model.hidden_size must be at least 1, got 0"),
        ({}, "expected settings to search, found none"),
        ([], "Expected 'object', got 'array'"),
    ],
)
def test_mistake_in_a_space_is_told_with_its_file(space, message, tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space))
    with pytest.raises(UserError) as raised:
        read_space(file, PRESETS["dien"])
    assert str(raised.value).startswith(f"{file}: ")
    assert str(raised.value).count(str(file)) == 1
    assert message in str(raised.value)
