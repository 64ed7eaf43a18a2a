"""Training and scoring on real data, loader included.

    python -m benchmarks.train_throughput DATA [DATA ...] [--batch-sizes 128 1024] [--json FILE]

For each dataset folder and batch size one epoch that compiles, then timed epochs: batches come
from the loader's thread as in training, and the share of the time that steps waited for them is a
column. ``padded`` pads every batch to the longest history allowed, as most programs do;
``buckets`` is what ``python -m dien_jax.train`` does. Scoring runs over the training examples too.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from benchmarks.common import plots
from benchmarks.common.timing import print_rows, quartile_spread, surroundings, write_rows
from benchmarks.train_step import peak_megabytes
from dien_jax.config.presets import PRESETS, preset
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import create_state, training_tables
from dien_jax.steps.train import make_train_step

COLUMNS = (
    "case", "mode", "policy", "batch", "threads", "median_ms", "spread_ms", "samples_per_second",
    "loader_share", "peak_mb",
)  # fmt: skip
PADDED_STEPS = 60
"""Timed steps where every batch is padded: an epoch would take minutes."""


def epochs(
    config: Config, dataset: Dataset, mode: str, *, count: int, most: int | None
) -> list[tuple[int, float, float, int]]:
    """Steps, seconds, seconds of waiting for batches, and examples of timed epochs.

    Args:
      config: the settings.
      dataset: whose training examples are read.
      mode: ``"train"``, or ``"score"``, whose batches are sorted by length.
      count: timed epochs.
      most: steps of an epoch at most.
    """
    make_loader = Loader if mode == "train" else evaluation_loader
    loader = make_loader(dataset, "train", config.train)
    tables = training_tables(dataset, config)
    state = create_state(config, dataset.schema, loader.steps_per_epoch, seed=0)
    if mode == "train":
        train_step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    else:
        predict_step = make_predict_step(config, dataset.schema)
    found = []
    for epoch in range(count + 1):  # the first one compiles
        start, waited, steps, examples = time.perf_counter(), 0.0, 0, 0
        with closing(loader.epoch(epoch)) as batches:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - asked
                if batch is None or steps == most:
                    break
                if mode == "train":
                    state, metrics = train_step(state, tables, batch)
                    last = metrics["loss"]
                else:
                    last = predict_step(state.params, state.batch_stats, tables.features, batch)
                steps += 1
                examples += int(batch.weight.sum())
            jax.block_until_ready(last)
        found.append((steps, time.perf_counter() - start, waited, examples))
    return found[1:]


def row(config: Config, data: Path, mode: str, policy: str, *, count: int) -> dict[str, Any]:
    """One line of the table."""
    if policy == "padded":
        train = dataclasses.replace(config.train, buckets=())
        config = dataclasses.replace(config, train=train)
    most = PADDED_STEPS if policy == "padded" else None
    found = epochs(config, open_dataset(data), mode, count=count, most=most)
    per_step = [1e3 * seconds / steps for steps, seconds, _, _ in found]
    return {
        "benchmark": "train_throughput",
        "case": data.name,
        "system": "dien_jax",
        "mode": mode,
        "policy": policy,
        "batch": config.train.batch_size,
        "median_ms": statistics.median(per_step),
        "spread_ms": quartile_spread(per_step) if len(per_step) > 1 else 0.0,
        "samples_per_second": statistics.median(n / seconds for _, seconds, _, n in found),
        "loader_share": statistics.median(waited / seconds for _, seconds, waited, _ in found),
        "peak_mb": peak_megabytes(),
        **surroundings(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, draw and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, nargs="+", help="dataset folders")
    parser.add_argument("--preset", default="dien", choices=PRESETS)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--policies", nargs="+", default=["buckets"], choices=["buckets", "padded"])
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="draw samples a second into this PNG")
    options = parser.parse_args(argv)
    if options.plot:
        plots.require()
    base = preset(options.preset)
    rows = []
    for data in options.data:
        for size in options.batch_sizes:
            train = dataclasses.replace(base.train, batch_size=size)
            config = dataclasses.replace(base, train=train)
            for policy in options.policies:
                for mode in ("train", "score"):
                    rows.append(row(config, data, mode, policy, count=options.epochs))
                    jax.clear_caches()
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['versions']}")
    if options.plot:
        panels: plots.Panels = {}
        for found in rows:
            groups = panels.setdefault(found["case"], {})
            bars = groups.setdefault(f"batch {found['batch']}, {found['policy']}", {})
            bars[found["mode"]] = found["samples_per_second"]
        plots.grouped_bars(options.plot, panels, "Examples a second, loader included",
                           unit="examples a second")  # fmt: skip
        print(f"drawn in {options.plot}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
