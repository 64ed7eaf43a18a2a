"""Time, memory and disk of preparing synthetic logs, compared with plain grouping queries.

    python -m benchmarks.preparation [--events N ...] [--memory SIZE] [--folder DIR] [--json FILE]

A log is a Parquet file. Users have ten events on average, unevenly distributed; the popularity of
items follows Zipf's law. Each row is measured in a separate process. ``peak_mb`` is its peak
resident memory, mapped files included, ``disk_mb`` the size of its output, and ``peak_disk_mb`` the
peak size of its folder. ``duckdb`` and ``polars``, where they are installed, only read the log and
write each user's items in the order of time. Linux only.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import timed_row, versions_of

EVENTS_OF_A_USER, EVENTS_OF_AN_ITEM = 10, 10
MOST_ITEMS, CATEGORIES = 3_000_000, 5_000
CHUNK = 1 << 20
START, SECONDS = 1_700_000_000, 60 * 86_400
SETTLING = 0.1  # seconds between measurements of disk and memory
COLUMNS = (
    "case", "system", "policy", "seconds", "events_per_second", "peak_mb", "disk_mb",
    "peak_disk_mb",
)  # fmt: skip
QUERIES = {
    "duckdb": """
import duckdb, sys
log, out, limit = sys.argv[1:]
duckdb.connect(config={"memory_limit": limit, "temp_directory": out + ".spill"}).execute(
    f"COPY (SELECT user, list(item ORDER BY timestamp) AS items, "
    f"list(timestamp ORDER BY timestamp) AS times FROM '{log}' GROUP BY user) "
    f"TO '{out}' (FORMAT parquet)"
)
""",
    "polars": """
import polars, sys
log, out, _ = sys.argv[1:]
ordered = polars.scan_parquet(log).sort("timestamp")
ordered.group_by("user").agg("item", "timestamp").sink_parquet(out)
""",
}
"""Programs that group a log by user. Arguments: the log, the output file, a memory limit."""


def chunks(events: int, seed: int = 0) -> Iterator[pa.Table]:
    """Yield a synthetic log in the order of time."""
    random = np.random.default_rng(seed)
    num_users = max(events // EVENTS_OF_A_USER, 1)
    num_items = min(max(events // EVENTS_OF_AN_ITEM, 10), MOST_ITEMS)
    of_items = np.cumsum(1.0 / np.arange(1, num_items + 1))
    of_users = np.cumsum(random.lognormal(0.0, 1.0, num_users))
    names = random.permutation(num_items)  # ids do not depend on popularity
    category = random.integers(0, CATEGORIES, num_items)
    for start in range(0, events, CHUNK):
        rows = min(CHUNK, events - start)
        places = np.sort(random.random(rows)) * CHUNK + start
        times = START + (places * (SECONDS / events)).astype(np.int64)
        users = np.searchsorted(of_users, of_users[-1] * random.random(rows))
        item = names[np.searchsorted(of_items, of_items[-1] * random.random(rows))]
        columns = {"user": users, "item": item, "category": category[item], "timestamp": times}
        yield pa.table(columns)


def write_log(file: Path, events: int) -> None:
    """Write a synthetic log."""
    tables = chunks(events)
    first = next(tables)
    with pq.ParquetWriter(file, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    total = 0
    # Files may vanish meanwhile. os.walk tolerates a removed folder; Path.rglob raises.
    files = [path] if path.is_file() else []
    files += [Path(place, name) for place, _, names in os.walk(path) for name in names]
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            total += os.lstat(file).st_size
    return total


def peak_resident(process: int) -> int:
    """Return the peak resident memory of a process so far in KiB, 0 if it has ended.

    ``wait4`` reports at least the memory of this process, so its figure is only a fallback.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def measure(command: Sequence[str], folder: Path, out: Path) -> dict[str, float]:
    """Run a command that writes ``out`` in ``folder``; return its time, memory and disk use."""
    before, peak_disk, peak, done = size_of(folder), [0], [0], threading.Event()
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:

        def watch() -> None:
            while not done.wait(SETTLING):
                peak_disk[0] = max(peak_disk[0], size_of(folder) - before)
                peak[0] = max(peak[0], peak_resident(process.pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    disk = size_of(out)
    return {
        "seconds": seconds,
        "peak_mb": (peak[0] or usage.ru_maxrss) / 1024,
        "disk_mb": disk / 1e6,
        "peak_disk_mb": max(peak_disk[0], disk) / 1e6,
    }


def rows_of(events: int, memory: str, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each system."""
    file = folder / "log.parquet"
    write_log(file, events)
    data, query = folder / "data", folder / "query.parquet"
    prepare = ["-m", "dien_jax.prepare", "interactions", str(file), "--out", str(data)]
    prepare += ["--item-features", "category", "--memory", memory]
    commands = {"dien_jax": (prepare, data)}
    for system, program in QUERIES.items():
        if find_spec(system):
            commands[system] = (["-c", program, str(file), str(query), memory], query)
    rows = []
    for system, (command, out) in commands.items():
        found = measure([sys.executable, *command], folder, out)
        if out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink()
        columns = {
            "case": f"{events:,} interactions",
            "system": system,
            "policy": f"{memory} of memory" if system != "polars" else "",
            "events": events,
            "events_per_second": events / found["seconds"],
            **found,
        }
        rows.append(timed_row("preparation", [1e3 * found["seconds"]], **columns))
        rows[-1]["versions"] |= versions_of("duckdb", "polars")
    file.unlink()
    return rows


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size; print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=(10**6, 10**7), help="sizes")
    parser.add_argument("--memory", default="4GB", help="value of prepare's --memory")
    parser.add_argument("--folder", type=Path, help="folder for logs (default: a temporary one)")
    options = parse(parser, argv, events=10)
    rows: list[dict[str, Any]] = []
    for events in options.events:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows += rows_of(events, options.memory, Path(folder))
            print(f"{rows[-1]['case']} is done", file=sys.stderr, flush=True)
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
