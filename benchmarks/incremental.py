"""Accuracy and time of weekly updates, compared with training from scratch and with no updates.

    python -m benchmarks.incremental LOG --out OUT --from 2013-03-01 [--periods N] [--days D]

LOG has the columns user, item, category and timestamp (real times). Events before day d are divided
into periods of D days. Each model validates on the last period and trains on earlier ones:

    never updated   one model, trained on all events before the first day, with the ids of that day
    warm start      the same model, trained further on the new events of each period: ``prepare
                    interactions --extend --train-from`` and ``train --warm-start``
    from scratch    a new model in each period, trained on all events

All models are tested on the same positives and negatives, those of the D days from d on, which no
training data or earlier history contains. OUT keeps finished runs: repeat a killed command to
resume it.
"""

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np

from benchmarks.common.report import make_parser, one_line_errors, parse, print_rows, report
from benchmarks.common.timing import surroundings
from dien_jax.config.presets import preset, with_settings
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError
from dien_jax.metrics.intervals import delong
from dien_jax.preparation.sources import interactions
from dien_jax.runs.folder import CONFIG_FILE
from dien_jax.runs.trained import load_run, score_split
from dien_jax.training.run import RunResult, fit, resume
from dien_jax.training.warm_start import NEW, trained_rows
from dien_jax.utils.files import atomic_path
from dien_jax.utils.machine import enable_compile_cache

SETTINGS: dict[str, Any] = {"train.max_history": 64, "train.buckets": [16]}
"""Settings of every run: two history lengths, so that little time goes to compilation."""
NEVER, WARM, SCRATCH = "never updated", "warm start", "from scratch"
COLUMNS = (
    "policy", "day", "auc", "logloss", "test_examples", "unknown_items", "item_rows", "user_rows",
    "train_examples", "wall_seconds",
)  # fmt: skip
PATTERN = "%Y-%m-%d"


class Period(NamedTuple):
    """One period; its test starts at ``day`` and, like its validation split, has ``days`` days."""

    number: int
    day: datetime
    days: int

    def before(self, periods: int) -> str:
        """Return the day that is some periods before the start of the test, formatted for flags."""
        return (self.day - timedelta(days=periods * self.days)).strftime(PATTERN)


def cut(log: Path, out: Path, end: datetime) -> Path:
    """Write the events before a time as CSV."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        events = duckdb.read_csv(str(log), all_varchar=True)
        try:
            with atomic_path(out) as partial:
                events.filter(f"timestamp::BIGINT < {end.timestamp():.0f}").write_csv(str(partial))
        except duckdb.Error as error:
            raise UserError(f"{log}: expected a column timestamp in seconds; {error}") from error
    return out


def prepared(log: Path, out: Path, period: Period, extend: Path | None) -> Path:
    """Prepare the whole log up to a period, or only the events that ``extend`` lacks."""
    if not out.exists():
        test_end = period.day + timedelta(days=period.days)
        interactions.prepare(
            interactions.InteractionsOptions(
                file=cut(log, out.parents[1] / "logs" / f"{period.number}.csv", test_end),
                out=out,
                item_features=("category",),
                split="by-time",
                train_from=None if extend is None else period.before(2),
                valid_from=period.before(1),
                test_from=period.before(0),
                extend=extend,
            )
        )
    return out


def trained(data: Path, run: Path, warm_start: Path | None = None) -> RunResult:
    """Train or resume a run, and return its result."""
    if (run / CONFIG_FILE).exists():
        return resume(run)
    config = with_settings(preset("wide_dien"), SETTINGS)
    return fit(config, data=data, run_dir=run, warm_start=warm_start)


def in_terms_of(dataset: Dataset, known: Dataset) -> Dataset:
    """Return the test split with the ids of another folder; values that it lacks are unknown.

    Neither folder may have request features.
    """
    rows = {}
    for name in ("item", "user"):
        known_rows = trained_rows(known.vocabulary(name), dataset.vocabulary(name))
        rows[name] = np.where(known_rows == NEW, UNKNOWN, known_rows).astype(np.int32)
    test = dataset.splits["test"]
    mapped = test._replace(
        item=rows["item"][np.asarray(test.item)], user=rows["user"][np.asarray(test.user)]
    )
    return dataclasses.replace(
        known,
        path=dataset.path,
        event_item=rows["item"][np.asarray(dataset.event_item)],
        event_timestamp=dataset.event_timestamp,
        event_offsets=dataset.event_offsets,
        splits={"test": mapped},
    )


def row(
    policy: str, period: Period, run: Path, dataset: Dataset, result: RunResult | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the row and scores of a model; ``result`` is None if the period did not train it."""
    model = load_run(run)
    test = in_terms_of(dataset, model.dataset)
    scored = score_split(model._replace(dataset=test, calibration=None), "test")
    predictions, metrics = scored.scores, scored.metrics()
    trained_on = 0
    if result is not None:
        trained_on = len(open_dataset(Path(result.data)).splits["train"].label)
    return {
        "benchmark": "incremental",
        "case": f"{period.days} days from {period.before(0)}",
        "policy": policy,
        "day": period.before(0),
        **{name: metrics[name] for name in ("auc", "logloss")},
        "test_examples": metrics["examples"],
        "unknown_items": int(np.count_nonzero(test.splits["test"].item == UNKNOWN)),
        "item_rows": model.dataset.schema.num_items,
        "user_rows": model.dataset.schema.num_users,
        "train_examples": trained_on,
        "wall_seconds": 0.0 if result is None else result.wall_seconds,
        **surroundings(),
    }, predictions


def differences(
    periods: Sequence[tuple[Dataset, dict[str, np.ndarray]]], others: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the mean AUC difference between warm start and each other policy over periods.

    Models of one period share a test split, so its variance is DeLong's. Periods are independent.
    """
    rows = []
    for other in others:
        compared = [
            delong(np.asarray(data.splits["test"].label), of_policy[WARM], of_policy[other])
            for data, of_policy in periods
            if {WARM, other} <= set(of_policy)
        ]
        known = [difference for difference in compared if difference is not None]
        if known:
            variance = sum(difference.standard_error**2 for difference in known)
            rows.append(
                {
                    "benchmark": "incremental",
                    "case": f"{WARM} less {other}",
                    "periods": len(known),
                    "auc": statistics.mean(difference.value for difference in known),
                    "standard_error": math.sqrt(variance) / len(known),
                    **surroundings(),
                }
            )
    return rows


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train missing runs; return a row for each model and period, followed by differences."""
    out = options.out
    rows: list[dict[str, Any]] = []
    periods: list[tuple[Dataset, dict[str, np.ndarray]]] = []
    data: Path | None = None
    run: Path | None = None
    base: Path | None = None
    for number in range(options.periods + 1):
        day = options.day + timedelta(days=number * options.days)
        period = Period(number, day, options.days)
        print(f"period {number} of {options.periods}: {period.before(0)}", file=sys.stderr)
        data = prepared(options.log, out / "new" / str(number), period, data)
        before, run = run, out / "runs" / f"{WARM} {number}".replace(" ", "-")
        result = trained(data, run, before)
        base = base or run
        models: dict[str, tuple[Path, RunResult | None]] = {
            NEVER: (base, None if number else result)
        }
        if number:
            models[WARM] = run, result
        if number and options.scratch_every and number % options.scratch_every == 0:
            whole = prepared(options.log, out / "whole" / str(number), period, None)
            scratch = out / "runs" / f"{SCRATCH} {number}".replace(" ", "-")
            models[SCRATCH] = scratch, trained(whole, scratch)
        dataset, of_policy = open_dataset(data), {}
        for policy, (folder, training) in models.items():
            line, of_policy[policy] = row(policy, period, folder, dataset, training)
            rows.append(line)
        periods.append((dataset, of_policy))
    return [*rows, *differences(periods, (NEVER, SCRATCH))]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = make_parser(__doc__)
    parser.add_argument("log", type=Path, help="CSV of user, item, category, timestamp (seconds)")
    parser.add_argument("--out", type=Path, required=True, help="dataset and run folders")
    parser.add_argument(
        "--from", dest="day", required=True, help="first day of the first test, e.g. 2013-03-01"
    )
    parser.add_argument("--days", type=int, default=7, help="days of a period and of a test")
    parser.add_argument("--periods", type=int, default=8, help="updates")
    often = "periods between trainings from scratch; 0 for none"
    parser.add_argument("--scratch-every", type=int, default=1, help=often)
    options = parse(parser, arguments, days=1, periods=1, scratch_every=0)
    try:
        options.day = datetime.strptime(options.day, PATTERN).replace(tzinfo=UTC)
    except ValueError:
        parser.error(f"--from must be a day such as 2013-03-01, got {options.day!r}")
    if not options.log.is_file():
        parser.error(f"{options.log} is not a file")
    return options


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    """Train missing runs, and print the tables."""
    options = parsed(arguments)
    enable_compile_cache()
    rows = measured(options)
    compared = [row for row in rows if "policy" not in row]
    print_rows([row for row in rows if "policy" in row], COLUMNS)
    print()
    print_rows(compared, ("case", "periods", "auc", "standard_error"))
    report(options, rows, ())


if __name__ == "__main__":
    main()
