"""Time and memory of scoring large tables and splits.

    python -m benchmarks.scoring RUN [--rows N ...] [--folder DIR] [--json FILE]

``predict`` scores synthetic CSV files: users, candidates and five behaviours, drawn uniformly from
the ids of the run's dataset folder. ``evaluate`` scores each split of that folder. Each row is
measured in a separate process. ``seconds`` is the time of the whole command, ``peak_mb`` its peak
resident memory, mapped files included. Linux only.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import timed_row
from benchmarks.preparation import measure
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.metadata import SPLITS
from dien_jax.runs.folder import Run

ROWS = (10**6, 10**7)
BEHAVIOURS = 5
CHUNK = 1 << 18
COLUMNS = ("case", "system", "rows", "seconds", "samples_per_second", "peak_mb")


def write_requests(file: Path, dataset: Dataset, rows: int, seed: int = 0) -> None:
    """Write a table of users, candidates and histories for ``predict``."""
    random = np.random.default_rng(seed)
    items, users = np.array(dataset.vocabulary("item")[1:]), np.array(dataset.groups())
    names = ("user", "item", "history")
    schema = pa.schema([(name, pa.string()) for name in names])
    with pyarrow.csv.CSVWriter(file, schema) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            history = random.choice(items, (count, BEHAVIOURS)).tolist()
            columns = (
                random.choice(users, count),
                random.choice(items, count),
                ["|".join(ids) for ids in history],
            )
            writer.write_table(pa.table(dict(zip(names, columns, strict=True)), schema=schema))


def rows_of(run: Path, sizes: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Return a row for each table and split."""
    dataset = open_dataset(Run.load(run).data)
    requests, scored = folder / "requests.csv", folder / "scored.csv"
    work = [("predict", size, ["--input", str(requests), "--out", str(scored)]) for size in sizes]
    for split in SPLITS:
        if size := len(dataset.splits[split].label):
            work.append(("evaluate", size, ["--split", split]))
    rows = []
    for system, size, flags in work:
        if system == "predict":
            write_requests(requests, dataset, size)
        command = [sys.executable, "-m", f"dien_jax.{system}", str(run), *flags]
        found = measure(command, folder, scored)
        case = f"{size:,} rows" if system == "predict" else f"{size:,} examples, {flags[-1]}"
        columns = {"case": case, "system": system, "rows": size, **found}
        columns["samples_per_second"] = size / found["seconds"]
        rows.append(timed_row("scoring", [1e3 * found["seconds"]], **columns))
        print(f"{system}, {case} is done", file=sys.stderr, flush=True)
    return rows


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every table and split; print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="rows of a table")
    parser.add_argument("--folder", type=Path, help="folder for tables (default: a temporary one)")
    options = parse(parser, argv, rows=1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = rows_of(options.run, options.rows, Path(folder))
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
