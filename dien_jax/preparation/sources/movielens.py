"""MovieLens (GroupLens, University of Minnesota), downloaded or given as its archive.

A rating is an event, whatever its value, unless ``--min-rating`` sets a minimum. Genres are a
multi-valued feature of movies. Gender, age group and occupation are features of users where the
set has them (100k and 1m). The rest is as for any log of interactions.

Files in the archives:

    100k        u.data      user, item, rating, timestamp; tabs
                u.item      item, title, three more, a flag for each line of u.genre; ``|``
                u.user      user, age in years, gender, occupation, zip code; ``|``
    1m          ratings.dat user, item, rating, timestamp; ``::``
                movies.dat  item, title, genres; ``::``
                users.dat   user, gender, age group, occupation, zip code; ``::``
    20m and on  ratings.csv userId,movieId,rating,timestamp
                movies.csv  movieId,title,genres

100k and 1m are in Latin-1, the others in UTF-8. Genres are joined by ``|``. Read in the README of
each archive (files.grouplens.org/datasets/movielens) on 2026-11-25.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dien_jax.errors import UserError
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, SplitPolicy
from dien_jax.preparation.reading.download import Remote, fetch, given
from dien_jax.utils.console import say
from dien_jax.utils.extras import require
from dien_jax.utils.text_files import BadLines, read_lines

if TYPE_CHECKING:
    from dien_jax.preparation.reading.log import Log
    from dien_jax.preparation.reading.workspace import Workspace

Name = Literal["100k", "1m", "20m", "25m", "32m"]
FOLDER = "https://files.grouplens.org/datasets/movielens"
"""Read on 2026-11-25, with ``/ml-100k.zip`` and ``/ml-1m.zip``, in
recommenders/datasets/movielens.py of recommenders-team/recommenders@02bc56e and, with all other
names, in public code; not tried yet."""
GENRES = LogColumn("genres", "--name", "multivalued")
USER_FEATURES = tuple(LogColumn(name, "--name") for name in ("gender", "age_group", "occupation"))
MOST_GENRES = 20  # no movie has more
NO_GENRES = {"(no genres listed)", "unknown"}
AGE_GROUPS = (1, 18, 25, 35, 45, 50, 56)
"""The youngest age of each group, as in 1m; 1 is everyone under 18."""
COLUMNS = {
    "ratings": ["user", "item", "rating", "timestamp"],
    "movies": ["item", "genres"],
    "users": ["user", "gender", "age_group", "occupation"],
}


Member = tuple[str, Callable[[str], list[str]], str]
"""A file in an archive: its name, a parser of its lines, and its header, if it has one."""


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
    from dien_jax.preparation.reading.engines import open_workspace

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


def read_archive(workspace: "Workspace", file: Path, name: Name) -> "dict[str, Log]":
    """Read ``ratings``, ``movies`` and, in 100k and 1m, ``users``; see ``COLUMNS``."""
    from dien_jax.preparation.reading.log import read_records

    encoding = "latin-1" if name in ("100k", "1m") else "utf-8"
    tables = {}
    for table, (member, parse, header) in _members(file, name).items():
        text = {"member": f"ml-{name}/{member}", "encoding": encoding, "header": header}
        tables[table] = read_records(workspace, file, parse, COLUMNS[table], **text)
    return tables


def _members(file: Path, name: Name) -> dict[str, Member]:
    if name == "100k":
        bad = BadLines()  # genres are in the order of their flags, name|number a line
        lines = read_lines(file, bad, member="ml-100k/u.genre", encoding="latin-1")
        genres = [line.split("|")[0] for _, line in lines if line.strip()]
        if bad.count:
            raise UserError(bad.examples[0])
        return {
            "ratings": ("u.data", lambda line: _rating(line.split("\t")), ""),
            "movies": ("u.item", lambda line: _flagged_movie(line.split("|"), genres), ""),
            "users": ("u.user", lambda line: _user_100k(line.split("|")), ""),
        }
    if name == "1m":
        return {
            "ratings": ("ratings.dat", lambda line: _rating(line.split("::")), ""),
            "movies": ("movies.dat", lambda line: _movie(line.split("::")), ""),
            "users": ("users.dat", lambda line: _expect(line.split("::"), 5)[:4], ""),
        }
    header = "userId,movieId,rating,timestamp"
    return {
        "ratings": ("ratings.csv", lambda line: _rating(line.split(",")), header),
        "movies": ("movies.csv", lambda line: _movie(_csv(line)), "movieId,title,genres"),
    }


def _rating(fields: list[str]) -> list[str]:
    if not math.isfinite(float(_expect(fields, 4)[2])):
        raise ValueError(f"the rating {fields[2]!r} is not a number")
    return fields


def _movie(fields: list[str]) -> list[str]:
    """Return item and genres; a title may contain the separator."""
    if len(fields) < 3:
        _expect(fields, 3)
    return [fields[0], _join(fields[-1].split("|"))]


def _flagged_movie(fields: list[str], genres: list[str]) -> list[str]:
    flags = _expect(fields, 5 + len(genres))[5:]
    if not set(flags) <= {"0", "1"}:
        raise ValueError(f"the genres should be flags of 0 and 1, found {'|'.join(flags)!r}")
    chosen = [genre for genre, flag in zip(genres, flags, strict=True) if flag == "1"]
    return [fields[0], _join(chosen)]


def _user_100k(fields: list[str]) -> list[str]:
    user, age, gender, occupation, _ = _expect(fields, 5)
    group = max((group for group in AGE_GROUPS if group <= int(age)), default=1)
    return [user, gender, str(group), occupation]


def _join(genres: list[str]) -> str:
    return "|".join(genre for genre in genres if genre not in NO_GENRES)


def _csv(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ValueError(f"wrong quotes: {error}") from error


def _expect(fields: list[str], count: int) -> list[str]:
    if len(fields) != count:
        raise ValueError(f"expected {count} values, found {len(fields)}")
    return fields
