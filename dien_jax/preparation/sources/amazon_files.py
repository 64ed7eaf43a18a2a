"""The lines of raw Amazon files, as they were published in three years, as tables.

What a review and a product say, by year:

    2014, 2018   review   reviewerID, asin, unixReviewTime (seconds)
    2023         review   user_id, parent_asin, timestamp (milliseconds)
    2014         product  asin, categories: a list of paths (lists); a Python literal a line
    2018         product  asin, category: one path
    2023         product  parent_asin, categories: one path; main_category where that is empty

All but the products of 2014 are JSON lines.
"""

import ast
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ibis.expr.types import Table

from dien_jax.preparation.reading.records import load_records
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.preparation.sources.amazon_catalogue import Year
from dien_jax.utils.text_files import BadLines

CORE = 5
"""Events that every user and item of a five-core log has."""


def load_reviews(workspace: Workspace, file: Path, year: Year) -> tuple[Table, BadLines]:
    """Reviews as the table ``line``, ``user``, ``item``, ``timestamp``, and the malformed ones."""
    read = _review_2023 if year == 2023 else _review
    return load_records(workspace, file, read, ["user", "item", "timestamp"])


def load_products(workspace: Workspace, file: Path, year: Year) -> tuple[Table, BadLines]:
    """Meta lines as the table ``line``, ``item``, ``category``, and the malformed ones."""
    readers: dict[Year, Callable[[str], list[str]]] = {
        2014: _product_2014,
        2018: _product_2018,
        2023: _product_2023,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # escapes that Python no longer likes
        warnings.simplefilter("ignore", DeprecationWarning)
        return load_records(workspace, file, readers[year], ["item", "category"])


def _review(line: str) -> list[str]:
    """User, item and time of a review; anything wrong with the time is found later."""
    review = _json(line)
    return [_text(review, name) for name in ("reviewerID", "asin", "unixReviewTime")]


def _review_2023(line: str) -> list[str]:
    review = _json(line)
    return [_text(review, name) for name in ("user_id", "parent_asin", "timestamp")]


def _product_2014(line: str) -> list[str]:
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


def _product_2018(line: str) -> list[str]:
    product = _json(line)
    return [_text(product, "asin"), _leaf(product, "category")]


def _product_2023(line: str) -> list[str]:
    product = _json(line)
    category = _leaf(product, "categories") or str(product.get("main_category") or "")
    return [_text(product, "parent_asin"), category]


def _json(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {line[:20]!r}")
    return record


def _leaf(product: dict[str, Any], name: str) -> str:
    """The last entry of a category path, or nothing where there is no path."""
    path = product.get(name) or []
    if not isinstance(path, list):
        raise ValueError(f"{name!r} should be a list, found {str(path)[:20]!r}")
    return str(path[-1]) if path else ""


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
