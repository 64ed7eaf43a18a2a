"""JSON as values of declared types, read by msgspec.

A file of another shape is refused with its name, and with what msgspec expected, found and where.
Unknown keys are ignored; a reader that cannot ignore them asks :func:`refuse_unknown`.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import msgspec

from dien_jax.errors import UserError, suggestion

T = TypeVar("T")
Source = Path | str
"""File, or file and place in it, as messages name it."""

LARGEST_COUNT = 2**31 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]
"""A whole number, 0 to ``LARGEST_COUNT``, such as a step."""
LargeCount = Annotated[int, msgspec.Meta(ge=0)]
"""A whole number, 0 or more, such as the rows of a file."""
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
"""A number, 0 or more."""

_LONGEST_SHOWN = 60


def parse_json(content: bytes, kind: Callable[..., T], source: Source) -> T:
    """Return JSON text as a value of a type: a dataclass, a ``TypedDict``, ``dict[str, int]``.

    Text that is not JSON, has a number that is not finite or is of another type is a ``UserError``
    with ``source``, the path of the value, what was expected and what was found.

    >>> parse_json(b'{"step": 3}', dict[str, int], "run.json")
    {'step': 3}
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


def in_words(error: msgspec.ValidationError) -> str:
    """Return the message of msgspec, with the one type in words that JSON has no name for."""
    text = str(error).replace("`", "'")
    return text.replace("'float' that's a multiple of 1.0", "a whole number")


def refuse_unknown(given: Collection[str], known: Collection[str], source: Source) -> None:
    """Refuse keys that are not known: they could change the meaning of the others."""
    for name in given:
        if name not in known:
            raise UserError(f"{source}: unknown key {name!r}{suggestion(name, known)}")


def as_complete(values: Mapping[str, Any], kind: type[T], source: Source) -> T:
    """Return parsed JSON as a dataclass; every key of it must be there, and no other."""
    names = list(kind.__annotations__)
    refuse_unknown(values, names, source)
    for name in names:
        if name not in values:
            raise UserError(f"{source}: expected {name}, which is missing")
    return as_type(values, kind, source)


def check_format(given: Mapping[str, Any], version: int, source: Source, advice: str) -> None:
    """Refuse a file of another ``format_version``, and say what to do instead."""
    found = given.get("format_version")
    if type(found) is not int or found != version:
        what = shown(found) if "format_version" in given else "none"
        raise UserError(f"{source}: expected format_version {version}, found {what}; {advice}")


def shown(value: Any) -> str:
    """Return a value as JSON, cut to 60 characters, without control characters."""
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
