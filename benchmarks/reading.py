"""Time and reads of a loader over dataset folders, with their files in memory and on the disk.

    python -m benchmarks.reading DATA [DATA ...] [--batches N] [--json FILE]

For each folder, a process opens it, and builds batches of training examples in turn, from a random
place of the first epoch on: ``open_s`` is the time of opening and checking it, ``first_s`` that to
the first batch. ``median_ms`` is of means of 512 batches, whose order is found at once in large
folders. Cold rows drop the folder's files from the page cache before the folder is opened, and
again before the batches. ``faults`` are page faults that read from the disk, ``read_mb`` what the
process read from it while the batches were built. Linux only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import means, timed_row
from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader
from dien_jax.data.order import WINDOW

BATCH_SIZE, BATCHES = 128, 4 * WINDOW
CACHES = ("warm", "cold")
COLUMNS = (
    "case", "policy", "open_s", "first_s", "median_ms", "spread_ms", "examples_per_second",
    "faults", "read_mb",
)  # fmt: skip


def drop_from_cache(folder: Path) -> None:
    """Drop the pages of a folder's files that no process has mapped from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def read_bytes() -> int:
    """Return the bytes that this process read from the disk."""
    counts = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in counts)["read_bytes"])


def measure(folder: Path, cache: str, batches: int) -> dict[str, Any]:
    """Measure one folder in this process."""
    if cache == "cold":
        drop_from_cache(folder)
    start = time.perf_counter()
    dataset = open_dataset(folder)
    opened = time.perf_counter() - start
    start = time.perf_counter()
    loader = Loader(dataset, "train", TrainConfig(batch_size=BATCH_SIZE))
    loader.batch(0, 0)
    first = time.perf_counter() - start
    if cache == "cold":
        drop_from_cache(folder)
    last = max(1, loader.steps_per_epoch - batches)
    first_step = int(np.random.default_rng(0).integers(last))
    faults, read = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, read_bytes()
    times = []
    for step in range(first_step, min(first_step + batches, loader.steps_per_epoch)):
        start = time.perf_counter()
        loader.batch(0, step)
        times.append(1e3 * (time.perf_counter() - start))
    columns = {
        "case": f"{len(dataset.event_item):,} events, {loader.num_examples:,} examples, "
        f"B {BATCH_SIZE}",
        "policy": cache,
        "open_s": opened,
        "first_s": first,
        "examples_per_second": BATCH_SIZE * len(times) / (sum(times) / 1e3),
        "faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
        "read_mb": (read_bytes() - read) / 1e6,
    }
    return timed_row("reading", means(times, WINDOW), **columns)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every folder, warm and cold; print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="dataset folders")
    parser.add_argument("--batches", type=int, default=BATCHES, help="batches of each row")
    parser.add_argument("--cache", choices=CACHES, help=argparse.SUPPRESS)  # of a row's process
    options = parse(parser, argv, batches=1)
    if options.cache:
        print(json.dumps(measure(options.data[0], options.cache, options.batches)))
        return
    rows = []
    for folder in options.data:
        for cache in CACHES:
            line = ["-m", "benchmarks.reading", str(folder), f"--batches={options.batches}"]
            command = [sys.executable, *line, f"--cache={cache}"]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            rows.append(json.loads(ended.stdout))
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
