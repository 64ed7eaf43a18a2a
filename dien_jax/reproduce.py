"""The paper's table on your data: the command ``python -m dien_jax.reproduce``.

To resume a command that was stopped, run it again. Commands with other data, rows or tables may
share an OUT.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train every row of a table of the paper's models, with every seed, and compare them."""

    data: tuple[Path, ...]
    """Dataset folders. The tables use their names."""
    out: Path
    """Folder for runs and results.csv. Runs that it already contains are not repeated."""
    table: Literal["family", "wide", "parts"] = "family"
    """Rows: the paper's networks; the same with counts; or wide_dien with one part changed."""
    rows: tuple[str, ...] = ()
    """Rows of the table to train; the others are compared with the first. Default: all."""
    seeds: int = 5
    """Number of runs per row, with the seeds 0, 1, 2 and so on."""


def reproduce(arguments: Arguments) -> None:
    """Train the missing runs, and print the tables."""
    from dien_jax.experiments import reproduce_table  # imported here: --help needs no JAX

    print_result(reproduce_table(**vars(arguments)))


STOPPED = "Stopped. Run the same command again to resume."
main = make_main("reproduce", tyro.cli, Arguments, reproduce, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
