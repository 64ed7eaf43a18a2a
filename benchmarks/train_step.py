"""The whole train step: every history 100 long, and on real lengths.

    python -m benchmarks.train_step [--preset NAME] [--data DIR ...] [--peers] [--json FILE]

The first case is the paper's size (batch 128, 100 steps, embeddings of 18, states of 36) on made
ids. With ``--data`` the steps of one epoch on a dataset folder follow, batches assembled
beforehand: once in length buckets, once padded to the full length. With ``--peers`` other programs
train on the same batches by turns: DeepCTR-Torch and RecBole, where installed, see
``benchmarks/train_peers.py``.
"""

import argparse
import dataclasses
import functools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common.timing import (
    PAUSE,
    interleaved_milliseconds,
    print_rows,
    quartile_spread,
    surroundings,
    write_rows,
)
from benchmarks.peers import Peers, installed
from dien_jax.config.presets import PRESETS, preset
from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader
from dien_jax.data.schema import Feature, FeatureTables, Schema
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables, create_state, training_tables
from dien_jax.steps.train import make_train_step

OURS = "dien_jax"
EPOCHS = 5
"""Timed epochs, by turns."""
ITEMS, CATEGORIES, USERS = 12_102, 196, 22_364  # as many rows as the beauty set has
COLUMNS = (
    "case", "system", "policy", "threads", "median_ms", "spread_ms", "samples_per_second",
    "peak_mb",
)  # fmt: skip


def peak_megabytes() -> float:
    """The most memory that this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024 if sys.platform != "darwin" else 1024**2)


def _rows(
    case: str, policy: str, times: dict[str, list[float]], samples: float, peers: Peers
) -> list[dict]:
    """A line for each system; memory is that of the process, and so of ours alone without peers."""
    found = []
    for system, of_system in times.items():
        row = {
            "benchmark": "train_step",
            "case": case,
            "system": system,
            "policy": policy,
            "median_ms": statistics.median(of_system),
            "spread_ms": quartile_spread(of_system),
            "samples_per_second": 1e3 * samples / statistics.median(of_system),
            "peak_mb": peak_megabytes(),
            **surroundings(),
        }
        if system in peers:
            row["versions"] = {**row["versions"], **peers[system].VERSIONS}
        found.append(row)
    return found


def full_length(config: Config, *, repeats: int, peers: Peers | None = None) -> list[dict]:
    """The step at the paper's size, every history as long as it may be."""
    peers = peers or {}
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

    category = ids(CATEGORIES, ITEMS)
    tables = Tables(
        FeatureTables({"category": jnp.asarray(category)}, {}),
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

    calls: dict[str, Callable[[], object]] = {OURS: call}
    for name, peer in peers.items():
        (calls[name],) = peer.steps_of(config, schema, category, [batch])
    times = interleaved_milliseconds(calls, repeats=repeats)
    return _rows(f"B {batch_size} T {steps}", "full length", times, batch_size, peers)


def real_lengths(
    config: Config,
    data: Path,
    *,
    padded: bool,
    batches: int | None,
    peers: Peers | None = None,
) -> list[dict]:
    """The steps of one epoch on a dataset folder, batches assembled beforehand."""
    dataset = open_dataset(data)
    if padded:
        train = dataclasses.replace(config.train, buckets=())
        config = dataclasses.replace(config, train=train)
    loader = Loader(dataset, "train", config.train)
    tables = training_tables(dataset, config)
    step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    state = create_state(config, dataset.schema, loader.steps_per_epoch, seed=0)
    count = min(batches or loader.steps_per_epoch, loader.steps_per_epoch)
    prepared = [loader.batch(0, number) for number in range(count)]

    def epoch(some: Iterable[Batch] = prepared) -> None:
        nonlocal state
        for batch in some:
            state, metrics = step(state, tables, batch)
        jax.block_until_ready(metrics)

    def epoch_of(calls: Sequence[Callable[[], object]]) -> None:
        for call in calls:
            call()

    epoch({batch.history.shape: batch for batch in prepared}.values())  # compile
    epochs: dict[str, Callable[[], None]] = {OURS: epoch}
    peers = peers or {}
    for name, peer in peers.items():
        category = np.asarray(tables.features.item["category"])
        calls = peer.steps_of(config, dataset.schema, category, prepared)
        epochs[name] = functools.partial(epoch_of, calls)
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(EPOCHS):
        for name, run in epochs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start) / count)
    samples = sum(int(batch.weight.sum()) for batch in prepared)
    policy = "padded" if padded else f"buckets {loader.padded_lengths}"
    return _rows(data.name, policy, times, samples / count, peers)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="dien", choices=PRESETS)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="dataset folders, for real lengths"
    )
    parser.add_argument("--peers", action="store_true", help="time other programs' DIEN too")
    parser.add_argument("--repeats", type=int, default=40, help="timed steps at full length")
    parser.add_argument("--padded-steps", type=int, default=40, help="timed steps when padded")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    config = preset(options.preset)
    peers = installed() if options.peers else {}
    rows = full_length(config, repeats=options.repeats, peers=peers)
    for data in options.data:
        print(f"{rows[-1]['case']} is done, now {data.name}", file=sys.stderr, flush=True)
        rows += real_lengths(config, data, padded=False, batches=None, peers=peers)
        rows += real_lengths(config, data, padded=True, batches=options.padded_steps, peers=peers)
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
