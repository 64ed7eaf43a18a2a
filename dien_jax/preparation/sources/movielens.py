"""MovieLens (GroupLens, University of Minnesota), downloaded or given as its archive.

A rating is an event, whatever its value, unless ``--min-rating`` sets a minimum. Genres are a
multi-valued feature of movies. Gender, age group and occupation are features of users where the
set has them (100k and 1m). The rest is as for any log of interactions.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dien_jax.errors import UserError
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, SplitPolicy
from dien_jax.preparation.reading.download import Remote, fetch, given
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

Name = Literal["100k", "1m", "20m", "25m", "32m"]
FOLDER = "https://files.grouplens.org/datasets/movielens"
"""Read on 2026-11-25, with ``/ml-100k.zip`` and ``/ml-1m.zip``, in
recommenders/datasets/movielens.py of recommenders-team/recommenders@02bc56e and, with all other
names, in public code; not tried yet."""
GENRES = LogColumn("genres", "--name", "multivalued")
USER_FEATURES = tuple(LogColumn(name, "--name") for name in ("gender", "age_group", "occupation"))
MOST_GENRES = 20  # no movie has more


@dataclass(frozen=True, kw_only=True)
class MovielensOptions(ImplicitOptions):
    """MovieLens ratings, downloaded by name. Negatives are drawn."""

    name: Name
    """Number of ratings: 100 thousand, 1, 20, 25 or 32 million."""
    source: Path | None = None
    """Local archive ml-NAME.zip as published. It is downloaded by default."""
    min_rating: float | None = None
    """Use only ratings of at least this value, for example 4."""
    split: SplitPolicy = "last-event"
    """Held out: whole users (by-user), each user's last two ratings (last-event), or the latest
    ratings (by-time)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_rating is not None and not 0 < self.min_rating <= 5:
            raise UserError(f"--min-rating must be above 0 and at most 5, got {self.min_rating}")


def remote_file(name: Name) -> Remote:
    """Return the published archive."""
    readme = "README.txt" if name in get_args(Name)[:2] else "README.html"
    terms = (
        "MovieLens by GroupLens, University of Minnesota, for research; it must be acknowledged in "
        "publications, must not be used commercially without permission, and may be passed on "
        f"only as its terms say: {FOLDER}/ml-{name}-{readme}"
    )
    page = "https://grouplens.org/datasets/movielens/"
    return Remote(f"{FOLDER}/ml-{name}.zip", "movielens", terms, page, "--from")


def prepare(options: MovielensOptions) -> list[str]:
    """Make a dataset folder from MovieLens ratings."""
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import attach, load_events
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.workspace import open_workspace
    from dien_jax.preparation.sources.movielens_files import read_archive

    least = "" if options.min_rating is None else f" of {options.min_rating:g} and more"
    say(f"from the ratings{least} of MovieLens {options.name}: {options.describe()}")
    with open_workspace(options.out, options.memory_limit, options.spark) as workspace:
        remote = remote_file(options.name)
        file, digest = fetch(remote) if options.source is None else given(options.source)
        tables = read_archive(workspace, file, options.name)
        ratings, report = tables["ratings"], []
        rows, least_rating = ratings.rows, options.min_rating
        if least_rating is not None:
            low = rows.rating.cast("float64") < least_rating
            low_count, count = workspace.count(rows.filter(low)), workspace.count(rows)
            below = f"are below --min-rating {least_rating:g} and were left out"
            report.append(f"{low_count:,} of {count:,} ratings {below}")
            rows = rows.filter(~low)
        user = USER_FEATURES if "users" in tables else ()
        features = Features(item=(GENRES,), user=user, max_values=MOST_GENRES)
        for key, table in (("item", "movies"), ("user", "users")):
            if table in tables:
                report += tables[table].check(workspace, options.max_bad_share)
                rows = attach(rows, key, tables[table].rows, features.groups[key])
        log = ratings._replace(rows=workspace.store("rows", rows))
        events = load_events(workspace, log, features, options.max_bad_share)
        source = {
            "name": "movielens",
            "set": options.name,
            "files": {file.name: digest},
            "min_rating": least_rating,
        }
        return report + write_interactions(workspace, options, events, source)
