"""A report on a run: the command ``python -m dien_jax.report RUN``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dien_jax.inspection.report import report_run
from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result


@dataclass(frozen=True)
class Arguments:
    """Print a report on a run and the errors of its best checkpoint."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder of dien_jax.train."""
    split: Literal["valid", "test"] = "valid"
    """Split whose examples are inspected. Choose between models on valid."""
    data: Path | None = None
    """Dataset folder, if it has moved. Default: the run's own."""


def report(arguments: Arguments) -> None:
    """Print the sections of the report, each as soon as it is computed."""
    encoding = sys.stdout.encoding or "utf-8"
    for number, section in enumerate(report_run(**vars(arguments), encoding=encoding)):
        print_result(f"\n{section}" if number else section)


main = make_main("report", tyro.cli, Arguments, report)


if __name__ == "__main__":
    sys.exit(main())
