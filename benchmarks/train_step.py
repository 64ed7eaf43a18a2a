"""The whole train step: every history 100 long, and on real lengths.

    python -m benchmarks.train_step [--preset NAME] [--data DIR] [--json FILE]

The first case is the paper's size (batch 128, 100 steps, embeddings of 18, states of 36) on made
ids. With ``--data`` the steps of one epoch on a dataset folder follow, batches assembled
beforehand: once in length buckets, once padded to the full length.
"""

import argparse
import dataclasses
import resource
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import milliseconds, print_rows, quartile_spread, surroundings, write_rows
from dien_jax.batches import Loader
from dien_jax.config import PRESETS, Config, preset
from dien_jax.dataset import open_dataset
from dien_jax.sampling import make_sampler
from dien_jax.schema import Batch, Feature, FeatureTables, Schema
from dien_jax.step import Tables, create_state, device_tables, make_train_step

ITEMS, CATEGORIES, USERS = 12_102, 196, 22_364  # as many rows as the beauty set has
COLUMNS = ("case", "policy", "threads", "median_ms", "spread_ms", "samples_per_second", "peak_mb")


def peak_megabytes() -> float:
    """The most memory that this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024 if sys.platform != "darwin" else 1024**2)


def _row(case: str, policy: str, times: list[float], samples: float, **more: object) -> dict:
    median = statistics.median(times)
    return {
        "benchmark": "train_step",
        "case": case,
        "system": "dien_jax",
        "policy": policy,
        "median_ms": median,
        "spread_ms": quartile_spread(times),
        "samples_per_second": 1e3 * samples / median,
        "peak_mb": peak_megabytes(),
        **more,
        **surroundings(),
    }


def full_length(config: Config, *, repeats: int) -> dict:
    """The step at the paper's size, every history as long as it may be."""
    batch_size, steps = config.train.batch_size, config.train.max_history
    rng = np.random.default_rng(0)
    schema = Schema(
        item=(
            Feature("item", "categorical", ITEMS),
            Feature("category", "categorical", CATEGORIES),
        ),
        user=(Feature("user", "categorical", USERS),),
    )

    def ids(size: int, *shape: int) -> np.ndarray:
        return rng.integers(1, size, shape, dtype=np.int32)

    tables = Tables(
        FeatureTables({"category": jnp.asarray(ids(CATEGORIES, ITEMS))}, {}),
        make_sampler(ids(1000, ITEMS), config.model.auxiliary_distribution),
    )
    batch = Batch(
        history=ids(ITEMS, batch_size, steps),
        lengths=np.full(batch_size, steps, np.int32),
        item=ids(ITEMS, batch_size),
        user=ids(USERS, batch_size),
        label=ids(2, batch_size).astype(np.float32),
        weight=np.ones(batch_size, np.float32),
        context={},
    )
    step = make_train_step(config, schema, 100)
    state = create_state(config, schema, 100, seed=0)

    def call() -> object:
        nonlocal state
        state, metrics = step(state, tables, batch)
        return state.step, metrics

    times = milliseconds(call, repeats=repeats)
    return _row(f"B {batch_size} T {steps}", "full length", times, batch_size)


def real_lengths(config: Config, data: Path, *, padded: bool, batches: int | None) -> dict:
    """The steps of one epoch on a dataset folder, batches assembled beforehand."""
    dataset = open_dataset(data)
    if padded:
        train = dataclasses.replace(config.train, buckets=())
        config = dataclasses.replace(config, train=train)
    loader = Loader(
        dataset,
        "train",
        batch_size=config.train.batch_size,
        buckets=config.train.buckets,
        max_history=config.train.max_history,
    )
    tables = device_tables(dataset, config)
    step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    state = create_state(config, dataset.schema, loader.steps_per_epoch, seed=0)
    count = min(batches or loader.steps_per_epoch, loader.steps_per_epoch)
    prepared = [loader.batch(0, number) for number in range(count)]
    for batch in {batch.history.shape: batch for batch in prepared}.values():  # compile
        state, metrics = step(state, tables, batch)
    jax.block_until_ready(metrics)
    times, samples = [], 0
    for _ in range(5):
        start = time.perf_counter()
        for batch in prepared:
            state, metrics = step(state, tables, batch)
        jax.block_until_ready(metrics)
        times.append(1e3 * (time.perf_counter() - start))
        samples = sum(int(batch.weight.sum()) for batch in prepared)
    per_step = [value / count for value in times]
    policy = "padded" if padded else f"buckets {loader.lengths}"
    return _row(data.name, policy, per_step, samples / count)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="dien", choices=PRESETS)
    parser.add_argument("--data", type=Path, help="dataset folder, for the cases on real lengths")
    parser.add_argument("--repeats", type=int, default=40, help="timed steps at full length")
    parser.add_argument("--padded-steps", type=int, default=40, help="timed steps when padded")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    config = preset(options.preset)
    rows = [full_length(config, repeats=options.repeats)]
    if options.data:
        rows.append(real_lengths(config, options.data, padded=False, batches=None))
        rows.append(real_lengths(config, options.data, padded=True, batches=options.padded_steps))
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
