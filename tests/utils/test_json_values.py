"""Typed JSON: values of another shape are refused with file, path, what was expected and found."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from dien_jax import UserError
from dien_jax.utils.files import read_json
from dien_jax.utils.json_values import (
    Count,
    NotNegative,
    Positive,
    Share,
    as_type,
    converted,
    parse_json,
    refuse_unknown,
)


@dataclasses.dataclass
class Part:
    """A part with a check of its own."""

    name: str
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size == 7:
            raise ValueError("a part has no size 7")


class Whole(TypedDict):
    """One key of each kind."""

    step: Count
    rate: NotRequired[NotNegative]
    parts: NotRequired[list[Part]]
    nested: NotRequired[Any]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "Expected 'object', got 'array'"),
        ({"step": True}, "Expected 'int', got 'bool' - at '$.step'"),
        ({"step": 2**31}, "Expected 'int' <= 2147483647 - at '$.step'"),
        ({"step": 1, "rate": -0.5}, "Expected 'float' >= 0.0 - at '$.rate'"),
        ({"step": 1, "parts": [{"name": "a"}, {}]}, "required field 'name' - at '$.parts[1]'"),
        ({"step": 1, "parts": [{"name": "a", "size": 7}]}, "a part has no size 7"),
    ],
)
def test_another_shape_is_refused_with_path_expected_and_found(values: Any, message: str) -> None:
    for action in (as_type, lambda *given: parse_json(json.dumps(values).encode(), *given[1:])):
        with pytest.raises(UserError) as caught:
            action(values, Whole, "run.json")
        assert str(caught.value).startswith("run.json: ")
        assert message in str(caught.value)


UTF_8 = "expected JSON: 'utf-8' codec can't decode byte 0xff", "expected JSON: Invalid UTF-8"
"""Messages of different versions of msgspec."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"step": 1', "expected JSON: Input data was truncated"),
        (b'{"step": NaN}', "expected JSON: JSON is malformed: invalid character"),
        (b'{"step": 1, "rate": 1e999}', "Number out of range"),
        (b'{"step": 1, "nested": ' + b'{"a":' * 100_000, "expected JSON: maximum recursion depth"),
        (b'{"step": 1, "nested": "\xff"}', UTF_8),
        (b'{"step": 1}\x00', "expected JSON: JSON is malformed: trailing characters"),
    ],
)
def test_text_that_is_not_plain_json_is_refused(text, message) -> None:
    with pytest.raises(UserError) as caught:
        parse_json(text, Whole, "run.json")
    file, _, reason = str(caught.value).partition(": ")
    assert file == "run.json"
    assert reason.startswith(message)


def test_values_of_the_type_are_returned_and_other_keys_ignored() -> None:
    text = b'{"step": 3, "parts": [{"name": "a", "size": 2}], "later": [NotJson]}'
    found = parse_json(text.replace(b"[NotJson]", b"1"), Whole, "run.json")
    assert found == {"step": 3, "parts": [Part("a", 2)]}


def test_a_key_that_may_change_the_others_can_be_refused() -> None:
    refuse_unknown({"step": 1}, ["step"], "run.json")
    with pytest.raises(UserError, match=r"^run\.json: unknown key 'stpe'; did you mean 'step'\?$"):
        refuse_unknown({"stpe": 1}, ["step"], "run.json")


def test_file_above_the_limit_is_refused_without_reading_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.touch()
    os.truncate(file, 2 << 30)  # sparse
    with pytest.raises(UserError, match=r"large\.json: expected at most 67,108,864 bytes, found"):
        read_json(file, Whole)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Literal["dice"], "dise", "x must be one of dice, got 'dise'; did you mean 'dice'?"),
        (Literal["one"], 1, "x must be one of one, got 1"),
        (int, "5", "x must be a whole number, got '5'"),
        (int, True, "x must be a whole number, got True"),
        (Positive | None, 2.5, "x must be a whole number, got 2.5"),
        (float, None, "x must be a number, got None"),
        (str, None, "x must be text, got None"),
        (Path, 3, "x must be a path, got 3"),
        (tuple[int, ...], 3, "x must be a list, got 3"),
        (tuple[int, ...], {3}, "x must be a list, got {3}"),
        (tuple[Positive, ...], [2, 0], "x must be at least 1, got 0"),
        (Share, float("nan"), "x must be at least 0 and at most 1, got nan"),
        (Count, 2**31, "x must be at least 0 and at most 2,147,483,647, got 2147483648"),
        (int, 10**30, f"x must be at most {2**63 - 1}, got 1{'0' * 30}"),
    ],
)  # fmt: skip
def test_a_value_that_no_field_may_have_is_refused(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        converted(kind, value, "x")
    assert str(refused.value) == message
