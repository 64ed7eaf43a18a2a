"""Validation AUC of candidate defaults; never opens a test set.

    python -m benchmarks.trials FOLDER --out OUT [--trials NAME ...]

Trains the settings of ``benchmarks/trials.json`` on the authors' prepared files (see
``benchmarks/quality.py``) and prints the best validation AUC over the epochs of each: the evidence
for the defaults. Finished trials are kept in OUT: run a killed command again to resume.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.authors_data import prepared_sets
from benchmarks.common.report import print_rows
from dien_jax.config.preset_files import with_settings
from dien_jax.config.presets import preset
from dien_jax.experiments.reproduction import run_study
from dien_jax.experiments.result_tables import Table
from dien_jax.utils.command import run_command

TRIALS = json.loads(Path(__file__).with_name("trials.json").read_text())


def run(options: argparse.Namespace) -> None:
    """Train every trial on every set and print the table."""
    rows = []
    for name in options.trials:
        trial = TRIALS[name]
        config = with_settings(preset(trial["preset"]), trial["settings"])
        every_event = trial["examples"] == "every event"
        datasets = prepared_sets(options.folder, options.out, every_event=every_event)
        lines = run_study(
            {name: config},
            list(datasets.values()),
            [0],
            options.out / "trials",
            test=False,
            tables={"trials": Table(TRIALS, {})},
        )
        scores = {
            source: f"{float(line['valid_auc']):.4f} @{line['best_epoch']}"
            for source, line in zip(datasets, lines, strict=True)
        }
        rows.append({"trial": name, "examples": trial["examples"], **scores})
    print_rows(rows, list(rows[0]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="one folder for each set, in the authors' format")
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets and results")
    parser.add_argument("--trials", nargs="+", default=list(TRIALS), choices=TRIALS)
    return run_command(
        lambda: parser.parse_args(arguments),
        run,
        when_interrupted="Stopped. Run the same command again to resume.",
    )


if __name__ == "__main__":
    sys.exit(main())
