"""Raw Amazon reviews of 2014 (McAuley et al., UCSD): ``reviews_*.json[.gz]``, ``meta_*.json[.gz]``.

A review is an event: its writer chose the item. Reviews are JSON lines. Meta lines are Python
literals, read as such and never executed; an item's category is the last entry of its first
category path, or ``default_cat`` where there is no meta line or no path. What follows is the same
as for any log of :mod:`dien_jax.prepare.interactions`.
"""

import ast
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dien_jax.prepare.interactions import ImplicitOptions, write_interactions
from dien_jax.prepare.lines import BadLines, read_lines, sha256
from dien_jax.prepare.options import FeatureColumn, SplitPolicy
from dien_jax.prepare.progress import Stage, say, stage

if TYPE_CHECKING:
    from ibis.expr.types import Table

    from dien_jax.prepare.workspace import Workspace

CATEGORY = FeatureColumn("category", "categorical", "--meta")
DEFAULT_CATEGORY = "default_cat"
CORE = 5
"""Events that every user and item of a five-core log has."""
LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100
"""Characters shown of why a line is malformed."""


@dataclass(frozen=True, kw_only=True)
class AmazonOptions(ImplicitOptions):
    """Raw Amazon reviews and metadata of 2014; what users did not review is drawn."""

    reviews: Path
    """reviews_*.json or reviews_*.json.gz: JSON lines."""
    meta: Path
    """meta_*.json or meta_*.json.gz: one Python literal a line."""
    split: SplitPolicy = "by-user"
    """What is held out: whole users, each user's last two reviews, or the latest reviews."""
    five_core: bool = False
    """Keep only users and items with five reviews or more, over and over until all have."""


def prepare(options: AmazonOptions) -> list[str]:
    """Makes a dataset folder of raw reviews.

    Returns:
      lines that say what was made.

    Raises:
      UserError: when the extra ``data`` is missing, a file cannot be read or is too malformed,
        nothing is left to train on, or the folder cannot be written.
    """
    from dien_jax.prepare.reading import Log
    from dien_jax.prepare.tables import load_events
    from dien_jax.prepare.workspace import Workspace

    core = ", five-core" * options.five_core
    say(f"from reviews in {options.reviews}: {options.describe()}{core}")
    with Workspace(options.out, options.memory_limit) as workspace:
        reviews, bad = _load(workspace, options.reviews, _review, ["user", "item", "timestamp"])
        meta, bad_meta = _load(workspace, options.meta, _product, ["item", "category"])
        report = bad_meta.check(workspace.count(meta) + bad_meta.count, options.max_bad_share)
        first = meta.group_by("item").aggregate(category=meta.category.first(order_by=meta.line))
        joined = reviews.left_join(first, "item")
        category = {CATEGORY.alias: joined.category.fill_null(DEFAULT_CATEGORY)}
        rows = workspace.store("rows", joined.select(*reviews.columns, **category))
        features = {"item": [CATEGORY], "user": [], "context": []}
        events = load_events(
            workspace,
            lambda careful: Log(options.reviews, rows, bad, lines_known=True),
            features=features,
            has_label=False,
            max_bad_share=options.max_bad_share,
            narrow=(lambda clean: _five_core(workspace, clean)) if options.five_core else None,
        )
        unnamed = events.items.filter(events.items[CATEGORY.alias] == DEFAULT_CATEGORY)
        report.append(
            f"{workspace.count(unnamed):,} of {events.num_items:,} items have no category in "
            f"{options.meta.name} and got {DEFAULT_CATEGORY!r}"
        )
        files = {file.name: sha256(file) for file in (options.reviews, options.meta)}
        written = write_interactions(
            workspace,
            options,
            events,
            features,
            separator="",
            max_values=1,
            source={"name": "amazon", "files": files, "five_core": options.five_core},
        )
    return [*report, *written]


def _load(
    workspace: "Workspace",
    file: Path,
    read: Callable[[str], list[str]],
    columns: list[str],
) -> tuple["Table", BadLines]:
    """Parses a file line by line into a table, and counts the lines that ``read`` refuses."""
    from dien_jax.prepare.reading import load_rows, write_rows

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


def _five_core(workspace: "Workspace", events: "Table") -> "Table":
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
