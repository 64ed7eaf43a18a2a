"""Log files as tables of text columns and a line number: CSV, Parquet, other lines."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dien_jax.errors import UserError
from dien_jax.preparation.reading.duckdb_files import read_duckdb
from dien_jax.preparation.reading.duckdb_workspace import DuckDBWorkspace
from dien_jax.preparation.reading.log import Log, LogForm, Wanted, load_records
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines, read_lines

LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100  # characters shown of why a line is malformed


def read_columns(
    workspace: Workspace,
    file: Path,
    wanted: Wanted,
    *,
    columns: Sequence[str] = (),
    separator: str = "|",
    hint: str = "",
) -> Log:
    """Read columns of a CSV or Parquet file, or of a folder of such files, by the engine.

    Values of a ``.tsv[.gz]`` are separated by tabs, those of other text by commas. ``wanted`` has
    the columns by their name in ``rows``, ``columns`` the names of all columns of CSV without a
    header. ``separator`` joins the values of a Parquet list. ``hint`` ends the message about a CSV
    file that lacks a column.
    """
    form = LogForm(wanted, list(columns), separator, hint)
    if isinstance(workspace, DuckDBWorkspace):
        return read_duckdb(workspace, file, form)
    from dien_jax.preparation.reading.spark_files import read_spark
    from dien_jax.preparation.reading.spark_workspace import SparkWorkspace

    assert isinstance(workspace, SparkWorkspace)
    return read_spark(workspace, file, form)


def read_records(
    workspace: Workspace,
    file: Path,
    parse: Callable[[str], list[str]],
    columns: list[str],
    *,
    member: str = "",
    encoding: str = "utf-8",
    header: str = "",
) -> Log:
    """Parse a file (plain text, gzip, or ``member`` of a zip archive) line by line into a table.

    ``parse`` returns the values of a line as text, by ``columns``, and raises ``ValueError`` for a
    malformed one; :func:`json_object` and :func:`text_value` do so for lines of JSON. The table,
    named after its columns, also has ``line``, from 1; empty values are NULL. ``header`` is the
    expected first line, if there is one.
    """
    bad, shown = BadLines(), file / member

    def records() -> Iterator[tuple[int, list[str]]]:
        for number, line in read_lines(file, bad, member=member, encoding=encoding):
            if number % LINES_BETWEEN_NOTES == 0:
                current.note = f"{number:,} lines"
            if header and number == 1:
                if line.strip() != header:
                    raise UserError(f"{shown}:1: expected {header!r}, found {line[:80]!r}")
                continue
            if not line.strip():
                continue
            try:
                record = parse(line)
                "".join(record).encode()
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                bad.add(shown, number, str(error)[:LONGEST_REASON])
            else:
                yield number, record

    with stage(f"reading {shown}", partial(bad.share_of, file)) as current:
        return Log(shown, load_records(workspace, "_".join(columns), columns, records()), bad)


def json_object(line: str) -> dict[str, Any]:
    """Return the object that a line of JSON holds; ``ValueError`` for another line."""
    try:
        record = json.loads(line, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {line[:20]!r}")
    return record


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; ``ValueError`` for a key that is given twice in it."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice[:60]!r} is given twice in an object")
    return values


def text_value(record: Mapping[str, Any], name: str) -> str:
    """Return a value of a record as text; ``ValueError`` unless it is text or a number."""
    return as_text(record.get(name), name)


def as_text(value: object, name: str) -> str:
    """Return the value of a field as text; ``ValueError`` unless it is text or a number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{name!r} should be text or a number, found {value!r:.20}")
