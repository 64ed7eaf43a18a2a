"""Files in the archives of MovieLens, as tables.

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
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path

from dien_jax.errors import UserError
from dien_jax.preparation.reading.log import Log
from dien_jax.preparation.reading.log_files import read_records
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.preparation.sources.movielens import Name
from dien_jax.utils.text_files import BadLines, read_lines

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


def read_archive(workspace: Workspace, file: Path, name: Name) -> dict[str, Log]:
    """Read ``ratings``, ``movies`` and, in 100k and 1m, ``users``; see ``COLUMNS``."""
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
