"""Score every row of a table of requests (:mod:`dien_jax.inference.score_table`).

    python -m dien_jax.predict RUN --input requests.csv --out scored.csv

Counts go to standard output as one JSON object.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dien_jax.inference.request_tables import DEFAULT_COLUMNS, RequestColumns
from dien_jax.utils.command import RESUMES, make_main
from dien_jax.utils.console import print_result, say


@dataclass(frozen=True)
class Arguments:
    """Score every row of a table with the best checkpoint of a run.

    Each row is a user and an item. The history is the column `history` (ids, oldest first). Without
    that column, it is the user's events in the data folder: those before the row's `timestamp`, or
    all of them without a column of times. Each request feature is a column of its name. The table
    is written with a new column `score`, the probability of a click.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder written by dien_jax.train."""
    input: Path
    """Table to score: CSV or TSV with a header, plain or gzip, or Parquet (extra data)."""
    out: Path
    """Table to write, of the same kind. Text is compressed if the name ends in .gz."""
    data: Path | None = None
    """Dataset folder. Default: the run's own."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace --out even if it is not a table that this command wrote."""
    columns: Annotated[RequestColumns, tyro.conf.arg(name="")] = DEFAULT_COLUMNS


def _predict(arguments: Arguments) -> None:
    from dien_jax.inference import score_requests  # imported here: --help needs no JAX

    run, table, data = arguments.run_dir, arguments.input, arguments.data
    options: Any = {"columns": arguments.columns, "overwrite": arguments.overwrite}
    counts = score_requests(run, table, arguments.out, data, **options)
    say(f"scores: {arguments.out}")
    print_result(json.dumps(counts), arguments.out)


main = make_main("predict", tyro.cli, Arguments, _predict, RESUMES)


if __name__ == "__main__":
    sys.exit(main())
