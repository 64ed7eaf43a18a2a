"""Scores of a trained model, and the command line ``python -m dien_jax.evaluate``.

    python -m dien_jax.evaluate RUN_DIR [--data DIR] [--split test] [--predictions FILE.csv]

Standard output carries one JSON object: the metrics of the split under the run's best checkpoint.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.runs.folder import Run
from dien_jax.runs.scoring import best_scores, measure, write_predictions
from dien_jax.utils.command import run_command
from dien_jax.utils.files import atomic_file


@dataclass(frozen=True)
class Arguments:
    """Score a split with the best checkpoint of a run; prints one JSON object."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    data: Path | None = None
    """Dataset folder; the run's own when not given."""
    split: Literal["train", "valid", "test"] = "test"
    """Which examples to score."""
    predictions: Path | None = None
    """CSV file to write: user, item, label and score of every example, with raw ids."""


def evaluate(arguments: Arguments) -> dict[str, Any]:
    """Metrics of a split under the best checkpoint of a run, and a file of predictions if asked.

    Raises:
      UserError: when the run, its checkpoint, the data or the file of predictions is at fault.
    """
    run = Run.load(arguments.run_dir)
    dataset = open_dataset(Path(run.data) if arguments.data is None else arguments.data)
    split = arguments.split
    try:
        with atomic_file(arguments.predictions) if arguments.predictions else nullcontext() as file:
            scores = best_scores(arguments.run_dir, run, dataset, split)
            if file is not None:
                write_predictions(file, dataset, split, scores)
    except OSError as error:
        raise UserError(f"{arguments.predictions} cannot be written: {error.strerror}") from error
    if arguments.predictions:
        print(f"predictions: {arguments.predictions}", file=sys.stderr)
    metrics = measure(dataset, split, scores)
    if metrics["auc"] is None:
        print(f"warning: the {split} split has one label only, so no AUC", file=sys.stderr)
    return metrics


def _print_metrics(arguments: Arguments) -> None:
    print(json.dumps(evaluate(arguments), allow_nan=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.evaluate"), _print_metrics
    )


if __name__ == "__main__":
    sys.exit(main())
