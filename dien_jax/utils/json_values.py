"""JSON as values of declared types: dataclasses, ``TypedDict`` and lists and dicts of them.

A file of another shape is refused with its name, the path of the value, what was expected there and
what was found. Unknown keys are ignored; a reader that cannot ignore them asks
:func:`refuse_unknown`.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec

from dien_jax.errors import UserError, reason, suggestion

T = TypeVar("T")
Source = Path | str
"""File, or file and place in it, as messages name it."""

LARGEST_COUNT = 2**31 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
"""A whole number, 0 to ``LARGEST_COUNT``, such as a step."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_COUNT)]
"""A whole number, 1 to ``LARGEST_COUNT``, such as a length."""
LargeCount = Annotated[int, msgspec.Meta(ge=0)]
"""A whole number, 0 or more, such as the rows of a file."""
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
"""A number, 0 or more."""
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A number from 0 to 1."""

_DEEPEST = 100
"""Most lists and objects inside one another."""
_LONGEST_SHOWN = 60
_SEARCHED = 1000
"""Most entries among which a faulty one is searched."""
_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
          "array": "a list", "object": "an object", "null": "null"}  # fmt: skip
_EXPECTED = re.compile(
    r"Expected `(?P<kinds>[^`]+)`(?P<length> of length)?(?P<bound>.*?)(?:, got .*)?"
)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_AT = re.compile(r"(?P<problem>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>\w+)|\[(?P<place>\d+|\.\.\.)\]")


def parse_json(content: bytes, kind: Callable[..., T], source: Source) -> T:
    """Return JSON text as a value of a type.

    Refuses, besides text that is not JSON and values of another type: a key that is given twice in
    an object, numbers that are not finite or are integers of more than 64 bits, and more than 100
    levels of nesting.

    Args:
      content: the text, in UTF-8.
      kind: the type; a dataclass, a ``TypedDict`` or a type like ``dict[str, int]``.
      source: file, or file and place in it, as messages name it.

    Raises:
      UserError: that names ``source``, the path of the value, what was expected and what was found.

    >>> parse_json(b'{"step": 3}', dict[str, int], "run.json")
    {'step': 3}
    >>> parse_json(b'{"step": "3"}', dict[str, int], "run.json")
    Traceback (most recent call last):
    dien_jax.errors.UserError: run.json: expected step to be a whole number, found "3"
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        _check_depth(value)
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at place {error.start}"
        raise UserError(f"{source}: expected JSON in UTF-8, found {found}") from error
    except RecursionError as error:
        raise UserError(f"{source}: expected JSON, found more than {_DEEPEST} levels") from error
    except ValueError as error:
        raise UserError(f"{source}: expected JSON: {reason(error)}") from error
    return as_type(value, kind, source)


def as_type(value: Any, kind: Callable[..., T], source: Source) -> T:
    """Return parsed JSON as a value of a type; see :func:`parse_json`."""
    try:
        return msgspec.convert(value, cast(type[T], kind))
    except msgspec.ValidationError as error:
        path = _path(value, kind, str(error))
        raise UserError(f"{source}: {_described(value, path, str(error))}") from error


def refuse_unknown(given: Collection[str], known: Collection[str], source: Source) -> None:
    """Refuse keys that are not known: they could change the meaning of the others."""
    for name in given:
        if name not in known:
            raise UserError(f"{source}: unknown key {name!r}{suggestion(name, known)}")


def refuse_incomplete(given: Collection[str], needed: Collection[str], source: Source) -> None:
    """Refuse keys that are missing, where a default must not stand in for them."""
    for name in needed:
        if name not in given:
            raise UserError(f"{source}: expected {name}, which is missing")


def check_format(given: Mapping[str, Any], version: int, source: Source, advice: str) -> None:
    """Refuse a file of another ``format_version``, and say what to do instead."""
    found = given.get("format_version")
    if type(found) is not int or found != version:
        what = shown(found) if "format_version" in given else "none"
        raise UserError(f"{source}: expected format_version {version}, found {what}; {advice}")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; ``ValueError`` for a key that is given twice in it."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} is given twice in an object")
    return values


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text[:_LONGEST_SHOWN]} is too large")
    return number


def _integer(text: str) -> int:
    number = int(text) if len(text) < 21 else math.inf
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"integer {text[:_LONGEST_SHOWN]} has more than 64 bits")
    return int(number)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise RecursionError


def _path(value: Any, kind: Any, message: str) -> list[str | int]:
    """Return the keys and places that lead to the faulty value.

    msgspec names no keys of dicts. The entry is the one without whose companions the error stays.
    """
    text = (_AT.fullmatch(message) or {"path": ""})["path"] or ""
    path: list[str | int] = []
    for step in _STEP.finditer(text):
        if step["key"] is not None:
            path.append(step["key"])
        elif step["place"] != "...":
            path.append(int(step["place"]))
        else:
            entries = _at(value, path)
            name = next(
                (n for n in list(entries)[:_SEARCHED] if _fails(value, kind, path, n, message)), ""
            )
            path.append(name)
    return path


def _fails(value: Any, kind: Any, path: list[str | int], name: str, message: str) -> bool:
    """Return whether an object at a path makes the same error with one entry alone."""
    try:
        msgspec.convert(_reduced(value, path, name), kind)
    except msgspec.ValidationError as error:
        return str(error) == message
    return False


def _reduced(value: Any, path: list[str | int], name: str) -> Any:
    """Return the value with one entry alone in the object at a path."""
    if not path:
        return {name: value[name]}
    copy = value.copy()
    copy[path[0]] = _reduced(value[path[0]], path[1:], name)
    return copy


def _at(value: Any, path: list[str | int]) -> Any:
    for step in path:
        value = value[step]
    return value


def _described(value: Any, path: list[str | int], message: str) -> str:
    """Return an error of msgspec in words: path, what was expected, what was found."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    name = "".join(parts).removeprefix(".")
    problem = (_AT.fullmatch(message) or {"problem": message})["problem"]
    if missing := _MISSING.fullmatch(problem):
        return f"expected {f'{name}.' if name else ''}{missing['name']}, which is missing"
    found = shown(_at(value, path))
    if problem.startswith("Invalid enum value"):
        return f"{name}: {problem[0].lower()}{problem[1:]}"
    if not (expected := _EXPECTED.fullmatch(problem)):
        return f"{name}: {problem}" if name else problem
    words = " or ".join(_WORDS.get(kind, kind) for kind in expected["kinds"].split(" | "))
    where = f"{name} to be " if name else ""
    length = " with a number of entries" if expected["length"] else ""
    return f"expected {where}{words}{length}{_bound(expected['bound'])}, found {found}"


def _bound(text: str) -> str:
    """Return a bound of msgspec, such as ``" >= 0"``, in words."""
    for sign, words in ((" >= ", "at least"), (" <= ", "at most"), (" > ", "above")):
        if text.startswith(sign):
            return f", {words} {text.removeprefix(sign).removesuffix('.0')}"
    return f", {text.strip()}" if text.strip() else ""


def shown(value: Any) -> str:
    """Return a value as JSON, cut to 60 characters, without control characters."""
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
