"""Training on what is new, week after week, beside training anew and never training again.

    python -m benchmarks.incremental LOG --out OUT --from 2013-03-01 [--periods N] [--days D]

LOG has the columns user, item, category and timestamp (real times). Before day d everything is cut
into periods of D days; the last one validates, and what is before trains:

    never updated   one model, trained on everything before the first day, with ids of then
    warm start      that model, trained on in each period on what is new in it: ``prepare
                    interactions --extend --train-from`` and ``train --warm-start``
    from scratch    trained anew on everything

All are tested on the D days from d on, which no training or history of an earlier day holds, on
the same positives and negatives. A killed command goes on where it was: what is done lies in OUT.
"""

import argparse
import contextlib
import csv
import dataclasses
import gzip
import math
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import plots
from benchmarks.common.timing import print_rows, surroundings, write_rows
from benchmarks.quality import finished
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.metrics.intervals import delong
from dien_jax.preparation.sources import interactions
from dien_jax.runs.scoring import evaluation_loader, measure, score_batches
from dien_jax.runs.trained import load_run
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import device_tables
from dien_jax.training.warm_start import NEW, trained_rows
from dien_jax.utils.compile_cache import enable_compile_cache
from dien_jax.utils.files import atomic_path

SETTINGS = ("--train.max-history=64", "--train.buckets=16")
"""Of every run: two lengths, so that little of the time goes into compiling."""
NEVER, WARM, SCRATCH = "never updated", "warm start", "from scratch"
COLUMNS = (
    "policy", "day", "auc", "gauc", "logloss", "test_examples", "unknown_items",
    "train_examples", "epochs", "train_seconds", "wall_seconds",
)  # fmt: skip
PATTERN = "%Y-%m-%d"


class Period(NamedTuple):
    """One period and what lies before it.

    Attributes:
      number: from 0.
      day: when the test starts; validation starts ``days`` before.
      days: how long the test, the validation and a period are.
    """

    number: int
    day: datetime
    days: int

    def before(self, periods: int) -> str:
        """So many periods before the test starts, as flags have it."""
        return (self.day - timedelta(days=periods * self.days)).strftime(PATTERN)

    @property
    def end(self) -> datetime:
        """When the test ends."""
        return self.day + timedelta(days=self.days)


def cut(log: Path, out: Path, end: datetime) -> Path:
    """The events of a log before a time, as CSV."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        opened = gzip.open if log.suffix == ".gz" else open
        with (
            opened(log, "rt", encoding="utf-8", newline="") as source,
            atomic_path(out) as partial,
            partial.open("w", encoding="utf-8", newline="") as target,
        ):
            rows = csv.DictReader(source)
            writer = csv.DictWriter(target, rows.fieldnames or (), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["timestamp"]) < end.timestamp())
    return out


def prepared(log: Path, out: Path, period: Period, extend: Path | None) -> Path:
    """The dataset folder of a period: all of the log, or what is new since the one it extends."""
    if not out.exists():
        interactions.prepare(
            interactions.InteractionsOptions(
                file=cut(log, out.parent.parent / "logs" / f"{period.number}.csv", period.end),
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


def trained(data: Path, run: Path, warm_start: Path | None = None) -> dict[str, Any]:
    """The result of a run, which is trained unless it is there."""
    flags = list(SETTINGS)
    if warm_start is not None:
        flags += ["--warm-start", str(warm_start)]
    with contextlib.redirect_stdout(sys.stderr):
        return finished("dien", data, run, 0, flags)


def in_terms_of(dataset: Dataset, known: Dataset) -> Dataset:
    """The test split with the ids of another folder: what that lacks is unknown.

    Neither may have context features.
    """
    rows = {}
    for name in ("item", "user"):
        found = trained_rows(known.vocabulary(name), dataset.vocabulary(name))
        rows[name] = np.where(found == NEW, UNKNOWN, found).astype(np.int32)
    test = dataset.splits["test"]
    mapped = test._replace(item=rows["item"][test.item], user=rows["user"][test.user])
    return dataclasses.replace(
        known,
        path=dataset.path,
        event_item=rows["item"][dataset.event_item],
        event_timestamp=dataset.event_timestamp,
        event_offsets=dataset.event_offsets,
        splits={"test": mapped},
        event_negatives=None,
    )


def scores(run: Path, dataset: Dataset) -> tuple[np.ndarray, int]:
    """What a run gives the test split, and how many candidates are unknown to it."""
    model = load_run(run)
    config, schema = model.run.config, model.dataset.schema
    test = in_terms_of(dataset, model.dataset)
    found = score_batches(
        make_predict_step(config, schema),
        model.params,
        model.batch_stats,
        device_tables(test, config),
        evaluation_loader(test, "test", config),
    )
    return found, int(np.count_nonzero(test.splits["test"].item == UNKNOWN))


def row(
    policy: str, period: Period, run: Path, dataset: Dataset, result: dict[str, Any] | None
) -> tuple[dict[str, Any], np.ndarray]:
    """One model on one test split; ``result`` tells of the training that the period took."""
    found, unknown = scores(run, dataset)
    metrics = measure(dataset, "test", found)
    trained_on, seconds = 0, None
    if result is not None:
        data = open_dataset(result["data"])
        trained_on = len(data.splits["train"].label)
        speed = result["train_examples_per_second"]
        seconds = trained_on * result["epochs"] / speed if speed else None
    return {
        "benchmark": "incremental",
        "case": f"{period.days} days from {period.before(0)}",
        "system": "dien_jax",
        "policy": policy,
        "day": period.before(0),
        "days": period.days,
        "auc": metrics["auc"],
        "gauc": metrics["gauc"],
        "logloss": metrics["logloss"],
        "test_examples": metrics["examples"],
        "unknown_items": unknown,
        "train_examples": trained_on,
        "epochs": 0.0 if result is None else result["epochs"],
        "train_seconds": seconds,
        "wall_seconds": 0.0 if result is None else result["wall_seconds"],
        **surroundings(),
    }, found


def differences(
    found: Sequence[tuple[Dataset, dict[str, np.ndarray]]],
) -> list[dict[str, Any]]:
    """Warm start against the others: mean of the AUC's differences over periods.

    Periods are independent, the models of one are not: variances are DeLong's within a period.
    """
    rows = []
    for other in (NEVER, SCRATCH):
        each = [
            delong(np.asarray(data.splits["test"].label), of_policy[WARM], of_policy[other])
            for data, of_policy in found
            if {WARM, other} <= set(of_policy)
        ]
        known = [difference for difference in each if difference is not None]
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
    """Trains what is missing; a row for each model and period, then the differences."""
    out = options.out
    rows: list[dict[str, Any]] = []
    found: list[tuple[Dataset, dict[str, np.ndarray]]] = []
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
        models: dict[str, tuple[Path, dict[str, Any] | None]] = {
            NEVER: (base, None if number else result)
        }
        if number:
            models[WARM] = run, result
        if number and number % options.scratch_every == 0:
            whole = prepared(options.log, out / "whole" / str(number), period, None)
            anew = out / "runs" / f"{SCRATCH} {number}".replace(" ", "-")
            models[SCRATCH] = anew, trained(whole, anew)
        dataset, of_policy = open_dataset(data), {}
        for policy, (folder, told) in models.items():
            line, of_policy[policy] = row(policy, period, folder, dataset, told)
            rows.append(line)
        found.append((dataset, of_policy))
    return [*rows, *differences(found)]


def draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """AUC and seconds of training by period."""
    panels: plots.Curves = {"test AUC": {}, "seconds of training": {}}
    first = datetime.strptime(rows[0]["day"], PATTERN)
    for policy in (NEVER, WARM, SCRATCH):
        points = [r for r in rows if r.get("policy") == policy]
        days = [(datetime.strptime(r["day"], PATTERN) - first).days for r in points]
        panels["test AUC"][policy] = days, [r["auc"] for r in points]
        if policy != NEVER:
            panels["seconds of training"][policy] = days, [r["wall_seconds"] for r in points]
    plots.curves(
        file,
        panels,
        x=f"days after {rows[0]['day']}",
        title="Updated, trained anew, left alone",
        logarithmic=False,
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("log", type=Path, help="CSV of user, item, category, timestamp (seconds)")
    parser.add_argument("--out", type=Path, required=True, help="dataset and run folders")
    parser.add_argument(
        "--from", dest="day", required=True, help="first day of the first test, as 2013-03-01"
    )
    parser.add_argument("--days", type=int, default=7, help="days of a period and of a test")
    parser.add_argument("--periods", type=int, default=8, help="updates")
    parser.add_argument(
        "--scratch-every", type=int, default=1, help="periods between trainings from scratch"
    )
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="draw AUC and seconds to this PNG")
    options = parser.parse_args(arguments)
    try:
        options.day = datetime.strptime(options.day, PATTERN).replace(tzinfo=UTC)
    except ValueError:
        parser.error(f"--from must be a day such as 2013-03-01, got {options.day!r}")
    for name in ("days", "periods", "scratch_every"):
        value = getattr(options, name)
        if value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not options.log.is_file():
        parser.error(f"{options.log} is not a file")
    if options.plot:
        plots.require()
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, print the tables, write what was asked for."""
    options = parsed(arguments)
    enable_compile_cache()
    rows = measured(options)
    models = [r for r in rows if "policy" in r]
    print_rows(models, COLUMNS)
    print()
    print_rows([r for r in rows if "policy" not in r], ("case", "periods", "auc", "standard_error"))
    print(f"\n{rows[0]['device']}, {rows[0]['threads']} threads, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")
    if options.plot:
        draw(options.plot, models)
        print(f"drawn to {options.plot}")


if __name__ == "__main__":
    main()
