"""MovieLens (GroupLens, University of Minnesota), fetched by name or given as its archive.

A rating is an event: the user chose the movie, whatever the rating, unless ``--min-rating`` says
from which rating on. Genres are a multi-valued feature of movies; gender, age group and occupation
are features of users where the set has them (100k and 1m). What follows is the same as for any log
of :mod:`dien_jax.preparation.sources.interactions`.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dien_jax.errors import UserError
from dien_jax.preparation.options import FeatureColumn, ImplicitOptions, SplitPolicy
from dien_jax.preparation.reading.download import Remote, fetch, given
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

Name = Literal["100k", "1m", "20m", "25m", "32m"]
FOLDER = "https://files.grouplens.org/datasets/movielens"
"""Read on 2026-11-25, with ``/ml-100k.zip`` and ``/ml-1m.zip``, in
recommenders/datasets/movielens.py of recommenders-team/recommenders@02bc56e and, with all other
names, in public code; not tried yet."""
PAGE = "https://grouplens.org/datasets/movielens/"
GENRES = FeatureColumn("genres", "multivalued", "--name")
USER_FEATURES = [
    FeatureColumn(name, "categorical", "--name") for name in ("gender", "age_group", "occupation")
]
MOST_GENRES = 20
"""More than any movie has."""


@dataclass(frozen=True, kw_only=True)
class MovielensOptions(ImplicitOptions):
    """MovieLens ratings as events, by name; what users did not rate is drawn."""

    name: Name
    """How many ratings: 100 thousand, 1, 20, 25 or 32 million."""
    source: Path | None = None
    """The archive ml-NAME.zip as published, if it is here already; else it is downloaded."""
    min_rating: float | None = None
    """Only ratings of at least this are events, 4 for instance; otherwise all are."""
    split: SplitPolicy = "last-event"
    """What is held out: whole users, each user's last two ratings, or the latest ratings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_rating is not None and not 0 < self.min_rating <= 5:
            raise UserError(f"--min-rating must be above 0 and at most 5, got {self.min_rating}")


def remote_file(name: Name) -> Remote:
    """The published archive."""
    readme = "README.txt" if name in get_args(Name)[:2] else "README.html"
    return Remote(
        url=f"{FOLDER}/ml-{name}.zip",
        folder="movielens",
        terms=(
            "MovieLens by GroupLens, University of Minnesota, for research; it must be "
            "acknowledged in publications, must not be used commercially without permission, and "
            f"may be passed on only as its terms say: {FOLDER}/ml-{name}-{readme}"
        ),
        page=PAGE,
        by_hand="--from",
    )


def prepare(options: MovielensOptions) -> list[str]:
    """Makes a dataset folder of MovieLens ratings.

    Returns:
      lines that say what was made.

    Raises:
      UserError: when the extra ``data`` is missing, the archive cannot be downloaded or read, or
        is another one or too malformed, nothing is left to train on, or the folder cannot be
        written.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import attach, load_events
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.log_files import Log
    from dien_jax.preparation.reading.workspace import Workspace
    from dien_jax.preparation.sources.movielens_files import load_movies, load_ratings, load_users

    least = "" if options.min_rating is None else f" of {options.min_rating:g} and more"
    say(f"from the ratings{least} of MovieLens {options.name}: {options.describe()}")
    with Workspace(options.out, options.memory_limit) as workspace:
        file, digest = (
            fetch(remote_file(options.name)) if options.source is None else given(options.source)
        )
        rows, bad, shown = load_ratings(workspace, file, options.name)
        report = []
        features: dict[str, list[FeatureColumn]] = {"item": [GENRES], "user": [], "context": []}

        if options.min_rating is not None:
            low = rows.rating.cast("float64") < options.min_rating
            count = workspace.count(rows.filter(low))
            report.append(
                f"{count:,} of {workspace.count(rows):,} ratings are below --min-rating "
                f"{options.min_rating:g} and were left out"
            )
            rows = rows.filter(~low)
        movies, bad_movies = load_movies(workspace, file, options.name)
        report += bad_movies.check(
            workspace.count(movies) + bad_movies.count, options.max_bad_share
        )
        rows = attach(rows, "item", movies, [GENRES])
        users = load_users(workspace, file, options.name)
        if users is not None:
            table, bad_users = users
            lines = workspace.count(table) + bad_users.count
            report += bad_users.check(lines, options.max_bad_share)
            features["user"] = USER_FEATURES
            rows = attach(rows, "user", table, USER_FEATURES)
        rows = workspace.store("rows", rows)
        events = load_events(
            workspace,
            lambda careful: Log(shown, rows, bad, lines_known=True),
            features=features,
            has_label=False,
            max_bad_share=options.max_bad_share,
        )
        source = {
            "name": "movielens",
            "set": options.name,
            "files": {file.name: digest},
            "min_rating": options.min_rating,
        }
        written = write_interactions(
            workspace,
            options,
            events,
            features,
            separator="|",
            max_values=MOST_GENRES,
            source=source,
        )
    return [*report, *written]
