"""Lines of raw Amazon files, as published in three years, as tables.

Contents of a review and a product, by year:

    2014, 2018   review   reviewerID, asin, unixReviewTime (seconds)
    2023         review   user_id, parent_asin, timestamp (milliseconds)
    2014         product  asin, categories: a list of paths (lists); a Python literal a line
    2018         product  asin, category: one path
    2023         product  parent_asin, categories: one path; main_category where that is empty

All but the products of 2014 are JSON lines.
"""

import ast
import warnings
from pathlib import Path
from typing import Any

from ibis.expr.types import Table

from dien_jax.preparation.reading.log import Log
from dien_jax.preparation.reading.log_files import as_text, json_object, read_records, text_value
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.preparation.sources.amazon_catalogue import Year

CORE = 5  # minimum number of events of every user and item of a five-core log


def load_reviews(workspace: Workspace, file: Path, year: Year) -> Log:
    """Read reviews as the table ``line``, ``user``, ``item``, ``timestamp``."""
    names = ("reviewerID", "asin", "unixReviewTime")
    if year == 2023:
        names = ("user_id", "parent_asin", "timestamp")

    def parse(line: str) -> list[str]:
        review = json_object(line)
        return [text_value(review, name) for name in names]

    return read_records(workspace, file, parse, ["user", "item", "timestamp"])


def load_products(workspace: Workspace, file: Path, year: Year) -> Log:
    """Read metadata as the table ``line``, ``item``, ``category``; empty without a category."""

    def parse(line: str) -> list[str]:
        if year == 2014:
            return _product_2014(line)
        product = json_object(line)
        if year == 2018:
            return [text_value(product, "asin"), _leaf(product, "category")]
        category = _leaf(product, "categories")
        category = category or as_text(product.get("main_category") or "", "main_category")
        return [text_value(product, "parent_asin"), category]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in Python literals
        warnings.simplefilter("ignore", DeprecationWarning)
        return read_records(workspace, file, parse, ["item", "category"])


def _product_2014(line: str) -> list[str]:
    try:
        product = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a Python literal: {line[:40]!r}") from error
    if not isinstance(product, dict):
        raise ValueError(f"expected a dict, found {line[:20]!r}")
    paths = product.get("categories") or [[]]
    if not (isinstance(paths, list) and isinstance(paths[0], list)):
        raise ValueError(f"'categories' should be a list of lists, found {str(paths)[:20]!r}")
    return [text_value(product, "asin"), as_text(paths[0][-1], "categories") if paths[0] else ""]


def _leaf(product: dict[str, Any], name: str) -> str:
    """Return the last entry of a category path; empty where there is no path."""
    path = product.get(name) or []
    if not isinstance(path, list):
        raise ValueError(f"{name!r} should be a list, found {str(path)[:20]!r}")
    return as_text(path[-1], name) if path else ""


def five_core(workspace: Workspace, events: Table) -> Table:
    """Remove users and items with fewer than ``CORE`` events, repeatedly until none is left."""
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
