"""Text files of a dataset folder: ``meta.json``, vocabularies and groups."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from dien_jax.data.schema import ATTRIBUTES, GROUPS, Feature, Schema
from dien_jax.errors import UserError, failing, reading
from dien_jax.utils import json_values
from dien_jax.utils.files import read_json
from dien_jax.utils.json_values import LargeCount, NotNegative, Source, as_type

FORMAT_VERSION = 3
SPLITS = ("train", "valid", "test")
LINES = 1 << 14  # values that are written at a time


_Features = list[dict[str, Any]]  # in JSON


class Counts(TypedDict):  # in meta.json
    sequences: LargeCount
    events: LargeCount
    groups: LargeCount
    train: LargeCount
    valid: LargeCount
    test: LargeCount


class _MadeBy(TypedDict):  # origin of the data: the entries that are read
    name: NotRequired[str]
    settings: NotRequired[dict[str, Any]]
    time_unit: NotRequired[Literal["seconds", "milliseconds"]]


class _Meta(TypedDict):  # meta.json: the entries that are read
    schema: dict[str, _Features]
    counts: Counts
    source: NotRequired[_MadeBy]
    best_possible: NotRequired[dict[str, dict[str, NotNegative | None]]]  # metrics by split


_ESCAPED = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(\\|u([0-9a-f]{4})|.|$)")


def escape(value: str) -> str:
    r"""Escape to one line: ``\`` to ``\\``; controls, separators and surrogates to ``\uXXXX``."""
    return _ESCAPED.sub(lambda m: "\\\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", value)


def encoded_lines(values: Iterable[str], most: int = LINES) -> Iterator[tuple[bytes, int]]:
    r"""Yield escaped values in lines, ``most`` of them at a time, and their number.

    >>> list(encoded_lines(["a", "b\n"]))
    [(b'a\nb\\u000a\n', 2)]
    """
    left = iter(values)
    while some := list(itertools.islice(left, most)):
        lines = map(escape, some) if _ESCAPED.search("".join(some)) else some
        yield "".join(f"{line}\n" for line in lines).encode(), len(some)


def unescape(line: str) -> str:
    """Undo :func:`escape`; ``ValueError`` for a backslash that starts no escape."""
    return _ESCAPE.sub(_unescape_match, line) if "\\" in line else line


def _unescape_match(match: re.Match[str]) -> str:
    if match[2] is not None:
        return chr(int(match[2], 16))
    if match[1] != "\\":
        raise ValueError(f"{match[0]!r} is not an escape")
    return "\\"


def read_values(path: Path) -> list[str]:
    """Read the unescaped lines of a text file of a dataset folder."""
    with failing(f"{path}: cannot be read as lines of text"):
        lines = path.read_bytes().decode("utf-8").split("\n")
        return [unescape(line) for line in lines[:-1]]


def repeated(values: Sequence[str]) -> str | None:
    """Return a value that occurs twice in a vocabulary, or None; row 0 is not a value."""
    times = Counter(values[1:])
    return next((value for value in times if times[value] > 1), None)


def check_vocabulary(file: Path, size: int) -> None:
    """Check the number of lines of a vocabulary, and that no value occurs twice."""
    check_lines(file, size)
    with reading(file), file.open("rb") as stream:
        next(stream)  # the unknown value
        hashes = np.fromiter(map(hash, stream), np.int64)
    hashes.sort()
    if (hashes[1:] == hashes[:-1]).any() and (twice := repeated(read_values(file))) is not None:
        raise UserError(f"{file}: the value {twice!r} occurs twice; its two ids mean the same")


def check_lines(file: Path, expected: int) -> None:
    """Check the number of lines of a text file, all with a line end, without loading it."""
    count, last = 0, b"\n"
    with reading(file), file.open("rb") as stream:
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    if count != expected or last != b"\n":
        cut = "" if last == b"\n" else " and a last one without its end"
        raise UserError(f"{file}: expected {expected} lines, found {count}{cut}")


def read_meta(path: Path) -> dict[str, Any]:
    """Read ``meta.json`` of a dataset folder; refuse other format versions."""
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"dataset folder {path} {problem}")
    file = path / "meta.json"
    if not file.is_file():
        raise UserError(f"{path} is not a dataset folder: it has no meta.json")
    meta = read_json(file, dict[str, Any])
    json_values.check_format(meta, FORMAT_VERSION, file, "prepare the data again")
    as_type(meta, _Meta, file)
    return meta


def schema_from_json(values: Any, source: Source) -> Schema:
    """Undo :func:`schema_to_json`; invalid values are a UserError that names ``source``.

    Earlier versions called the features of a request those of its context.
    """
    fields = [field.name for field in dataclasses.fields(Feature)]
    groups = as_type(values, dict[str, _Features], source)
    groups = {{"context": "request"}.get(group, group): groups[group] for group in groups}
    json_values.refuse_unknown(groups, GROUPS, source)
    for group, entries in groups.items():
        for place, entry in enumerate(entries):
            where, kind = f"{source}.{group}[{place}]", entry.get("kind")
            json_values.refuse_unknown(entry, fields, where)
            if isinstance(kind, str) and kind not in ATTRIBUTES:
                expected = f"expected kind to be one of {', '.join(ATTRIBUTES)}"
                raise UserError(f"{where}: {expected}, found {json_values.shown(kind)}")
    return as_type(groups, Schema, source)


def schema_to_json(schema: Schema) -> dict[str, list[dict[str, Any]]]:
    """Return the schema in the form of ``meta.json``: lists of features by group, none empty."""
    return {
        group: [{k: v for k, v in feature.items() if v is not None} for feature in features]
        for group, features in dataclasses.asdict(schema).items()
        if features
    }
