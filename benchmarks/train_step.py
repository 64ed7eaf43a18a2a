"""Time of the whole train step, with histories of 100 and of real lengths.

    python -m benchmarks.train_step [--preset NAME] [--recurrences NAME ...] [--data DIR ...]
                                    [--batch-size N] [--compute TYPE] [--peers]
                                    [--keep-memory]

The first case has the paper's size (batch 128, 100 steps, embeddings of 18, states of 36) and
random ids. ``--data`` adds the steps of one epoch on a dataset folder, with batches assembled
beforehand: once in length buckets, once padded to the full length. ``--recurrences native xla``
runs the step with each value of ``model.implementation`` by turns. ``--peers`` trains other
programs on the same batches by turns: those of DeepCTR-Torch, FuxiCTR and RecBole that are
installed, see :mod:`benchmarks.peers`. ``--keep-memory`` keeps freed memory, as the commands
do.
"""

import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Implementation

from benchmarks.common.cases import CATEGORIES, ITEMS, random_batch, schema_of, without_statistics
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import (
    device_peak_megabytes,
    interleaved_milliseconds,
    peak_megabytes,
    timed_row,
)
from benchmarks.peers import Peers, installed, steps_of
from dien_jax.config.presets import PRESETS, preset, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader
from dien_jax.data.schema import Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables, create_state, training_tables
from dien_jax.steps.train import make_train_step

OURS = "dien_jax"
AUTO: tuple[Implementation, ...] = ("auto",)
EPOCHS = 5
"""Timed epochs, by turns."""
COLUMNS = (
    "case", "system", "policy", "threads", "median_ms", "spread_ms", "samples_per_second",
    "peak_mb",
)  # fmt: skip


def _rows(
    case: str,
    policy: str,
    times: dict[str, list[float]],
    samples: float,
    peers: Peers,
    compute: str,
) -> list[dict]:
    """Return a row for each system; memory is that of the process, so ours only without peers."""
    rows = []
    for system, system_times in times.items():
        columns = {
            "case": case,
            "system": system,
            "policy": policy,
            "samples_per_second": 1e3 * samples / statistics.median(system_times),
            "compute": compute,
            "peak_mb": peak_megabytes(),
            "device_peak_mb": device_peak_megabytes(),
        }
        row = timed_row("train_step", system_times, **columns)
        if system in peers:
            row["versions"] = {**row["versions"], **peers[system].VERSIONS}
        rows.append(row)
    return rows


def _steps(
    config: Config,
    schema: Schema,
    tables: Tables,
    count: int,
    recurrences: Sequence[Implementation],
) -> dict[str, Callable[[Batch], object]]:
    """Return a step with a state of its own for each implementation, by system.

    There are ``count`` steps in an epoch.
    """

    def make(name: Implementation) -> Callable[[Batch], object]:
        own = dataclasses.replace(
            config, model=dataclasses.replace(config.model, implementation=name)
        )
        step = make_train_step(own, schema, count)
        state = create_state(own, schema, count, seed=0)

        def call(batch: Batch) -> object:
            nonlocal state
            state, metrics = step(state, tables, batch)
            return state.step, metrics

        return call

    single = len(recurrences) == 1
    return {OURS if single else f"{OURS}, {name}": make(name) for name in recurrences}


def full_length(
    config: Config,
    *,
    repeats: int,
    recurrences: Sequence[Implementation] = AUTO,
    peers: Peers | None = None,
) -> list[dict]:
    """Measure the step at the paper's size, with histories of the full length.

    The events are random, so the model reads no counts of them.
    """
    peers = peers or {}
    config = without_statistics(config)
    batch_size, steps = config.train.batch_size, config.train.max_history
    rng = np.random.default_rng(0)
    schema = schema_of()
    category = rng.integers(1, CATEGORIES, ITEMS, dtype=np.int32)
    popularity = rng.integers(1, 1000, ITEMS, dtype=np.int32)
    tables = Tables(
        FeatureTables({"category": jnp.asarray(category)}, {}),
        make_sampler(popularity, config.model.auxiliary_distribution),
    )
    batch = random_batch(rng, batch_size, steps)
    calls: dict[str, Callable[[], object]] = {
        name: functools.partial(step, batch)
        for name, step in _steps(config, schema, tables, 100, recurrences).items()
    }
    for name, peer in peers.items():
        (calls[name],) = steps_of(peer, config, schema, category, [batch])
    times = interleaved_milliseconds(calls, repeats=repeats)
    return _rows(
        f"B {batch_size} T {steps}", "full length", times, batch_size, peers, config.model.compute
    )


def real_lengths(
    config: Config,
    data: Path,
    *,
    padded: bool,
    batches: int | None,
    recurrences: Sequence[Implementation] = AUTO,
    peers: Peers | None = None,
) -> list[dict]:
    """Measure the steps of one epoch on a dataset folder, batches assembled beforehand."""
    dataset = open_dataset(data)
    if padded:
        train = dataclasses.replace(config.train, buckets=())
        config = dataclasses.replace(config, train=train)
    loader = Loader(dataset, "train", config.train, statistics=config.model.statistics)
    tables = training_tables(dataset, config)
    steps = _steps(config, dataset.schema, tables, loader.steps_per_epoch, recurrences)
    count = min(batches or loader.steps_per_epoch, loader.steps_per_epoch)
    prepared = [loader.batch(0, number) for number in range(count)]

    def epoch(step: Callable[[Batch], object], some: Iterable[Batch] = prepared) -> None:
        for batch in some:
            last = step(batch)
        jax.block_until_ready(last)

    def epoch_of(calls: Sequence[Callable[[], object]]) -> None:
        for call in calls:
            call()

    for step in steps.values():
        epoch(step, {batch.history.shape: batch for batch in prepared}.values())  # compile
    epochs: dict[str, Callable[[], None]] = {
        name: functools.partial(epoch, step) for name, step in steps.items()
    }
    peers = peers or {}
    for name, peer in peers.items():
        category = np.asarray(tables.features.item["category"])
        calls = steps_of(peer, config, dataset.schema, category, prepared)
        epochs[name] = functools.partial(epoch_of, calls)
    epoch_times = interleaved_milliseconds(epochs, repeats=EPOCHS, warm_up=0)
    times = {name: [time / count for time in measured] for name, measured in epoch_times.items()}
    samples = sum(int(batch.weight.sum()) for batch in prepared)
    policy = "padded" if padded else f"buckets {loader.padded_lengths}"
    return _rows(data.name, policy, times, samples / count, peers, config.model.compute)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__, keep_memory=True)
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="dataset folders with real lengths"
    )
    parser.add_argument(
        "--recurrences", choices=get_args(Implementation), nargs="+", default=AUTO,
        help="values of model.implementation, which take turns",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, help="instead of that of the preset")
    parser.add_argument("--compute", choices=["float32", "bfloat16"], help="likewise")
    parser.add_argument("--peers", action="store_true", help="time other programs' DIEN also")
    parser.add_argument("--repeats", type=int, default=40, help="timed steps at full length")
    parser.add_argument("--padded-steps", type=int, default=40, help="timed steps when padded")
    options = parse(parser, arguments, repeats=2, padded_steps=1)
    # The sizes of the paper, which the peers have too.
    config = with_settings(preset(options.preset), {"model.item_embedding_size": None})
    if options.batch_size is not None:
        train = dataclasses.replace(config.train, batch_size=options.batch_size)
        config = dataclasses.replace(config, train=train)
    if options.compute is not None:
        model = dataclasses.replace(config.model, compute=options.compute)
        config = dataclasses.replace(config, model=model)
    peers = installed() if options.peers else {}
    contenders: Any = {"recurrences": options.recurrences, "peers": peers}
    rows = full_length(config, repeats=options.repeats, **contenders)
    for data in options.data:
        print(f"{rows[-1]['case']} is done, now {data.name}", file=sys.stderr, flush=True)
        rows += real_lengths(config, data, padded=False, batches=None, **contenders)
        rows += real_lengths(config, data, padded=True, batches=options.padded_steps, **contenders)
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
