"""Time of the AUGRU, forward and backward, against how much of a batch is live.

    python -m benchmarks.ragged [--data DIR] [--json FILE] [--plot FILE.png]

Histories are gathered by length bucket, as the loader gathers them, and one batch of each bucket
runs twice: padded to the full length, and cut to its bucket. Lengths are those of a dataset
folder's training examples, or made ones (``benchmarks.common.cases.history_lengths``). Where the
time of the padded batch is near that of the cut one, the implementation stops at the live steps.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from dien_kernels import explain
from dien_kernels.api import Precision
from dien_kernels.choice import Implementation

from benchmarks.common import plots
from benchmarks.common.cases import Case, history_lengths
from benchmarks.common.timing import (
    interleaved_milliseconds,
    print_rows,
    quartile_spread,
    surroundings,
    write_rows,
)
from benchmarks.recurrence import MODES, computation, deviation, operands, too_far
from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError

CASE = Case(128, 100, 36)
MADE = 40_000
"""Made histories, of which batches are gathered."""
COLUMNS = (
    "bucket", "live_steps", "longest", "padded_to", "implementation", "median_ms", "spread_ms",
    "us_per_live_step", "max_error",
)  # fmt: skip


def training_lengths(folder: Path, longest: int) -> np.ndarray:
    """Lengths of the histories of a dataset folder's training examples, int32 ``[n]``."""
    dataset = open_dataset(folder)
    examples = dataset.splits["train"]
    starts = np.asarray(dataset.event_offsets)[examples.sequence]
    return np.minimum(examples.history_end - starts, longest).astype(np.int32)


def batches(lengths: np.ndarray, buckets: Sequence[int], case: Case) -> dict[int, np.ndarray]:
    """One batch of lengths, int32 ``[B]``, by the bucket that it is cut to.

    The middle one of a bucket's batches, from an order drawn with a fixed seed; buckets that do
    not fill a batch have none.
    """
    edges = np.array([*(edge for edge in buckets if edge < case.steps), case.steps])
    shuffled = np.random.default_rng(0).permutation(lengths)
    bucket = np.searchsorted(edges, shuffled)
    found = {}
    for number, edge in enumerate(edges.tolist()):
        inside = shuffled[bucket == number]
        if whole := len(inside) // case.batch:
            start = whole // 2 * case.batch
            found[edge] = inside[start : start + case.batch]
    return found


def measure(
    name: str,
    by_bucket: dict[int, np.ndarray],
    case: Case,
    *,
    implementation: str,
    precision: Precision,
    repeats: int,
) -> list[dict[str, Any]]:
    """Two rows a bucket, padded and cut; all take turns."""
    x, attention, weights, _ = operands("augru", case)
    run = computation("augru", implementation, gradients=True, precision=precision)
    oracle = computation("augru", "reference", gradients=True)
    calls, rows, keys = {}, [], []
    for bucket, lengths in by_bucket.items():
        for padded_to in dict.fromkeys((case.steps, bucket)):
            given = (x[:, :padded_to], attention[:, :padded_to], weights, jnp.asarray(lengths))
            keys.append(f"{bucket} {padded_to}")
            calls[keys[-1]] = lambda given=given: run(*given)
            rows.append(
                {
                    "benchmark": "ragged",
                    "case": name,
                    "implementation": _chosen(implementation, case, padded_to, precision),
                    "cell": "augru",
                    "form": "paper",
                    "mode": MODES[1],
                    "precision": precision,
                    "bucket": bucket,
                    "padded_to": padded_to,
                    "live_steps": int(lengths.sum()),
                    "longest": int(lengths.max()),
                    "max_error": deviation(run(*given), oracle(*given)),
                    **surroundings(),
                }
            )
    times = interleaved_milliseconds(calls, repeats=repeats)
    for key, row in zip(keys, rows, strict=True):
        row["median_ms"] = statistics.median(times[key])
        row["spread_ms"] = quartile_spread(times[key])
        row["us_per_live_step"] = 1e3 * row["median_ms"] / max(row["live_steps"], 1)
    return rows


def _chosen(implementation: str, case: Case, steps: int, precision: Precision) -> str:
    if implementation != "auto":
        return implementation
    choice = explain(
        "augru", batch=case.batch, steps=steps, hidden=case.hidden, precision=precision
    )
    return choice.implementation


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="dataset folder whose lengths are taken")
    parser.add_argument("--implementation", default="auto", choices=get_args(Implementation))
    parser.add_argument("--precision", default="highest", choices=get_args(Precision))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="draw them here, a .png")
    options = parser.parse_args(arguments)
    if options.repeats < 2:
        parser.error("--repeats must be at least 2, for the spread")
    if options.plot:
        plots.require()
    if options.data:
        try:
            lengths = training_lengths(options.data, CASE.steps)
        except UserError as error:
            raise SystemExit(str(error)) from error
    else:
        lengths = history_lengths(MADE, CASE.steps)
    by_bucket = batches(lengths, TrainConfig().buckets, CASE)
    if not by_bucket:
        parser.error(f"{options.data}: no bucket has {CASE.batch} training examples")
    rows = measure(
        options.data.name if options.data else "made lengths",
        by_bucket,
        CASE,
        implementation=options.implementation,
        precision=options.precision,
        repeats=options.repeats,
    )
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['threads']} threads, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")
    if options.plot:
        _draw(options.plot, rows)
        print(f"drawn to {options.plot}")
    if failures := too_far(rows):
        raise SystemExit("\n".join(failures))


def _draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    groups: dict[str, dict[str, float]] = {}
    full = max(row["padded_to"] for row in rows)
    for row in rows:
        group = groups.setdefault(f"up to {row['bucket']}\n{row['live_steps']:,} live steps", {})
        is_full = row["padded_to"] == full
        group[f"padded to {full}" if is_full else "cut to the bucket"] = row["median_ms"]
    one = rows[0]
    panel = f"{one['case']}: batches of {CASE.batch}, H {CASE.hidden}, AUGRU {one['mode']}"
    where = f"{one['implementation']}, precision {one['precision']}, {one['device']}"
    plots.grouped_bars(file, {panel: groups}, f"{where}, {one['threads']} threads")


if __name__ == "__main__":
    main()
