"""Test AUC of presets on the authors' prepared files: mean and deviation over seeds.

    python -m benchmarks.quality FOLDER --out OUT [--seeds 3] [--json FILE]

FOLDER holds one folder for each set, in the format of the DIEN authors' program. Every run chooses
its epoch on training users set aside for validation and opens the test set once. Finished runs are
kept in OUT: run a killed command again to resume.

Rows: the authors' settings, with a fiftieth of the users set aside, as their program sets none
aside; our defaults on the same examples (a user's last event, and a sampled item) and on every
event of the training users' histories (``--every-event``), with a tenth set aside.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.authors_data import prepared_sets
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import surroundings
from dien_jax.config.presets import preset
from dien_jax.experiments.reproduction import run_study
from dien_jax.experiments.result_tables import Table
from dien_jax.utils.command import run_command

COLUMNS = (
    "row", "set", "valid_share", "seeds", "valid_auc", "valid_sd", "test_auc", "test_sd",
    "test_gauc", "test_logloss", "epochs", "samples_per_second",
)  # fmt: skip


class Row(NamedTuple):
    """A preset, and the choice of training examples and validation users."""

    preset: str
    every_event: bool = False
    valid_share: float = 0.1


ROWS = {
    "authors, as given": Row("authors", valid_share=0.02),
    "dien, as given": Row("dien"),
    "dien, every event": Row("dien", every_event=True),
}


def measure(options: argparse.Namespace, name: str) -> list[dict]:
    """Train missing runs of a row; return a line of the table for each set."""
    row, table = ROWS[name], []
    datasets = prepared_sets(
        options.folder, options.out, every_event=row.every_event, valid_share=row.valid_share
    )
    lines = run_study(
        {name: preset(row.preset)},
        list(datasets.values()),
        range(options.seeds),
        options.out / "quality",
        tables={"results": Table(ROWS, {})},
    )
    for source, dataset in datasets.items():
        runs = [line for line in lines if line["data"] == dataset.path.name]

        def values(column: str, runs: list[dict[str, str]] = runs) -> list[float]:
            return [float(line[column]) for line in runs]

        line = {"row": name, "set": source, "valid_share": row.valid_share, "seeds": len(runs)}
        for split in ("valid", "test"):
            scores = values(f"{split}_auc")
            line[f"{split}_auc"] = round(statistics.mean(scores), 4)
            deviation = round(statistics.stdev(scores), 4) if len(scores) > 1 else None
            line[f"{split}_sd"] = deviation
        for column in ("test_gauc", "test_logloss"):
            line[column] = round(statistics.mean(values(column)), 4)
        line["epochs"] = [round(epochs) for epochs in values("epochs")]
        line["samples_per_second"] = statistics.median(values("examples_per_second"))
        table.append({**line, **surroundings()})
    return table


def run(options: argparse.Namespace) -> None:
    """Measure and report the rows."""
    table = [line for name in options.rows for line in measure(options, name)]
    report(options, table, COLUMNS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train missing runs; print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="one folder for each set, in the authors' format")
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets and runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=ROWS)
    return run_command(
        lambda: parse(parser, arguments, seeds=1),
        run,
        when_interrupted="Stopped. Run the same command again to resume.",
    )


if __name__ == "__main__":
    sys.exit(main())
