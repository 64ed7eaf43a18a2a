"""Time of the whole train step, on full-length and on real histories.

    python -m benchmarks.train_step [--preset NAME] [--recurrences NAME ...] [--data DIR ...]
                                    [--batch-size N] [--compute TYPE] [--peers]
                                    [--keep-memory]

The first case has the paper's size (batch 128, 100 steps, embeddings of 18, states of 36) and
random ids. ``--data`` adds the steps of one epoch on a dataset folder, with batches assembled
beforehand: once in length buckets, once padded to the full length. ``--recurrences native xla``
compares values of ``model.implementation``, which take turns. ``--peers`` also times the installed
packages of :mod:`benchmarks.peers` on the same batches.
"""

import functools
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from dien_kernels import Implementation

from benchmarks.common.cases import BUCKETS, ITEMS, random_batch, schema_of
from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import interleaved_milliseconds, peak_megabytes, timed_row
from benchmarks.common.training import Training, made_categories, on_made_tables
from benchmarks.peers import Peers, installed, steps_of, table_sizes
from dien_jax.config.presets import PRESETS, preset, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader
from dien_jax.steps.state import training_tables

OURS = "dien_jax"
AUTO: tuple[Implementation, ...] = ("auto",)
EPOCHS = 5
"""Timed epochs."""
COLUMNS = (
    "case", "system", "policy", "threads", "median_ms", "spread_ms", "samples_per_second",
    "peak_mb",
)  # fmt: skip


def _rows(times: dict[str, list[float]], samples: float, peers: Peers, **shared: Any) -> list[dict]:
    """Return a row for each system; with peers, the memory of the process includes theirs."""
    rows = []
    on_device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    for system, system_times in times.items():
        columns = {
            "system": system,
            **shared,
            "samples_per_second": 1e3 * samples / statistics.median(system_times),
            "peak_mb": peak_megabytes(),
            "device_peak_mb": on_device and on_device / 2**20,  # None if not reported
        }
        rows.append(timed_row("train_step", system_times, **columns))
        rows[-1]["versions"] |= peers[system].VERSIONS if system in peers else {}
    return rows


def _configs(config: Config, names: Sequence[Implementation]) -> dict[str, Config]:
    """Return the configuration of each implementation, by the name of the system."""
    return {
        OURS if len(names) == 1 else f"{OURS}, {name}": with_settings(
            config, {"model.implementation": name}
        )
        for name in names
    }


def full_length(
    config: Config, *, repeats: int, recurrences: Sequence[Implementation], peers: Peers
) -> list[dict]:
    """Measure the step at the paper's size with full histories of random ids, without counts."""
    size, steps = config.train.batch_size, config.train.max_history
    batch = random_batch(np.random.default_rng(0), size, steps)
    calls: dict[str, Callable[[], object]] = {
        name: functools.partial(on_made_tables(own, ITEMS).take, batch)
        for name, own in _configs(config, recurrences).items()
    }
    for name, peer in peers.items():
        (calls[name],) = steps_of(peer, config, schema_of(), made_categories(ITEMS), [batch])
    times = interleaved_milliseconds(calls, repeats=repeats)
    shared = {"case": f"B {size} T {steps}", "policy": "full length"}
    return _rows(times, size, peers, **shared, compute=config.model.compute)


def real_lengths(
    config: Config,
    dataset: Dataset,
    *,
    padded_steps: int | None,
    recurrences: Sequence[Implementation],
    peers: Peers,
) -> list[dict]:
    """Measure the steps of one epoch on a dataset folder, or ``padded_steps`` of full length."""
    if padded_steps is not None:
        config = with_settings(config, {"train.buckets": []})
    elif config.train.buckets is None:
        config = with_settings(config, {"train.buckets": BUCKETS})
    loader = Loader(dataset, "train", config.train, statistics=config.model.statistics)
    tables = training_tables(dataset, config)
    steps = loader.steps_per_epoch
    count = min(padded_steps or steps, steps)
    prepared = [loader.batch(0, number) for number in range(count)]

    def epoch_of(calls: Iterable[Callable[[], object]]) -> object:
        for call in calls:
            last = call()
        return last

    epochs: dict[str, Callable[[], object]] = {}
    for name, own in _configs(config, recurrences).items():
        training = Training(own, dataset.schema, tables, steps)
        for batch in {batch.history.shape: batch for batch in prepared}.values():
            jax.block_until_ready(training.take(batch))  # compile
        calls = [functools.partial(training.take, batch) for batch in prepared]
        epochs[name] = functools.partial(epoch_of, calls)
    for name, peer in peers.items():
        category = np.asarray(tables.features.item["category"])
        of_peer = steps_of(peer, config, dataset.schema, category, prepared)
        epochs[name] = functools.partial(epoch_of, of_peer)
    epoch_times = interleaved_milliseconds(epochs, repeats=EPOCHS, warm_up=0)
    times = {name: [time / count for time in measured] for name, measured in epoch_times.items()}
    samples = sum(int(batch.weight.sum()) for batch in prepared)
    policy = "padded" if padded_steps else f"buckets {loader.padded_lengths}"
    shared = {"case": dataset.path.name, "policy": policy, "compute": config.model.compute}
    return _rows(times, samples / count, peers, **shared)


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__, keep_memory=True)
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="dataset folders with real lengths"
    )
    parser.add_argument(
        "--recurrences", choices=get_args(Implementation), nargs="+", default=AUTO,
        help="values of model.implementation",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, help="default: the preset's")
    parser.add_argument("--compute", choices=["float32", "bfloat16"], help="default: the preset's")
    parser.add_argument("--peers", action="store_true", help="time the DIEN of other packages too")
    parser.add_argument("--repeats", type=int, default=40, help="timed steps at full length")
    parser.add_argument("--padded-steps", type=int, default=40, help="timed steps when padded")
    options = parse(parser, arguments, repeats=2, padded_steps=1)
    # As in the paper and in the peers, items have the same size as other embeddings.
    settings: dict[str, Any] = {"model.item_embedding_size": None}
    if options.batch_size is not None:
        settings["train.batch_size"] = options.batch_size
    if options.compute is not None:
        settings["model.compute"] = options.compute
    config = with_settings(preset(options.preset), settings)
    peers = installed() if options.peers else {}
    datasets = list(map(open_dataset, options.data))  # refused here, not after minutes
    for dataset in datasets if peers else ():
        table_sizes(dataset.schema)
    contenders: Any = {"recurrences": options.recurrences, "peers": peers}
    rows = full_length(config, repeats=options.repeats, **contenders)
    for dataset in datasets:
        print(f"{rows[-1]['case']} is done, now {dataset.path.name}", file=sys.stderr, flush=True)
        for most in (None, options.padded_steps):
            rows += real_lengths(config, dataset, padded_steps=most, **contenders)
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
