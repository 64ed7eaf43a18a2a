"""The lines of raw Amazon files as tables."""

import ast
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ibis.expr.types import Table

from dien_jax.prepare.lines import BadLines, read_lines
from dien_jax.prepare.progress import Stage, stage
from dien_jax.prepare.reading import load_rows, write_rows
from dien_jax.prepare.workspace import Workspace

CORE = 5
"""Events that every user and item of a five-core log has."""
LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100
"""Characters shown of why a line is malformed."""


def load_reviews(workspace: Workspace, file: Path) -> tuple[Table, BadLines]:
    """Reviews as the table ``line``, ``user``, ``item``, ``timestamp``, and the malformed ones."""
    return _load(workspace, file, _review, ["user", "item", "timestamp"])


def load_products(workspace: Workspace, file: Path) -> tuple[Table, BadLines]:
    """Meta lines as the table ``line``, ``item``, ``category``, and the malformed ones."""
    return _load(workspace, file, _product, ["item", "category"])


def _load(
    workspace: Workspace,
    file: Path,
    read: Callable[[str], list[str]],
    columns: list[str],
) -> tuple[Table, BadLines]:
    """Parses a file line by line into a table, and counts the lines that ``read`` refuses."""
    bad = BadLines()

    def records(current: Stage) -> Iterator[tuple[int, list[str]]]:
        for number, line in read_lines(file, bad):
            if number % LINES_BETWEEN_NOTES == 0:
                current.note = f"{number:,} lines"
            if not line.strip():
                continue
            try:
                record = read(line)
                "".join(record).encode()
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                bad.add(file, number, str(error)[:LONGEST_REASON])
            else:
                yield number, record

    parsed = workspace.folder / "lines.parquet"
    with stage(f"reading {file}") as current, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # escapes that Python no longer likes
        warnings.simplefilter("ignore", DeprecationWarning)
        write_rows(parsed, columns, records(current))
        return workspace.store("_".join(columns), load_rows(workspace, parsed, columns)), bad


def _review(line: str) -> list[str]:
    """User, item and time of a review; anything wrong with the time is found later."""
    try:
        review = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(review, dict):
        raise ValueError(f"expected an object, found {line[:20]!r}")
    return [_text(review, name) for name in ("reviewerID", "asin", "unixReviewTime")]


def _product(line: str) -> list[str]:
    """Item and category of a meta line; an empty category where there is none."""
    try:
        product = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a Python literal: {error}") from error
    if not isinstance(product, dict):
        raise ValueError(f"expected a dict, found {line[:20]!r}")
    paths = product.get("categories") or [[]]
    if not (isinstance(paths, list) and isinstance(paths[0], list)):
        raise ValueError(f"'categories' should be a list of lists, found {str(paths)[:20]!r}")
    return [_text(product, "asin"), str(paths[0][-1]) if paths[0] else ""]


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str | int | float):
        raise ValueError(f"{name!r} should be text or a number, found {value!r:.20}")
    return str(value)


def five_core(workspace: Workspace, events: Table) -> Table:
    """The events that are left when rarer users and items have gone, again and again."""
    before, count, turn = -1, workspace.count(events), 0
    while before != count:
        kept = events
        for name in ("user", "item"):
            counts = events.group_by(name).aggregate(events=events.count())
            kept = kept.semi_join(counts.filter(counts.events >= CORE), name)
        turn = 1 - turn
        events = workspace.store(f"core {turn}", kept)
        before, count = count, workspace.count(events)
    return events
