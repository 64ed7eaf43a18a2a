"""List the next items of many users (:mod:`dien_jax.inference.score_table`).

    python -m dien_jax.recommend RUN --users users.csv --top 20 --out lists.parquet

Counts go to standard output as one JSON object.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from dien_jax.errors import UserError
from dien_jax.inference.request_tables import USER_COLUMNS, UserColumns
from dien_jax.utils.command import RESUMES, make_main
from dien_jax.utils.console import print_result, say
from dien_jax.utils.json_values import Positive, converted
from dien_jax.utils.text_files import BadLines, read_lines


@dataclass(frozen=True)
class Arguments:
    """List the next items, out of all items, for every user of a table.

    Each row is a user. The history is the column `history` (ids, oldest first). Without that
    column, it is the user's events in the data folder: those before the row's `timestamp`, or all
    of them without a column of times. Each request feature is a column of its name. The lists are
    written with the columns user, rank, item and score; scores are corrected for the sampling of
    negatives. Items of the history are left out.
    """

    model: tyro.conf.Positional[Path]
    """Run folder written by dien_jax.train, or file written by dien_jax.export."""
    users: Path
    """Table of users: CSV or TSV with a header, plain or gzip, or Parquet (extra data)."""
    out: Path
    """Table to write: Parquet if the name ends in .parquet, else CSV or TSV, plain or gzip."""
    top: int = 10
    """Length of a list."""
    data: Path | None = None
    """Dataset folder. Default: the run's own."""
    include_history: tyro.conf.FlagCreatePairsOff[bool] = False
    """List items of the history too."""
    candidates: Path | None = None
    """Text file of the items that may be listed, one id per line. Default: all items."""
    exclude: Path | None = None
    """Text file of items that may not be listed, one id per line."""
    at_most: dict[str, int] = field(default_factory=dict)
    """Maximum number of items with the same value of an item feature, such as `category 2`."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace --out even if it is not a table that this command wrote."""
    columns: Annotated[UserColumns, tyro.conf.arg(name="")] = USER_COLUMNS


def _recommend(arguments: Arguments) -> None:
    from dien_jax.inference import list_for_users  # imported here: --help needs no JAX

    converted(Positive, arguments.top, "--top")
    filters: Any = {"exclude_history": not arguments.include_history, "at_most": arguments.at_most}
    for name, file in (("candidates", arguments.candidates), ("exclude", arguments.exclude)):
        if file is not None:
            bad = BadLines()
            filters[name] = [line for _, line in read_lines(file, bad) if line]
            if bad.count:
                raise UserError(f"{bad.examples[0]}; expected one id a line")
    of_call = (arguments.model, arguments.users, arguments.out, arguments.data, arguments.columns)
    counts = list_for_users(*of_call, n=arguments.top, overwrite=arguments.overwrite, **filters)
    say(f"{counts['items']:,} items for {counts['rows']:,} users: {arguments.out}")
    print_result(json.dumps(counts), arguments.out)


main = make_main("recommend", tyro.cli, Arguments, _recommend, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
