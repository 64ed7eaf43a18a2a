"""The files in the archives of MovieLens, as tables.

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
from typing import NamedTuple

from ibis.expr.types import Table

from dien_jax.errors import UserError
from dien_jax.preparation.reading.records import load_records
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.preparation.sources.movielens import Name
from dien_jax.utils.text_files import BadLines, read_lines

NO_GENRES = {"(no genres listed)", "unknown"}
"""What stands for no genre."""
AGE_GROUPS = (1, 18, 25, 35, 45, 50, 56)
"""The youngest age of each group, as 1m has them; 1 is everyone under 18."""


class Format(NamedTuple):
    """How one of the archives is written.

    Attributes:
      folder: that all files of the archive lie in.
      encoding: of the text.
      ratings: name of the file, its header if it has one, and how a line is read.
      movies: the same of the movies.
      users: the same of the users, where there are any.
    """

    folder: str
    encoding: str
    ratings: tuple[str, str, Callable[[str], list[str]]]
    movies: tuple[str, str, Callable[[str], list[str]]]
    users: tuple[str, str, Callable[[str], list[str]]] | None


def load_ratings(workspace: Workspace, file: Path, name: Name) -> tuple[Table, BadLines, Path]:
    """Ratings as the table ``line``, ``user``, ``item``, ``rating``, ``timestamp``.

    Returns:
      the table, the malformed lines, and the file as messages name it.
    """
    layout = _layout(file, name)
    member, header, read = layout.ratings
    columns = ["user", "item", "rating", "timestamp"]
    table, bad = _load(workspace, file, layout, member, header, read, columns)
    return table, bad, file / layout.folder / member


def load_movies(workspace: Workspace, file: Path, name: Name) -> tuple[Table, BadLines]:
    """Movies as the table ``line``, ``item``, ``genres``, the genres joined by ``|``."""
    layout = _layout(file, name)
    return _load(workspace, file, layout, *layout.movies, ["item", "genres"])


def load_users(workspace: Workspace, file: Path, name: Name) -> tuple[Table, BadLines] | None:
    """Users as the table ``line``, ``user``, ``gender``, ``age_group``, ``occupation``, if any."""
    layout = _layout(file, name)
    if layout.users is None:
        return None
    columns = ["user", "gender", "age_group", "occupation"]
    return _load(workspace, file, layout, *layout.users, columns)


def _load(
    workspace: Workspace,
    file: Path,
    layout: Format,
    member: str,
    header: str,
    read: Callable[[str], list[str]],
    columns: list[str],
) -> tuple[Table, BadLines]:
    return load_records(
        workspace,
        file,
        read,
        columns,
        member=f"{layout.folder}/{member}",
        encoding=layout.encoding,
        header=header,
    )


def _layout(file: Path, name: Name) -> Format:
    if name == "100k":
        genres = _genres(file)
        return Format(
            "ml-100k",
            "latin-1",
            ratings=("u.data", "", lambda line: _rating(line.split("\t"))),
            movies=("u.item", "", lambda line: _flagged_movie(line.split("|"), genres)),
            users=("u.user", "", lambda line: _user_100k(line.split("|"))),
        )
    if name == "1m":
        return Format(
            "ml-1m",
            "latin-1",
            ratings=("ratings.dat", "", lambda line: _rating(line.split("::"))),
            movies=("movies.dat", "", lambda line: _movie(line.split("::"))),
            users=("users.dat", "", lambda line: _user_1m(line.split("::"))),
        )
    return Format(
        f"ml-{name}",
        "utf-8",
        ratings=(
            "ratings.csv",
            "userId,movieId,rating,timestamp",
            lambda line: _rating(line.split(",")),
        ),
        movies=("movies.csv", "movieId,title,genres", lambda line: _movie(_csv(line))),
        users=None,
    )


def _rating(fields: list[str]) -> list[str]:
    """A rating as it is; anything wrong with its time is found later."""
    _expect(fields, 4)
    if not math.isfinite(float(fields[2])):
        raise ValueError(f"the rating {fields[2]!r} is not a number")
    return fields


def _movie(fields: list[str]) -> list[str]:
    """Item and genres; a title may hold the separator."""
    if len(fields) < 3:
        _expect(fields, 3)
    return [fields[0], _join(fields[-1].split("|"))]


def _flagged_movie(fields: list[str], genres: list[str]) -> list[str]:
    _expect(fields, 5 + len(genres))
    flags = fields[5:]
    if not set(flags) <= {"0", "1"}:
        raise ValueError(f"the genres should be flags of 0 and 1, found {'|'.join(flags)!r}")
    chosen = [genre for genre, flag in zip(genres, flags, strict=True) if flag == "1"]
    return [fields[0], _join(chosen)]


def _user_100k(fields: list[str]) -> list[str]:
    _expect(fields, 5)
    user, age, gender, occupation, _ = fields
    group = max((group for group in AGE_GROUPS if group <= int(age)), default=1)
    return [user, gender, str(group), occupation]


def _user_1m(fields: list[str]) -> list[str]:
    _expect(fields, 5)
    return fields[:4]


def _genres(file: Path) -> list[str]:
    """The genres of 100k in the order of their flags, ``name|number`` a line."""
    bad = BadLines()
    lines = read_lines(file, bad, member="ml-100k/u.genre", encoding="latin-1")
    genres = [line.split("|")[0] for _, line in lines if line.strip()]
    if bad.count:
        raise UserError(bad.examples[0])
    return genres


def _join(genres: list[str]) -> str:
    return "|".join(genre for genre in genres if genre not in NO_GENRES)


def _csv(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ValueError(f"wrong quotes: {error}") from error


def _expect(fields: list[str], count: int) -> None:
    if len(fields) != count:
        raise ValueError(f"expected {count} values, found {len(fields)}")
