"""Raw Amazon reviews of 2014, 2018 and 2023 (McAuley et al., UCSD), downloaded or local.

A review is an event, whatever the rating. An item's category is the last entry of its category
path (2014: of the first path), or ``default_cat`` if there is no metadata or no path. Everything
else is as for any log of interactions.

Fields of a review and a product, by year:

    2014, 2018   review   reviewerID, asin, unixReviewTime (seconds)
    2023         review   user_id, parent_asin, timestamp (milliseconds)
    2014         product  asin, categories: a list of paths (lists); a Python literal per line
    2018         product  asin, category: one path
    2023         product  parent_asin, categories: one path; main_category if that is empty

All but the products of 2014 are JSON lines. ``docs/data.md`` has the source of each address.
"""

import ast
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from dien_jax.errors import UserError
from dien_jax.preparation.logs import SourceLog, prepare_log
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, SplitPolicy
from dien_jax.preparation.reading.download import Remote, fetch, given
from dien_jax.utils.console import say

if TYPE_CHECKING:
    from ibis.expr.types import Table

    from dien_jax.preparation.reading.workspace import Workspace

CATEGORY = LogColumn("category", "--meta")
DEFAULT_CATEGORY = "default_cat"
CORE = 5  # minimum number of events of every user and item of a five-core log
Year = Literal[2014, 2018, 2023]
Text = str | int | float
CategoryPath = list[Text] | None


class AmazonSet(NamedTuple):
    """The reviews of one year."""

    reviews: str  # address of a category's reviews
    meta: str  # address of a category's products
    page: str  # web page that offers both
    terms: str
    review: tuple[str, str, str]  # keys of user, item and time
    product: list[Any]  # keys, types and defaults of item, category path, and its fallback


_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY_LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"

SETS: dict[Year, AmazonSet] = {
    2014: AmazonSet(
        reviews=_SNAP + "/reviews_{}.json.gz",
        meta=_SNAP + "/meta_{}.json.gz",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        terms="Amazon reviews of 1996 to 2014 by J. McAuley, UCSD, for research; the papers that "
        "the page names are to be cited: "
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        review=("reviewerID", "asin", "unixReviewTime"),
        product=[("asin", Text), ("categories", list[CategoryPath] | None, None)],
    ),
    2018: AmazonSet(
        reviews=_MCAULEY_LAB + "/amazon_v2/categoryFiles/{}.json.gz",
        meta=_MCAULEY_LAB + "/amazon_v2/metaFiles2/meta_{}.json.gz",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
        terms="Amazon reviews of 1996 to 2018 by J. Ni and J. McAuley, UCSD, for research; no "
        "licence is named, the paper is to be cited, and users are asked to fill in a form: "
        "https://nijianmo.github.io/amazon/",
        review=("reviewerID", "asin", "unixReviewTime"),
        product=[("asin", Text), ("category", CategoryPath, None)],
    ),
    2023: AmazonSet(
        reviews=_MCAULEY_LAB + "/amazon_2023/raw/review_categories/{}.jsonl.gz",
        meta=_MCAULEY_LAB + "/amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
        page="https://amazon-reviews-2023.github.io/",
        terms="Amazon reviews of 1996 to 2023 by the McAuley Lab, UCSD, meant for research; the "
        "lab assigns no licence, and the paper is to be cited: "
        "https://amazon-reviews-2023.github.io/",
        review=("user_id", "parent_asin", "timestamp"),
        product=[
            ("parent_asin", Text),
            ("categories", CategoryPath, None),
            ("main_category", Text | None, None),
        ],
    ),
}


@dataclass(frozen=True, kw_only=True)
class AmazonOptions(ImplicitOptions):
    """Raw Amazon reviews and metadata, downloaded by name. Negatives are sampled."""

    name: str | None = None
    """Category to download, spelled as in the address of its file: books or Toys_and_Games."""
    year: Year = 2014
    """Year in which the reviews were published; also the format of --reviews and --meta."""
    reviews: Path | None = None
    """Local file of reviews, plain or gzip. Replaces --name; requires --meta."""
    meta: Path | None = None
    """Local file of metadata, plain or gzip. Requires --reviews."""
    split: SplitPolicy = "by-user"
    five_core: bool = False
    """Remove users and items with fewer than five reviews, repeatedly until none is left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        files = (self.reviews, self.meta)
        if self.name is None and None in files:
            raise UserError("give --name CATEGORY to download, or both --reviews and --meta")
        if self.name is not None:
            if files != (None, None):
                raise UserError("--name and --reviews with --meta exclude each other")
            remote_files(self.name, self.year)


def prepare(options: AmazonOptions) -> list[str]:
    """Make a dataset folder from raw reviews."""
    return prepare_log(options, _read)


def _read(workspace: "Workspace", options: AmazonOptions) -> SourceLog:
    from dien_jax.preparation.reading.log import attach, read_records

    name = options.reviews if options.name is None else options.name
    core = ", five-core" * options.five_core
    say(f"from Amazon reviews of {options.year}, {name}: {options.split} split{core}")
    if options.reviews and options.meta:
        files = [given(options.reviews), given(options.meta)]
    else:
        files = [fetch(remote) for remote in remote_files(str(options.name), options.year)]
    columns = ["user", "item", "timestamp"]
    reviews = read_records(workspace, files[0].file, review_parser(options.year), columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in Python literals
        parse = product_parser(options.year)
        meta = read_records(workspace, files[1].file, parse, ["item", CATEGORY.name])
    report = meta.check(workspace, options.max_bad_share)
    rows = attach(reviews.rows, "item", meta.rows, (CATEGORY,))
    category = {CATEGORY.alias: rows[CATEGORY.alias].fill_null(DEFAULT_CATEGORY)}

    def narrow(clean: "Table") -> "Table":
        """Take the five-core, if requested, and report the items without a category."""
        kept = _five_core(workspace, clean) if options.five_core else clean
        unnamed = kept[CATEGORY.alias] == DEFAULT_CATEGORY
        numbers = kept.aggregate(all=kept.item.nunique(), unnamed=kept.item.nunique(where=unnamed))
        counts = workspace.numbers(numbers)
        lack = f"have no category in {files[1].file.name} and got {DEFAULT_CATEGORY!r}"
        report.append(f"{counts['unnamed']:,} of {counts['all']:,} items {lack}")
        return kept

    about: dict[str, Any] = {"name": "amazon", "year": options.year}
    about["files"] = {local.file.name: local.sha256 for local in files}
    about["five_core"] = options.five_core
    log = reviews._replace(rows=workspace.store("rows", rows.mutate(**category)))
    return SourceLog(log, Features(item=(CATEGORY,)), about, report, narrow)


def remote_files(name: str, year: Year) -> tuple[Remote, Remote]:
    """Return the published reviews and products of a category; refuse an invalid name."""
    reviews, meta, page, terms, *_ = SETS[year]
    if not re.fullmatch(r"\w+", name, re.ASCII):
        expected = f"a category of {page} as its address has it, such as Toys_and_Games"
        raise UserError(f"--name: expected {expected}, got {name!r}")
    category = name[0].upper() + name[1:]
    shared = (f"amazon/{year}", terms, page, "--reviews and --meta")
    return Remote(reviews.format(category), *shared), Remote(meta.format(category), *shared)


def review_parser(year: Year) -> Callable[[str], list[str]]:
    """Return a function that parses a line of reviews to user, item and time."""
    kind = msgspec.defstruct("Review", [(name, Text) for name in SETS[year].review])
    decode = msgspec.json.Decoder(kind).decode
    return lambda line: [*map(str, msgspec.structs.astuple(decode(line)))]


def product_parser(year: Year) -> Callable[[str], list[str]]:
    """Return a function that parses a line of metadata to item and category, empty if missing."""
    kind = msgspec.defstruct("Product", SETS[year].product)
    decode = msgspec.json.Decoder(kind).decode

    def parse(line: str) -> list[str]:
        is_literal = year == 2014
        product = msgspec.convert(_literal(line), kind) if is_literal else decode(line)
        item, path, *others = msgspec.structs.astuple(product)
        if is_literal and path:
            path = path[0]  # the first of several
        category = path[-1] if path else next(iter(others), "")
        return [str(item), str(category or "")]

    return parse


def _literal(line: str) -> Any:
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a Python literal: {line[:40]!r}") from error


def _five_core(workspace: "Workspace", events: "Table") -> "Table":
    """Remove users and items with fewer than ``CORE`` events, repeatedly until none is left."""
    before, count = -1, workspace.count(events)
    while before != count:
        kept = events
        for name in ("user", "item"):
            counts = events.group_by(name).aggregate(events=events.count())
            kept = kept.semi_join(counts.filter(counts.events >= CORE), name)
        events = workspace.store("core", kept)
        before, count = count, workspace.count(events)
    return events
