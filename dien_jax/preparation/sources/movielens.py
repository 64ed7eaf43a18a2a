"""MovieLens (GroupLens, University of Minnesota), downloaded or from a local archive.

A rating is an event, whatever its value, unless ``--min-rating`` sets a minimum. Genres are a
multi-valued feature of movies. Gender, age group and occupation are features of users if the set
has them (1m). Everything else is as for any log of interactions.

Files in the archives:

    1m          ratings.dat user, item, rating, timestamp; ``::``
                movies.dat  item, title, genres; ``::``
                users.dat   user, gender, age group, occupation, zip code; ``::``
    20m and on  ratings.csv userId,movieId,rating,timestamp
                movies.csv  movieId,title,genres

1m is in Latin-1, the others are in UTF-8. Genres are joined by ``|``.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from dien_jax.data.value_text import number_of
from dien_jax.preparation.logs import SourceLog, prepare_log
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn
from dien_jax.preparation.reading.download import Remote, fetch, given
from dien_jax.utils.console import say

if TYPE_CHECKING:
    from dien_jax.preparation.reading.workspace import Workspace

Name = Literal["1m", "20m", "25m", "32m"]
FOLDER = "https://files.grouplens.org/datasets/movielens"
GENRES = LogColumn("genres", "--name", "multivalued")
USER_FEATURES = tuple(LogColumn(name, "--name") for name in ("gender", "age_group", "occupation"))
MOST_GENRES = 20  # no movie has more
NO_GENRES = "(no genres listed)"
COLUMNS = {
    "ratings": ["user", "item", "rating", "timestamp"],
    "movies": ["item", "genres"],
    "users": ["user", "gender", "age_group", "occupation"],
}


@dataclass(frozen=True, kw_only=True)
class MovielensOptions(ImplicitOptions):
    """MovieLens ratings, downloaded by name. Negatives are sampled."""

    name: Name
    """Number of ratings: 1, 20, 25 or 32 million."""
    source: Path | None = None
    """Local archive ml-NAME.zip, as published. By default it is downloaded."""
    min_rating: Annotated[float, msgspec.Meta(gt=0, le=5)] | None = None
    """Use only ratings of at least this value, for example 4."""


def remote_file(name: Name) -> Remote:
    """Return the published archive."""
    readme = "README.txt" if name == "1m" else "README.html"
    terms = (
        "MovieLens by GroupLens, University of Minnesota, for research; it must be acknowledged in "
        "publications, must not be used commercially without permission, and may be passed on "
        f"only as its terms say: {FOLDER}/ml-{name}-{readme}"
    )
    page = "https://grouplens.org/datasets/movielens/"
    return Remote(f"{FOLDER}/ml-{name}.zip", "movielens", terms, page, "--from")


def prepare(options: MovielensOptions) -> list[str]:
    """Make a dataset folder from MovieLens ratings."""
    return prepare_log(options, _read)


def _read(workspace: "Workspace", options: MovielensOptions) -> SourceLog:
    from dien_jax.preparation.reading.log import attach, read_records

    minimum, report = options.min_rating, list[str]()
    least = "" if minimum is None else f" of {minimum:g} and more"
    say(f"from the ratings{least} of MovieLens {options.name}: {options.split} split")
    remote, encoding = remote_file(options.name), "latin-1" if options.name == "1m" else "utf-8"
    file, digest = fetch(remote) if options.source is None else given(options.source)
    tables = {}
    for table, (name, parse, header) in _members(options.name).items():
        text = {"member": f"ml-{options.name}/{name}", "encoding": encoding, "header": header}
        tables[table] = read_records(workspace, file, parse, COLUMNS[table], **text)
    rows = tables["ratings"].rows
    if minimum is not None:
        low = rows.rating.cast("float64") < minimum
        low_count, count = workspace.count(rows.filter(low)), workspace.count(rows)
        below = f"are below --min-rating {minimum:g} and were left out"
        report.append(f"{low_count:,} of {count:,} ratings {below}")
        rows = rows.filter(~low)
    user = USER_FEATURES if "users" in tables else ()
    features = Features(item=(GENRES,), user=user, max_values=MOST_GENRES)
    for key, table in (("item", "movies"), ("user", "users")):
        if table in tables:
            report += tables[table].check(workspace, options.max_bad_share)
            rows = attach(rows, key, tables[table].rows, features.groups[key])
    log = tables["ratings"]._replace(rows=workspace.store("rows", rows))
    about = {"name": "movielens", "set": options.name, "files": {file.name: digest}}
    return SourceLog(log, features, about | {"min_rating": minimum}, report)


def _members(name: Name) -> dict[str, tuple[str, Callable[[str], list[str]], str]]:
    """Return files in an archive: their names, parsers of their lines, and headers if any."""
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
    number = number_of(_expect(fields, 4)[2])
    if number is None or not math.isfinite(number):
        raise ValueError(f"the rating {fields[2]!r} is not a number")
    return fields


def _movie(fields: list[str]) -> list[str]:
    """Return item and genres; a title may contain the separator."""
    if len(fields) < 3:
        _expect(fields, 3)
    return [fields[0], "|".join(g for g in fields[-1].split("|") if g != NO_GENRES)]


def _csv(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ValueError(f"wrong quotes: {error}") from error


def _expect(fields: list[str], count: int) -> list[str]:
    if len(fields) != count:
        raise ValueError(f"expected {count} values, found {len(fields)}")
    return fields
