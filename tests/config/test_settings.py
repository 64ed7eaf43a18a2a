"""Settings check themselves, and say what is wrong by name."""

import dataclasses
from typing import Any

import pytest

from dien_jax.config import DistributedConfig
from dien_jax.config.presets import AUTHORS, FAMILY, PRESETS, member, member_name, preset
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"hiden_size": 3}}, r"unknown setting 'model.hiden_size'; did you mean 'hidden"),
        ({"modle": {}}, r"unknown setting 'modle'; did you mean 'model'"),
        ({"model": {"hidden_size": "36"}}, r"model.hidden_size must be a whole number, got '36'"),
        ({"model": []}, r"model must be an object, got \[\]"),
        ({"optim": {"learning_rate": 0.0}}, r"optim.learning_rate must be above 0, got 0.0"),
    ],
)
def test_a_wrong_setting_is_named(values: dict, message: str) -> None:
    """`tests/utils/test_json_values.py` has the other types of values."""
    with pytest.raises(UserError, match=message):
        Config.from_dict(values)


@pytest.mark.parametrize(
    ("name", "implementation", "expected"),
    [
        ("dien", "auto", True),
        ("dien", "native", True),
        ("dien", "xla", False),
        ("din", "auto", True),  # attention
        ("pnn", "native", False),
    ],
)
def test_native_kernels_may_compute_recurrences_and_attention(
    name, implementation, expected
) -> None:
    model = preset(name).model
    assert dataclasses.replace(model, implementation=implementation).may_be_native is expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(hidden_size=0), r"model.hidden_size must be at least 1, got 0"),
        (lambda: ModelConfig(dropout=1.0), r"model.dropout must be at least 0 and below 1"),
        (lambda: OptimConfig(learning_rate=1e39), r"optim.learning_rate must be at most 3.4e\+38"),
        (lambda: TrainConfig(max_history=2**31), r"train.max_history must be at most 2147483647"),
        (lambda: ModelConfig(layers=(8, 2**31)), r"model.layers must be at most 2147483647"),
        (lambda: TrainConfig(unknown_users=1.5), r"train.unknown_users must be at least 0 and at "),
        (lambda: TrainConfig(buckets=(8, 4)), r"train.buckets must be rising lengths"),
    ],
)
def test_an_impossible_value_is_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_list_is_kept_as_a_tuple_and_a_whole_number_as_a_float() -> None:
    model = unchecked(ModelConfig, layers=[20, 10])
    assert hash(model) == hash(ModelConfig(layers=(20, 10)))
    assert type(unchecked(OptimConfig, learning_rate=1).learning_rate) is float


def unchecked(kind: Any, **values: object) -> Any:
    """Return settings as a user's program makes them: tests add checks of types to the package."""
    settings = kind()
    vars(settings).update(values)
    settings.__post_init__()
    return settings


@pytest.mark.parametrize("name", FAMILY)
def test_a_row_of_the_papers_table_is_called_by_its_name(name: str) -> None:
    assert member_name(PRESETS[name].model) == member_name(member(name, AUTHORS.model)) == name


def test_what_is_no_row_of_the_papers_table_is_called_custom() -> None:
    assert member_name(ModelConfig(auxiliary_weight=3.0)) == "dien"
    assert member_name(ModelConfig(evolution="aigru", product=False)) == "custom"
    assert member_name(ModelConfig(evolution="gru_attention")) == "custom"


HERE = "10.0.0.1:5000"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coordinator": HERE}, "distributed.processes and distributed.process are missing"),
        ({"processes": 2, "process": 0}, "distributed.coordinator is missing"),
        ({"coordinator": HERE, "processes": 2}, "distributed.process is missing"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "host:", "processes": 2, "process": 0}, "got 'host:'"),
        ({"coordinator": "host:0", "processes": 2, "process": 0}, "a port of 1 to 65535"),
        ({"coordinator": "host:70000", "processes": 2, "process": 0}, "a port of 1 to 65535"),
        ({"coordinator": "::1:5000", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "http://host:50", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": HERE, "processes": 2, "process": 2}, "must be 0 to 1"),
        ({"coordinator": HERE, "processes": 2, "process": -1}, "must be 0 to 1"),
        ({"coordinator": HERE, "processes": 0, "process": 0}, "must be at least 1, got 0"),
        ({"auto": True, "processes": 2}, "distributed.auto finds distributed.processes by itself"),
        ({"auto": True, "timeout": 0}, "distributed.timeout must be at least 1 and at most 86,400"),
    ],
)
def test_processes_that_do_not_fit_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        DistributedConfig(**values)


def test_one_process_is_not_distributed() -> None:
    assert not DistributedConfig().is_asked
    assert not DistributedConfig(HERE, 1, 0).is_asked
    assert DistributedConfig("[fe80::1]:5000", 2, 1).is_asked
    assert DistributedConfig(auto=True).is_asked
