"""Compare runs with each other and baselines: the command ``python -m dien_jax.compare RUN ...``.

Run folders are not changed. Differences need scores of the same examples: a run without them,
because it is unfinished or has other data, is named on standard error.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result


@dataclass(frozen=True)
class Arguments:
    """Compare runs: metrics, settings that differ, differences from the first with intervals."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, and folders of models that dien_jax.baselines wrote below its --out. Each is
    compared with the first, or with the run that has the first's settings and its own seed."""
    split: Literal["test", "valid"] = "test"
    """Split on whose examples differences are computed."""
    data: Path | None = None
    """Dataset folder, if it has moved. Default: the dataset of the first run."""


def compare(arguments: Arguments) -> None:
    """Print the sections of the comparison, each as soon as it is computed."""
    from dien_jax.experiments import compare_runs  # imported here: --help needs no JAX

    sections = compare_runs(arguments.runs, arguments.split, arguments.data)
    for number, section in enumerate(sections):
        print_result(f"\n{section}" if number else section)


main = make_main("compare", tyro.cli, Arguments, compare)


if __name__ == "__main__":
    sys.exit(main())
