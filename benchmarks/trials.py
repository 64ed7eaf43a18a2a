"""Validation AUC of candidate defaults; never opens a test set.

    python -m benchmarks.trials FOLDER --out OUT [--trials NAME ...]

Trains the settings of ``benchmarks/trials.json`` on the authors' prepared files (see
benchmarks/quality.py) and prints the best validation AUC over the epochs of each, the evidence
that the defaults were chosen by.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.common.timing import print_rows
from benchmarks.quality import prepared
from dien_jax.config.preset_files import with_settings
from dien_jax.config.presets import preset
from dien_jax.config.settings import Config
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader
from dien_jax.metrics.scores import auc
from dien_jax.runs.scoring import evaluation_loader, score_batches
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import create_state, device_tables
from dien_jax.steps.train import make_train_step

TRIALS = Path(__file__).with_name("trials.json")


def best_validation_auc(config: Config, data: Path, *, seed: int = 0) -> tuple[float, int]:
    """The best validation AUC and its epoch, counted from 1; early stopping as configured."""
    dataset = open_dataset(data)
    loader = Loader(
        dataset,
        "train",
        batch_size=config.train.batch_size,
        buckets=config.train.buckets,
        max_history=config.train.max_history,
        seed=seed,
        order=config.train.order,
        shown=config.model.shown_negatives,
    )
    validation = evaluation_loader(dataset, "valid", config)
    tables = device_tables(dataset, config)
    state = create_state(config, dataset.schema, loader.steps_per_epoch, seed)
    train_step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    predict_step = make_predict_step(config, dataset.schema)
    labels = np.asarray(dataset.splits["valid"].label)
    scores: list[float] = []
    for epoch in range(config.train.epochs):
        for batch in loader.epoch(epoch):
            state, _ = train_step(state, tables, batch)
        found = score_batches(predict_step, state.params, state.batch_stats, tables, validation)
        scores.append(auc(labels, found) or 0.5)
        if 0 < config.train.patience <= epoch - int(np.argmax(scores)):
            break
    best = int(np.argmax(scores))
    return scores[best], best + 1


def main() -> None:
    """Train every trial on every set and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="one folder a dataset, in the authors' format")
    parser.add_argument("--out", type=Path, required=True, help="dataset folders")
    parser.add_argument("--trials", nargs="*", help="names in trials.json; all when not given")
    options = parser.parse_args()
    trials = json.loads(TRIALS.read_text())
    sets = sorted(path for path in options.folder.iterdir() if path.is_dir())
    rows = []
    for name in options.trials or trials:
        trial = trials[name]
        config = with_settings(preset(trial["preset"]), trial["settings"])
        row: dict[str, object] = {"trial": name, "examples": trial["examples"]}
        for source in sets:
            every_event = trial["examples"] == "every event"
            data = prepared(source, options.out, every_event=every_event)
            score, epoch = best_validation_auc(config, data)
            row[source.name] = f"{score:.4f} @{epoch}"
        rows.append(row)
    print_rows(rows, list(rows[0]))


if __name__ == "__main__":
    main()
