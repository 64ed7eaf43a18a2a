"""Time of the AUGRU, forward and backward, by the live steps of a batch.

    python -m benchmarks.ragged [--data DIR] [--json FILE] [--plot FILE.png]

Histories are grouped by length bucket, as the loader groups them, and one batch of each bucket runs
twice: padded to the full length, and cut to its bucket. Lengths are those of a dataset folder's
training examples, or drawn (``benchmarks.common.cases.history_lengths``). Where the padded batch
takes little longer than the cut one, the implementation stops at the live steps.
"""

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
from benchmarks.common.comparison import deviation
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import interleaved_milliseconds, quartile_spread, surroundings
from benchmarks.recurrence import MODES, computation, operands, too_far
from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError

CASE = Case(128, 100, 36)
DRAWN = 40_000
"""Drawn histories, from which batches are taken."""
COLUMNS = (
    "bucket", "live_steps", "longest", "padded_to", "implementation", "median_ms", "spread_ms",
    "us_per_live_step", "max_error",
)  # fmt: skip


def training_lengths(folder: Path, longest: int) -> np.ndarray:
    """Return the history lengths of a dataset folder's training examples, int32 ``[n]``."""
    dataset = open_dataset(folder)
    examples = dataset.splits["train"]
    starts = dataset.event_offsets[np.asarray(examples.sequence)]
    return np.minimum(np.asarray(examples.history_end) - starts, longest).astype(np.int32)


def batches(lengths: np.ndarray, buckets: Sequence[int], case: Case) -> dict[int, np.ndarray]:
    """Return one batch of lengths, int32 ``[B]``, for each bucket that fills a batch.

    It is the middle one of the bucket's batches, in an order drawn with a fixed seed.
    """
    edges = np.array([*(edge for edge in buckets if edge < case.steps), case.steps])
    shuffled = np.random.default_rng(0).permutation(lengths)
    bucket = np.searchsorted(edges, shuffled)
    by_bucket = {}
    for number, edge in enumerate(edges.tolist()):
        inside = shuffled[bucket == number]
        if whole := len(inside) // case.batch:
            start = whole // 2 * case.batch
            by_bucket[edge] = inside[start : start + case.batch]
    return by_bucket


def measure(
    name: str,
    by_bucket: dict[int, np.ndarray],
    case: Case,
    *,
    implementation: Implementation,
    precision: Precision,
    repeats: int,
) -> list[dict[str, Any]]:
    """Return two rows for each bucket, padded and cut; all take turns."""
    x, attention, weights, _ = operands("augru", case)
    run = computation("augru", implementation, gradients=True, precision=precision)
    oracle = computation("augru", "reference", gradients=True)
    calls, rows, keys = {}, [], []
    for bucket, lengths in by_bucket.items():
        for padded_to in dict.fromkeys((case.steps, bucket)):
            inputs = (x[:, :padded_to], attention[:, :padded_to], weights, jnp.asarray(lengths))
            keys.append(f"{bucket} {padded_to}")
            calls[keys[-1]] = lambda inputs=inputs: run(*inputs)
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
                    "max_error": deviation(run(*inputs), oracle(*inputs)),
                    **surroundings(),
                }
            )
    times = interleaved_milliseconds(calls, repeats=repeats)
    for key, row in zip(keys, rows, strict=True):
        row["median_ms"] = statistics.median(times[key])
        row["spread_ms"] = quartile_spread(times[key])
        row["us_per_live_step"] = 1e3 * row["median_ms"] / max(row["live_steps"], 1)
    return rows


def _chosen(
    implementation: Implementation, case: Case, steps: int, precision: Precision
) -> Implementation:
    if implementation != "auto":
        return implementation
    choice = explain(
        "augru", batch=case.batch, steps=steps, hidden=case.hidden, precision=precision
    )
    return choice.implementation


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write and draw the rows."""
    parser = make_parser(__doc__, plot="the rows")
    parser.add_argument("--data", type=Path, help="dataset folder with the lengths to measure")
    parser.add_argument("--implementation", default="auto", choices=get_args(Implementation))
    parser.add_argument("--precision", default="highest", choices=get_args(Precision))
    parser.add_argument("--repeats", type=int, default=30)
    options = parse(parser, arguments, repeats=2)
    if options.data:
        try:
            lengths = training_lengths(options.data, CASE.steps)
        except UserError as error:
            raise SystemExit(str(error)) from error
    else:
        lengths = history_lengths(DRAWN, CASE.steps)
    by_bucket = batches(lengths, TrainConfig().buckets, CASE)
    if not by_bucket:
        parser.error(f"{options.data}: no bucket has {CASE.batch} training examples")
    rows = measure(
        options.data.name if options.data else "drawn lengths",
        by_bucket,
        CASE,
        implementation=options.implementation,
        precision=options.precision,
        repeats=options.repeats,
    )
    report(options, rows, COLUMNS, draw)
    if failures := too_far(rows):
        raise SystemExit("\n".join(failures))


def draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw bars of each bucket, padded and cut."""
    groups: dict[str, dict[str, float]] = {}
    full = max(row["padded_to"] for row in rows)
    for row in rows:
        group = groups.setdefault(f"up to {row['bucket']}\n{row['live_steps']:,} live steps", {})
        is_full = row["padded_to"] == full
        group[f"padded to {full}" if is_full else "cut to the bucket"] = row["median_ms"]
    first = rows[0]
    panel = f"{first['case']}: batches of {CASE.batch}, H {CASE.hidden}, AUGRU {first['mode']}"
    where = f"{first['implementation']}, precision {first['precision']}, {first['device']}"
    plots.grouped_bars(file, {panel: groups}, f"{where}, {first['threads']} threads")


if __name__ == "__main__":
    main()
