"""Validation AUC of the tower without each group of its inputs.

    python -m benchmarks.inputs DATA [DATA ...] [--seeds N] [--json FILE]

The tower of ``wide_dien`` is trained alone, with the inputs of one group set to 0 in training and
in scoring. The AUC is that of the best epoch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import surroundings
from dien_jax.config.presets import preset
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.model import click_model, statistics_names
from dien_jax.model.statistics import statistics_inputs
from dien_jax.runs.folder import Run
from dien_jax.training.loop import Trainer

PRESET = "wide_dien"
GROUPS: dict[str, tuple[str, ...]] = {
    "none": (),
    "popularity": (" popularity", "history_popularity"),
    "repeats": ("repeat_share",),
    "lift": ("lift",),
    "order of pairs": ("order_lift", "rules"),
    "match": ("match",),
    "similarities": ("similarity", "next"),
    "transitions": ("next",),
    "levels 16 and 64": ("_16_", "_64_"),
    "levels 32 and 128": ("_32_", "_128_"),
    "by recency": ("recent",),
}
"""Substrings of input names by group; see :func:`dien_jax.model.statistics_names`."""
COLUMNS = ("data", "without", "inputs", "seed", "valid_auc")


def tower_auc(dataset: Dataset, seed: int, kept: np.ndarray) -> float:
    """Train a tower; return its best validation AUC. Inputs are multiplied by ``kept``, ``[F]``."""

    def some_inputs(*arrays: Any) -> Any:
        return statistics_inputs(*arrays) * kept[None]

    with mock.patch.object(click_model, "statistics_inputs", some_inputs):
        run = Run.create(preset=PRESET, seed=seed, dataset=dataset, config=preset(PRESET))
        trainer, best = Trainer(run, dataset, checkpoints=None), 0.0
        for record in trainer.evaluations(lambda report: None):
            best = max(best, record["valid"]["auc"])
            if trainer.progress.part != "tower":  # the tower's last epoch has ended
                break
    return best


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="dataset folders")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, from 0")
    options = parse(parser, arguments, seeds=1)
    rows = []
    for data in options.data:
        dataset = open_dataset(data)
        names = statistics_names(dataset.schema)
        for group, parts in GROUPS.items():
            is_kept = [not any(part in name for part in parts) for name in names]
            for seed in range(options.seeds):
                area = tower_auc(dataset, seed, np.array(is_kept, np.float32))
                row = {"data": data.name, "without": group, "inputs": sum(is_kept)}
                rows.append(row | {"seed": seed, "valid_auc": area} | surroundings())
                print(data.name, group, seed, f"{area:.4f}", file=sys.stderr, flush=True)
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
