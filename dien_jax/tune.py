"""The command line ``python -m dien_jax.tune``: search for settings.

    python -m dien_jax.tune [PRESET] --data DIR --out DIR [--trials N] [--sampler tpe|random]
                            [--space FILE] [--seed N]

A trial trains with settings drawn by Optuna, and is pruned if it is behind the others after an
evaluation. The same command resumes a study that was stopped; a higher ``--trials`` adds to one
that is finished. Standard output has the best trial and the command that trains with its settings.
Exit status: 0, 1 if every trial diverged, 2 for a mistake, 130 after Ctrl-C, 143 after SIGTERM.
"""

import shlex
import sys
from dataclasses import dataclass

import tyro

from dien_jax.config.preset_files import DEFAULT_PRESET
from dien_jax.config.presets import PRESETS
from dien_jax.experiments.search import SearchOptions, run_search
from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say


@dataclass(frozen=True, kw_only=True)
class Arguments(SearchOptions):
    """Search for settings by validation AUC, with Optuna. The test split is never scored."""

    preset: tyro.conf.Positional[str] = DEFAULT_PRESET
    """Preset that trials start from. Settings that the space does not name keep its values."""


Arguments.__doc__ = f"{Arguments.__doc__} Presets: {', '.join(PRESETS)}."


def tune(arguments: Arguments) -> int:
    """Run the search, print the best trial, and return the exit status."""
    result = run_search(arguments)
    if result.best_file is None:
        say("error: every trial diverged; search lower learning rates")
        return 1
    print_result(f"{result.summary}\nbest settings: {result.best_file}; train with them by")
    command = ["python", "-m", "dien_jax.train", "--preset-file", result.best_file]
    print_result(shlex.join(map(str, [*command, "--data", arguments.data])))
    return 0


main = make_main(
    "tune", tyro.cli, Arguments, tune, "Stopped. Run the same command again to resume."
)


if __name__ == "__main__":
    sys.exit(main())
