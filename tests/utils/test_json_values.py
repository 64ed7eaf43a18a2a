"""Typed JSON: values of another shape are refused with file, path, what was expected and found."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from dien_jax import UserError
from dien_jax.utils import files
from dien_jax.utils.files import read_json
from dien_jax.utils.json_values import Count, NotNegative, as_type, parse_json, refuse_unknown


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
    scores: NotRequired[dict[str, float | None]]
    nested: NotRequired[dict[str, dict[str, int]]]
    flag: NotRequired[bool]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "expected an object, found []"),
        ({}, "expected step, which is missing"),
        ({"step": True}, "expected step to be a whole number, found true"),
        ({"step": 1.0}, "expected step to be a whole number, found 1.0"),
        ({"step": -1}, "expected step to be a whole number, at least 0, found -1"),
        ({"step": 2**31}, "expected step to be a whole number, at most 2147483647, found 2147483"),
        ({"step": 1, "rate": "x"}, 'expected rate to be a number, found "x"'),
        ({"step": 1, "rate": -0.5}, "expected rate to be a number, at least 0, found -0.5"),
        ({"step": 1, "flag": 1}, "expected flag to be true or false, found 1"),
        ({"step": 1, "parts": {}}, "expected parts to be a list, found {}"),
        ({"step": 1, "parts": [{"name": "a"}, {}]}, "expected parts[1].name, which is missing"),
        ({"step": 1, "parts": [{"name": None}]}, "expected parts[0].name to be text, found null"),
        ({"step": 1, "parts": [{"name": "a", "size": 7}]}, "parts[0]: a part has no size 7"),
        (
            {"step": 1, "parts": [{"name": "a", "size": []}]},
            "expected parts[0].size to be a whole number or null, found []",
        ),
        (
            {"step": 1, "scores": {"auc": 0.5, "gauc": "high"}},
            'expected scores.gauc to be a number or null, found "high"',
        ),
        (
            {"step": 1, "nested": {"a": {"b": 1}, "c": {"d": 2, "e": "x" * 99}}},
            'expected nested.c.e to be a whole number, found "' + "x" * 59 + "...",
        ),
    ],
)
def test_another_shape_is_refused_with_path_expected_and_found(values: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        as_type(values, Whole, "run.json")
    assert str(caught.value).startswith(f"run.json: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected JSON: Expecting value"),
        (b'{"step": 1', "expected JSON: Expecting ',' delimiter"),
        (b'{"step": NaN}', "expected JSON: NaN is not a number of JSON"),
        (b'{"step": -Infinity}', "expected JSON: -Infinity is not a number of JSON"),
        (b'{"rate": 1e999}', "expected JSON: number 1e999 is too large"),
        (b'{"step": 9223372036854775808}', "expected JSON: integer 9223372036854775808 has more"),
        (b'{"step": ' + b"9" * 5000 + b"}", "expected JSON: integer 9999999999"),
        (b"[" * 100_000, "expected JSON, found more than 100 levels"),
        (b"[" * 101 + b"]" * 101, "expected JSON, found more than 100 levels"),
        (b'{"step": 1, "step": 2}', 'expected JSON: key "step" is given twice in an object'),
        (b'{"step": "\xff"}', "expected JSON in UTF-8, found byte 0xff at place 10"),
        (b'\xef\xbb\xbf{"step": 1}', "expected JSON: Unexpected UTF-8 BOM"),
        (b'{"step": 1}\x00', "expected JSON: Extra data"),
    ],
)
def test_text_that_is_not_plain_json_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_json(text, Whole, "run.json")
    assert str(caught.value).startswith(f"run.json: {message}")


def test_values_of_the_type_are_returned_and_other_keys_ignored() -> None:
    text = b'{"step": 3, "parts": [{"name": "a", "size": 2}], "later": [NotJson]}'
    found = parse_json(text.replace(b"[NotJson]", b"1"), Whole, "run.json")
    assert found == {"step": 3, "parts": [Part("a", 2)]}


def test_a_key_that_may_change_the_others_can_be_refused() -> None:
    refuse_unknown({"step": 1}, ["step"], "run.json")
    with pytest.raises(UserError, match=r"^run\.json: unknown key 'stpe'; did you mean 'step'\?$"):
        refuse_unknown({"stpe": 1}, ["step"], "run.json")


def test_file_above_the_limit_is_refused_without_reading_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.json"
    file.touch()
    os.truncate(file, 2 << 30)  # sparse
    monkeypatch.setattr(files, "LARGEST_JSON", 1 << 20)
    with pytest.raises(UserError, match=r"large\.json: expected JSON of at most 1 MiB, found more"):
        read_json(file, Whole)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json cannot be read: No such file"):
        read_json(tmp_path / "absent.json", Whole)
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        read_json(tmp_path, Whole)
