"""Raw Amazon reviews of 2014, 2018 and 2023 (McAuley et al., UCSD), fetched by name or given.

A review is an event: its writer chose the item, whatever the rating. An item's category is the
last entry of its category path, the first path of 2014, or ``default_cat`` where there is no meta
line or no path; see :mod:`dien_jax.preparation.sources.amazon_files`. The rest is as for any log
of :mod:`dien_jax.preparation.sources.interactions`.
"""

from dataclasses import dataclass
from pathlib import Path

from dien_jax.errors import UserError
from dien_jax.preparation.options import FeatureColumn, ImplicitOptions, SplitPolicy
from dien_jax.preparation.reading.download import Found, fetch, given
from dien_jax.preparation.sources.amazon_catalogue import Year, find_category, remote_files
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

CATEGORY = FeatureColumn("category", "categorical", "--meta")
DEFAULT_CATEGORY = "default_cat"


@dataclass(frozen=True, kw_only=True)
class AmazonOptions(ImplicitOptions):
    """Raw Amazon reviews and metadata, by name; what users did not review is drawn."""

    name: str | None = None
    """Category to download: books, electronics, or any other that the year has."""
    year: Year = 2014
    """When the reviews were published. It tells the format of --reviews and --meta too."""
    reviews: Path | None = None
    """Reviews that are here already, plain or gzip; with --meta, and instead of --name."""
    meta: Path | None = None
    """Their metadata, plain or gzip."""
    split: SplitPolicy = "by-user"
    """What is held out: whole users, each user's last two reviews, or the latest reviews."""
    five_core: bool = False
    """Keep only users and items with five reviews or more, over and over until all have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        files = (self.reviews, self.meta)
        if self.name is None and None in files:
            raise UserError("give --name CATEGORY to download, or both --reviews and --meta")
        if self.name is not None:
            if files != (None, None):
                raise UserError("--name downloads the files that --reviews and --meta would name")
            find_category(self.name, self.year)

    def files(self) -> tuple[Found, Found]:
        """Reviews and metadata, which are downloaded unless they are here.

        Raises:
          UserError: when they cannot be downloaded or read.
        """
        if self.name is not None:
            reviews, meta = remote_files(self.name, self.year)
            return fetch(reviews), fetch(meta)
        assert self.reviews is not None
        assert self.meta is not None
        return given(self.reviews), given(self.meta)


def prepare(options: AmazonOptions) -> list[str]:
    """Makes a dataset folder of raw reviews.

    Returns:
      lines that say what was made.

    Raises:
      UserError: when the extra ``data`` is missing, a file cannot be downloaded or read or is too
        malformed, nothing is left to train on, or the folder cannot be written.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import attach, load_events
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.log_files import Log
    from dien_jax.preparation.reading.workspace import Workspace
    from dien_jax.preparation.sources.amazon_files import five_core, load_products, load_reviews

    core = ", five-core" * options.five_core
    what = options.reviews if options.name is None else options.name
    say(f"from Amazon reviews of {options.year}, {what}: {options.describe()}{core}")
    with Workspace(options.out, options.memory_limit) as workspace:
        files = options.files()
        (reviews_file, _), (meta_file, _) = files
        reviews, bad = load_reviews(workspace, reviews_file, options.year)
        meta, bad_meta = load_products(workspace, meta_file, options.year)
        report = bad_meta.check(workspace.count(meta) + bad_meta.count, options.max_bad_share)
        rows = attach(reviews, "item", meta, [CATEGORY])
        category = rows[CATEGORY.alias].fill_null(DEFAULT_CATEGORY)
        rows = workspace.store("rows", rows.mutate(**{CATEGORY.alias: category}))
        features = {"item": [CATEGORY], "user": [], "context": []}
        events = load_events(
            workspace,
            lambda careful: Log(reviews_file, rows, bad, lines_known=True),
            features=features,
            has_label=False,
            max_bad_share=options.max_bad_share,
            narrow=(lambda clean: five_core(workspace, clean)) if options.five_core else None,
        )
        unnamed = events.items.filter(events.items[CATEGORY.alias] == DEFAULT_CATEGORY)
        report.append(
            f"{workspace.count(unnamed):,} of {events.num_items:,} items have no category in "
            f"{meta_file.name} and got {DEFAULT_CATEGORY!r}"
        )
        source = {
            "name": "amazon",
            "year": options.year,
            "files": {found.file.name: found.sha256 for found in files},
            "five_core": options.five_core,
        }
        written = write_interactions(
            workspace,
            options,
            events,
            features,
            separator="",
            max_values=1,
            source=source,
        )
    return [*report, *written]
