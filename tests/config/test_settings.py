"""Settings check themselves, and say what is wrong by name."""

import dataclasses
import re
from typing import Any

import pytest

from dien_jax.config import DistributedConfig
from dien_jax.config.presets import AUTHORS, FAMILY, PRESETS, member, member_name, preset
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast


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
TWO = {"processes": 2, "process": 0}
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (Config.from_dict, {"values": {"modle": {}}}, "unknown setting 'modle'; did you mean 'model'"),
    (Config.from_dict, {"values": {"model": []}}, "model must be an object, got []"),
    (ModelConfig, {"hidden_size": 0}, "model.hidden_size must be at least 1, got 0"),
    (ModelConfig, {"dropout": 1.0}, "model.dropout must be at least 0 and below 1"),
    (OptimConfig, {"learning_rate": 0.0}, "optim.learning_rate must be above 0, got 0.0"),
    (TrainConfig, {"buckets": (8, 4)}, "train.buckets must be rising lengths"),
    *((DistributedConfig, values, f"distributed.{message}") for values, message in (
        ({"coordinator": HERE}, "processes and distributed.process are missing"),
        (TWO, "coordinator is missing"),
        ({"coordinator": HERE, "processes": 2}, "process is missing"),
        *((TWO | {"coordinator": address}, "coordinator must be HOST:PORT") for address in
          ("host", "host:", "host:0", "host:70000", "::1:5000", "http://host:50")),
        ({"coordinator": HERE, "processes": 2, "process": 2}, "process must be 0 to 1"),
        ({"coordinator": HERE, "processes": 2, "process": -1}, "process must be 0 to 1"),
        ({"coordinator": HERE, "processes": 0, "process": 0}, "processes must be at least 1, got"),
        ({"auto": True, "processes": 2}, "auto finds distributed.processes by itself"),
        ({"auto": True, "timeout": 0}, "timeout must be at least 1 and at most 86,400"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("make", "values", "message"), WRONG)
def test_a_wrong_setting_is_named(make: Any, values: dict[str, Any], message: str) -> None:
    """`tests/utils/test_json_values.py` has other types, `tests/faults/test_flags.py` limits."""
    with pytest.raises(UserError, match=re.escape(message)):
        make(**values)


def test_one_process_is_not_distributed() -> None:
    assert not DistributedConfig().is_asked
    assert not DistributedConfig(HERE, 1, 0).is_asked
    assert DistributedConfig("[fe80::1]:5000", 2, 1).is_asked
    assert DistributedConfig(auto=True).is_asked
