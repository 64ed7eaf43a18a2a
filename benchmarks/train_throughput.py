"""Throughput of training and scoring on real data, including the loader.

    python -m benchmarks.train_throughput DATA [DATA ...] [--batch-sizes 128 1024] [--modes train]
                                          [--steps N] [--json FILE]

For each dataset folder and batch size, one untimed epoch compiles, and timed epochs follow. Batches
come from the loader's thread as in training; ``loader_share`` is the share of time that steps wait
for them. Scoring also runs over the training examples.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.cases import BUCKETS
from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import peak_megabytes, timed_row
from benchmarks.common.training import Training
from dien_jax.config.presets import PRESETS, preset, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import training_tables

COLUMNS = (
    "case", "mode", "batch", "threads", "median_ms", "spread_ms", "samples_per_second",
    "loader_share", "peak_mb",
)  # fmt: skip
MODES = ("train", "score")


def epochs(
    config: Config, dataset: Dataset, mode: str, *, count: int, most: int | None
) -> list[tuple[int, float, float, int]]:
    """Return steps, seconds, seconds of waiting for batches, and examples of ``count`` epochs.

    ``mode`` is ``"train"`` or ``"score"``; the latter sorts batches by length. A timed epoch has at
    most ``most`` steps.
    """
    if mode == "train":
        loader = Loader(dataset, "train", config.train, statistics=config.model.statistics)
    else:
        loader = evaluation_loader(dataset, "train", config.train)
    tables = training_tables(dataset, config)
    training = Training(config, dataset.schema, tables, loader.steps_per_epoch)
    predict = make_predict_step(config, dataset.schema)
    timed = []
    # Epochs of training have other batches: the first one compiles for all lengths.
    lengths = set(loader.padded_lengths) if mode == "train" else set()
    for epoch in range(count + 1):
        start, waited, steps, examples = time.perf_counter(), 0.0, 0, 0
        with closing(loader.epoch(epoch)) as batches:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - asked
                is_last = most is not None and steps >= most and (epoch > 0 or not lengths)
                if batch is None or is_last:
                    break
                lengths.discard(batch.history.shape[1])
                if mode == "train":
                    last: Any = training.take(batch)
                else:
                    state = training.state
                    last = predict(state.params, state.batch_stats, tables.features, batch)
                steps += 1
                examples += int(batch.weight.sum())
            jax.block_until_ready(last)
        timed.append((steps, time.perf_counter() - start, waited, examples))
    return timed[1:]


def row(
    config: Config, data: Path, mode: str, *, count: int, most: int | None = None
) -> dict[str, Any]:
    """Return one row of the table; epochs have at most ``most`` steps."""
    timed = epochs(config, open_dataset(data), mode, count=count, most=most)
    step_times = [1e3 * seconds / steps for steps, seconds, _, _ in timed]
    columns = {
        "case": data.name,
        "mode": mode,
        "batch": config.train.batch_size,
        "samples_per_second": statistics.median(n / seconds for _, seconds, _, n in timed),
        "loader_share": statistics.median(waited / seconds for _, seconds, waited, _ in timed),
        "peak_mb": peak_megabytes(),
    }
    return timed_row("train_throughput", step_times, **columns)


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__, keep_memory=True)
    parser.add_argument("data", type=Path, nargs="+", help="dataset folders")
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs")
    parser.add_argument("--steps", type=int, help="steps of an epoch; by default all")
    options = parse(parser, argv, epochs=1, batch_sizes=1, steps=1)
    base = with_settings(preset(options.preset), {"train.buckets": BUCKETS})
    rows = []
    for data in options.data:
        for size in options.batch_sizes:
            config = with_settings(base, {"train.batch_size": size})
            for mode in options.modes:
                rows.append(row(config, data, mode, count=options.epochs, most=options.steps))
                jax.clear_caches()
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
