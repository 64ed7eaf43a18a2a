"""Simple models to compare runs with: the command ``python -m dien_jax.baselines DATA``."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say


@dataclass(frozen=True)
class Arguments:
    """Train and score simple models on a dataset folder, to compare runs with."""

    data: tyro.conf.Positional[Path]
    """Dataset folder, made by dien_jax.prepare."""
    out: Path | None = None
    """Folder to create for the models' scores, with one folder per model. dien_jax.compare accepts
    these like run folders."""


def baselines(arguments: Arguments) -> None:
    """Print the table of all models."""
    # Imported here: --help needs no JAX.
    from dien_jax.experiments.baselines import baseline_table, folder_of, run_baselines
    from dien_jax.experiments.logistic_regression import LOGISTIC_REGRESSION

    print_result(baseline_table(run_baselines(**vars(arguments))))
    if arguments.out is not None:
        regression = shlex.quote(str(arguments.out / folder_of(LOGISTIC_REGRESSION)))
        command = f"python -m dien_jax.compare RUN {regression}"
        say(f"scores are in {arguments.out}; to compare: {command}")


main = make_main("baselines", tyro.cli, Arguments, baselines)


if __name__ == "__main__":
    sys.exit(main())
