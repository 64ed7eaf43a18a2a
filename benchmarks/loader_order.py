"""Time and memory of the order of an epoch by the number of training examples.

    python -m benchmarks.loader_order [--examples N ...] [--json FILE] [--plot FILE]

Examples are made up, two a user, with histories as long-tailed as real ones. Their columns are
mapped files, as in a dataset folder. Each row has a process of its own: ``peak_mb`` is the greatest
memory that the process had besides mapped files, less what it had before. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import plots
from benchmarks.common.cases import history_lengths, schema_of
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import means, timed_row
from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import Dataset, Examples
from dien_jax.data.loader import Loader
from dien_jax.data.order import WINDOW

EXAMPLES, ORDERS = (10**6, 10**7, 10**8), ("shuffled", "keyed")
SEQUENCES = 2**16  # distinct histories; a user has one
SETTLING = 0.01  # seconds between looks at the memory
COLUMNS = ("case", "policy", "first_s", "peak_mb", "kept_mb", "median_ms", "spread_ms", "batch_ms")


def write_columns(folder: Path, examples: int) -> None:
    """Write the columns of made examples that a loader maps."""
    lengths = np.resize(history_lengths(SEQUENCES, 100), examples // 2).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + 1)])
    sequence = np.repeat(np.arange(len(lengths), dtype=np.int32), 2)
    np.save(folder / "event_offsets.npy", offsets)
    np.save(folder / "sequence.npy", sequence)
    np.save(folder / "history_end.npy", offsets[1:][sequence] - 1)
    np.save(folder / "zeros.npy", np.zeros(max(len(sequence), 2**20), np.int32))


def made_dataset(folder: Path) -> Dataset:
    """Return a dataset of the columns; every item, user and label is 0."""
    offsets, sequence, history_end, zeros = (
        np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("event_offsets", "sequence", "history_end", "zeros")
    )
    none = zeros[: len(sequence)]
    examples = Examples(sequence, history_end, none, none, none, none, {}, None)
    splits = {"train": examples}
    return Dataset(
        folder, schema_of(), {}, {}, {}, zeros, zeros, offsets, np.zeros(1, np.int64), splits
    )


def anonymous_megabytes() -> float:
    """Return the memory of this process besides mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Yield a list whose one number is the greatest memory since."""
    peak, done = [anonymous_megabytes()], threading.Event()

    def watch() -> None:
        while not done.wait(SETTLING):
            peak[0] = max(peak[0], anonymous_megabytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def measure(folder: Path, order: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Measure one order in this process.

    The first epoch's order is timed with the opening, ``first_s``; times of its further batches are
    those of their examples alone, and of whole batches, ``batch_ms``.
    """
    config = TrainConfig(batch_size=batch_size)
    dataset = made_dataset(folder)
    before = anonymous_megabytes()
    with watched_memory() as peak:
        start = time.perf_counter()
        loader = Loader(dataset, "train", config, order=order)
        loader.example_indices(0, 0)
        first = time.perf_counter() - start
    kept = anonymous_megabytes() - before
    middle = loader.steps_per_epoch // 2

    def times(call: Any) -> list[float]:
        found = []
        for step in range(middle, min(middle + 2 * repeats, loader.steps_per_epoch)):
            start = time.perf_counter()
            call(0, step)
            found.append(1e3 * (time.perf_counter() - start))
        return means(found[len(found) // 2 :], WINDOW)  # the first ones warm up

    examples = loader.num_examples
    columns = {
        "case": f"{examples:,} examples, B {batch_size}",
        "policy": order,
        "examples": examples,
        "first_s": first,
        "peak_mb": peak[0] - before,
        "kept_mb": kept,
        "batch_ms": statistics.median(times(loader.batch)),
    }
    return timed_row("loader_order", times(loader.example_indices), **columns)


def draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw memory and time by the number of examples, a curve for each order."""
    panels: plots.Curves = {"peak memory, MB": {}, "first batch, s": {}}
    for title, column in (("peak memory, MB", "peak_mb"), ("first batch, s", "first_s")):
        for order in dict.fromkeys(row["policy"] for row in rows):
            points = [row for row in rows if row["policy"] == order]
            panels[title][order] = (
                [row["examples"] for row in points],
                [row[column] for row in points],
            )
    plots.curves(file, panels, x="training examples", title="Order of an epoch")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every number of examples and order; print, write and draw the rows."""
    parser = make_parser(__doc__, plot="the curves")
    parser.add_argument(
        "--examples", type=int, nargs="+", default=EXAMPLES, help="sizes of a split"
    )
    parser.add_argument("--orders", nargs="+", default=ORDERS, choices=ORDERS)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=4 * WINDOW, help="timed batches of each row")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parse(parser, argv, examples=2, batch_size=1, repeats=2)
    if options.folder is not None:
        order = options.orders[0]
        row = measure(options.folder, order, options.batch_size, options.repeats)
        print(json.dumps(row))
        return
    rows = []
    for examples in options.examples:
        with tempfile.TemporaryDirectory() as folder:
            write_columns(Path(folder), examples)
            for order in options.orders:
                flags = {
                    "folder": folder,
                    "orders": order,
                    "batch-size": options.batch_size,
                    "repeats": options.repeats,
                }
                command = [sys.executable, "-m", "benchmarks.loader_order"]
                command += [f"--{name}={value}" for name, value in flags.items()]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    report(options, rows, COLUMNS, draw)


if __name__ == "__main__":
    main()
