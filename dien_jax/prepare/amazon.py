"""Raw Amazon reviews of 2014 (McAuley et al., UCSD): ``reviews_*.json[.gz]``, ``meta_*.json[.gz]``.

A review is an event: its writer chose the item. Reviews are JSON lines. Meta lines are Python
literals, read as such and never executed; an item's category is the last entry of its first
category path, or ``default_cat`` where there is no meta line or no path. What follows is the same
as for any log of :mod:`dien_jax.prepare.interactions`.
"""

from dataclasses import dataclass
from pathlib import Path

from dien_jax.prepare.extra import require_data_extra
from dien_jax.prepare.interactions import ImplicitOptions
from dien_jax.prepare.lines import sha256
from dien_jax.prepare.options import FeatureColumn, SplitPolicy
from dien_jax.prepare.progress import say

CATEGORY = FeatureColumn("category", "categorical", "--meta")
DEFAULT_CATEGORY = "default_cat"


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
    require_data_extra()
    from dien_jax.prepare.amazon_files import five_core, load_products, load_reviews
    from dien_jax.prepare.implicit import write_interactions
    from dien_jax.prepare.reading import Log
    from dien_jax.prepare.tables import load_events
    from dien_jax.prepare.workspace import Workspace

    core = ", five-core" * options.five_core
    say(f"from reviews in {options.reviews}: {options.describe()}{core}")
    with Workspace(options.out, options.memory_limit) as workspace:
        reviews, bad = load_reviews(workspace, options.reviews)
        meta, bad_meta = load_products(workspace, options.meta)
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
            narrow=(lambda clean: five_core(workspace, clean)) if options.five_core else None,
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
