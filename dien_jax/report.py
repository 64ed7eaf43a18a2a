"""A report on a run in one HTML file: the command ``python -m dien_jax.report RUN``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result


@dataclass(frozen=True)
class Arguments:
    """Write one self-contained HTML file about a run and the errors of its best checkpoint."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder of dien_jax.train."""
    split: Literal["valid", "test"] = "valid"
    """Split of the inspected examples. Use valid to choose between models."""
    out: Path | None = None
    """HTML file to write. Default: report.html in the run folder."""
    data: Path | None = None
    """Dataset folder, if it has moved. Default: the run's own."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the file even if it is not a report."""


def report(arguments: Arguments) -> None:
    """Write the report and print its path."""
    from dien_jax.inspection import write_report  # imported here: --help needs no JAX

    print_result(str(write_report(**vars(arguments))), arguments.out)


main = make_main("report", tyro.cli, Arguments, report)


if __name__ == "__main__":
    sys.exit(main())
