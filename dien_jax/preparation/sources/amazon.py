"""Raw Amazon reviews of 2014, 2018 and 2023 (McAuley et al., UCSD), downloaded or given.

A review is an event, whatever the rating. An item's category is the last entry of its category
path (2014: of the first path), or ``default_cat`` where there is no metadata or no path; see
:mod:`dien_jax.preparation.sources.amazon_files`. The rest is as for any log of interactions.
"""

from dataclasses import dataclass
from pathlib import Path

from dien_jax.errors import UserError
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, SplitPolicy
from dien_jax.preparation.reading.download import LocalFile, fetch, given
from dien_jax.preparation.sources.amazon_catalogue import Year, find_category, remote_files
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

CATEGORY = LogColumn("category", "--meta")
DEFAULT_CATEGORY = "default_cat"


@dataclass(frozen=True, kw_only=True)
class AmazonOptions(ImplicitOptions):
    """Raw Amazon reviews and metadata, downloaded by name. Negatives are drawn."""

    name: str | None = None
    """Category to download: books, electronics, or any other of the year."""
    year: Year = 2014
    """Year in which the reviews were published; also the format of --reviews and --meta."""
    reviews: Path | None = None
    """Local file of reviews, plain or gzip. Replaces --name; requires --meta."""
    meta: Path | None = None
    """Local file of metadata, plain or gzip. Requires --reviews."""
    split: SplitPolicy = "by-user"
    """Held out: whole users (by-user), each user's last two reviews (last-event), or the latest
    reviews (by-time)."""
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
            find_category(self.name, self.year)

    def files(self) -> tuple[LocalFile, LocalFile]:
        """Return reviews and metadata; download them if they were named."""
        if self.name is None:
            assert self.reviews
            assert self.meta
            return given(self.reviews), given(self.meta)
        reviews, meta = remote_files(self.name, self.year)
        return fetch(reviews), fetch(meta)


def prepare(options: AmazonOptions) -> list[str]:
    """Make a dataset folder from raw reviews."""
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import attach, load_events
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.workspace import open_workspace
    from dien_jax.preparation.sources.amazon_files import five_core, load_products, load_reviews

    name = options.reviews if options.name is None else options.name
    core = ", five-core" * options.five_core
    say(f"from Amazon reviews of {options.year}, {name}: {options.describe()}{core}")
    with open_workspace(options.out, options.memory_limit, options.spark) as workspace:
        files = options.files()
        reviews = load_reviews(workspace, files[0].file, options.year)
        meta = load_products(workspace, files[1].file, options.year)
        report = meta.check(workspace, options.max_bad_share)
        rows = attach(reviews.rows, "item", meta.rows, (CATEGORY,))
        category = {CATEGORY.alias: rows[CATEGORY.alias].fill_null(DEFAULT_CATEGORY)}
        log = reviews._replace(rows=workspace.store("rows", rows.mutate(**category)))
        narrow = (lambda clean: five_core(workspace, clean)) if options.five_core else None
        features = Features(item=(CATEGORY,))
        events = load_events(workspace, log, features, options.max_bad_share, narrow)
        unnamed = events.items.filter(events.items[CATEGORY.alias] == DEFAULT_CATEGORY)
        counts = f"{workspace.count(unnamed):,} of {events.num_items:,} items"
        lack = f"have no category in {files[1].file.name} and got {DEFAULT_CATEGORY!r}"
        report.append(f"{counts} {lack}")
        source = {
            "name": "amazon",
            "year": options.year,
            "files": {local.file.name: local.sha256 for local in files},
            "five_core": options.five_core,
        }
        return report + write_interactions(workspace, options, events, source)
