"""Values of declared types: JSON, read by msgspec, and the fields of settings and options.

A file of another form is refused with its name and msgspec's message: expected, found and where.
Unknown keys are ignored; a reader that must not ignore them calls :func:`refuse_unknown`.
"""

import dataclasses
import json
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from dien_jax.errors import UserError, require_choice, suggestion

T = TypeVar("T")
Source = Path | str  # name in messages: a file, or a file and a place in it

LARGEST_COUNT = 2**31 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]  # such as a step
LargeCount = Annotated[int, msgspec.Meta(ge=0)]  # such as the rows of a file
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]  # such as a number of values
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
BelowOne = Annotated[float, msgspec.Meta(ge=0, lt=1)]

_LARGEST_INTEGER = 2**63 - 1
_LONGEST_SHOWN = 60
# Types of fields, with the types that are converted to each, and its name in messages
_PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    Path: (str | Path, "a path"),
}


def parse_json(content: bytes, kind: Callable[..., T], source: Source) -> T:
    """Return JSON text as a value of a type: a dataclass, a ``TypedDict``, ``dict[str, int]``.

    Invalid JSON, a number that is not finite or a value of another type is a ``UserError`` with
    ``source``, the path of the value, the expected and the actual type.

    >>> parse_json(b'{"step": "3"}', dict[str, int], "run.json")
    Traceback (most recent call last):
    dien_jax.errors.UserError: run.json: Expected 'int', got 'str' - at '$[...]'
    """
    try:
        return msgspec.json.decode(content, type=cast(type[T], kind))
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {in_words(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source}: expected JSON: {error}") from error


def as_type(value: Any, kind: Callable[..., T], source: Source) -> T:
    """Return parsed JSON as a value of a type; see :func:`parse_json`."""
    try:
        return msgspec.convert(value, cast(type[T], kind))
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {in_words(error)}") from error


def in_words(error: BaseException) -> str:
    """Return msgspec's message, with a readable name for the type of whole floats."""
    text = str(error).replace("`", "'")
    return text.replace("'float' that's a multiple of 1.0", "a whole number")


def refuse_unknown(given: Collection[str], known: Collection[str], source: Source) -> None:
    """Refuse unknown keys, which could change the meaning of the others."""
    for name in given:
        if name not in known:
            raise UserError(f"{source}: unknown key {name!r}{suggestion(name, known)}")


def as_complete(values: Mapping[str, Any], kind: type[T], source: Source) -> T:
    """Return parsed JSON as a dataclass; all of its keys are required, and no others allowed."""
    names = list(kind.__annotations__)
    refuse_unknown(values, names, source)
    for name in names:
        if name not in values:
            raise UserError(f"{source}: expected {name}, which is missing")
    return as_type(values, kind, source)


def check_format(given: Mapping[str, Any], version: int, source: Source, advice: str) -> None:
    """Refuse a file of another ``format_version``; the error ends with ``advice``."""
    found = given.get("format_version")
    if type(found) is not int or found != version:
        what = shown(found) if "format_version" in given else "none"
        raise UserError(f"{source}: expected format_version {version}, found {what}; {advice}")


def shown(value: Any) -> str:
    """Return a value as JSON, cut to 60 characters, without control characters."""
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def converted(kind: Any, value: Any, name: str) -> Any:
    """Convert a value to the type that a field declares, for callers in Python and JSON.

    Text that is not one of the choices, a value of another type, or a number out of the bounds of
    its annotation is a ``UserError`` about ``name``. A list becomes a tuple, and a single text a
    tuple of one.

    >>> converted(tuple[int, ...], [3, 4], "layers"), converted(float | None, 2, "rate")
    ((3, 4), 2.0)
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        value = converted(parts[0], value, name)
        for bounds in parts[1:]:
            if isinstance(bounds, msgspec.Meta):
                _check_bounds(value, bounds, name)
        return value
    if origin is Literal:
        require_choice(name, value, parts)
        return value
    if origin is tuple:
        if not isinstance(value, Iterable) or isinstance(value, Mapping | Set):
            raise UserError(f"{name} must be a list, got {value!r}")
        entries = [value] if isinstance(value, str) else value
        return tuple(converted(parts[0], entry, name) for entry in entries)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in parts:
            return None
        return converted(str if str in parts else parts[0], value, name)  # any name may be text
    accepted, expected = _PLAIN[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} must be {expected}, got {value!r}")
    if kind is int and value > _LARGEST_INTEGER:
        raise UserError(f"{name} must be at most {_LARGEST_INTEGER}, got {value!s:.40}")
    return kind(value)


def _check_bounds(value: Any, bounds: msgspec.Meta, name: str) -> None:
    limits: dict[str, tuple[Any, Any]] = {
        "at least": (operator.ge, bounds.ge),
        "above": (operator.gt, bounds.gt),
        "at most": (operator.le, bounds.le),
        "below": (operator.lt, bounds.lt),
    }
    given = {word: limit for word, limit in limits.items() if limit[1] is not None}
    if not all(holds(value, limit) for holds, limit in given.values()):  # NaN is in no range
        expected = " and ".join(f"{word} {limit:,}" for word, (_, limit) in given.items())
        raise UserError(f"{name} must be {expected}, got {value!s:.40}")


def as_declared(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values for the fields of a dataclass of options, see :func:`converted`."""
    kinds = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in dataclasses.fields(kind) if field.name in values]
    flags = {name: f"--{name.replace('_', '-')}" for name in names}
    return {name: converted(kinds[name], values[name], flags[name]) for name in names}


def convert_fields(options: Any) -> None:
    """Convert the fields of new options in place, see :func:`converted`."""
    for name, value in as_declared(type(options), vars(options)).items():
        object.__setattr__(options, name, value)
