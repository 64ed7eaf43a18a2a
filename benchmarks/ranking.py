"""Latency of ranking candidates for one user, compared with scoring each candidate as a row.

    python -m benchmarks.ranking [--preset NAME] [--run DIR] [--json FILE]

A case is a number of candidates and a history length. ``ranker`` gets the history with the
request, ``remembered`` has encoded it before, and ``rows`` scores each candidate with a copy of the
history, in batches no larger than an evaluation's. Their scores must agree. They take turns, so
that a disturbance of the machine slows all of them. Without ``--run``, parameters are random and
there are ``--items`` items. Cold start is the time of a new process until its first score, with an
empty and with a full compile cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common.cases import CATEGORIES, ITEMS, schema_of
from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import interleaved_milliseconds, timed_row
from dien_jax.config.presets import PRESETS, preset
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import BUCKETS
from dien_jax.data.tables import example_batch
from dien_jax.inference.bucketed_programs import CANDIDATE_BUCKETS
from dien_jax.inference.ranker import Ranker
from dien_jax.preparation.writer import DatasetWriter
from dien_jax.runs.calibration import OFFSETS_FILE
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, Run
from dien_jax.runs.trained import load_run
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import create_state, feature_tables

CANDIDATES = (1, 50, 500, 2000)
HISTORIES = (10, 50, 100)
COLUMNS = ("candidates", "history", "policy", "median_ms", "p99_ms", "min_ms", "times_as_fast")
TOLERANCE = 1e-5
"""Largest allowed difference of probabilities."""

FIRST_SCORE = """
import sys
from dien_jax import Ranker
items = sys.argv[2].split()
context = dict.fromkeys(sys.argv[3].split())
print(Ranker(sys.argv[1]).rank(items, items, request_features=context).scores[0])
"""


def random_run(folder: Path, name: str, items: int = ITEMS) -> Path:
    """Write a run folder with random parameters, and its dataset."""
    schema = schema_of(items, users=2)
    data, run, config = folder / "data", folder / "run", preset(name)
    with DatasetWriter(data, schema=schema, source={"name": "random"}, split={}) as writer:
        writer.vocabulary("item", ["", *(f"i{row}" for row in range(1, items))])
        writer.vocabulary("category", [str(row) for row in range(CATEGORIES)])
        writer.vocabulary("user", ["", "u"])
        writer.items("category", np.random.default_rng(0).integers(0, CATEGORIES, items))
        writer.groups(["u"])
        writer.events(item=[1], timestamp=[1], offsets=[0, 1])
        writer.popularity(np.ones(items, np.int64))
    dataset = open_dataset(data)
    Run.create(preset=name, seed=0, dataset=dataset, config=config).save(run)
    state = create_state(config, schema, 1, seed=0)
    saved = OneDevice(schema).to_save(state)
    Checkpoints(run / CHECKPOINTS_FOLDER).save(1, saved, {}, best=True)
    np.save(run / OFFSETS_FILE, np.zeros(items, np.float32))
    return run


class Ranked:
    """One run, and the ways to rank with it."""

    def __init__(self, run: Path) -> None:
        trained = load_run(run)
        self.config, self.schema = trained.run.config, trained.dataset.schema
        self.ranker = Ranker(run)
        self.items = trained.dataset.vocabulary("item")
        self.context = dict.fromkeys(feature.name for feature in self.schema.request)
        self._step = make_predict_step(self.config, self.schema)
        tables = feature_tables(trained.dataset, trained.run.config.model)
        self._model: Any = jax.device_put((trained.params, trained.batch_stats, tables))

    def calls(self, candidates: int, history: int) -> dict[str, Callable[[], np.ndarray]]:
        """Return functions that score the same candidates, each float32 ``[candidates]``."""
        rng = np.random.default_rng(candidates + history)
        items = rng.integers(1, len(self.items), candidates, dtype=np.int32)
        events = rng.integers(1, len(self.items), history, dtype=np.int32)
        raw, past = [self.items[row] for row in items], [self.items[row] for row in events]
        place = {item: row for row, item in enumerate(raw)}
        self.ranker.remember("remembered", past)

        def ranked(read: list[str] | None) -> np.ndarray:
            user = "remembered" if read is None else None
            ranking = self.ranker.rank(read, raw, user, self.context)
            scores = np.empty(candidates, np.float32)
            scores[[place[item] for item in ranking.ids]] = ranking.scores
            return scores[[place[item] for item in raw]]

        return {
            "rows": lambda: self._rows(items, events),
            "ranker": lambda: ranked(past),
            "remembered": lambda: ranked(None),
        }

    def _rows(self, items: np.ndarray, events: np.ndarray) -> np.ndarray:
        train = self.config.train
        edges = [*(edge for edge in BUCKETS if edge < train.max_history), train.max_history]
        kept = events[-train.max_history :]
        steps = next(edge for edge in edges if edge >= len(kept))
        size = next(size for size in (*CANDIDATE_BUCKETS, len(items)) if size >= len(items))
        size = min(size, train.batch_size)
        blank = example_batch(self.schema, batch_size=size, steps=steps)
        history = np.zeros((size, steps), np.int32)
        history[:, : len(kept)] = kept
        params, batch_stats, tables = self._model
        turns = []
        for start in range(0, len(items), size):
            part = items[start : start + size]
            item, weight = np.zeros(size, np.int32), np.zeros(size, np.float32)
            item[: len(part)], weight[: len(part)] = part, 1
            lengths = np.full(size, len(kept), np.int32)
            batch = blank._replace(history=history, lengths=lengths, item=item, weight=weight)
            turns.append(self._step(params, batch_stats, tables, batch))
        return np.concatenate(jax.device_get(turns))[: len(items)]


def measure(ranked: Ranked, candidates: int, history: int, *, repeats: int) -> list[dict]:
    """Return the rows of one case; exit if the scores differ."""
    calls = ranked.calls(candidates, history)
    expected = calls["rows"]()
    for name, call in calls.items():
        deviation = float(np.abs(call() - expected).max())
        if not deviation < TOLERANCE:
            raise SystemExit(f"{candidates}, {history}, {name}: scores differ by {deviation}")
    times = interleaved_milliseconds(calls, repeats=repeats)
    shared = {"case": f"N {candidates} T {history}", "candidates": candidates, "history": history}
    return [row(taken, times["rows"], policy=name, **shared) for name, taken in times.items()]


def row(times: list[float], of_rows: list[float], **columns: Any) -> dict[str, Any]:
    """Return the row of a policy; ``of_rows`` are the times of scoring each candidate as a row."""
    return timed_row(
        "ranking",
        times,
        **columns,
        p99_ms=float(np.percentile(times, 99)),
        min_ms=min(times),
        times_as_fast=statistics.median(of_rows) / statistics.median(times),
    )


def cold_start(run: Path, ranked: Ranked, cache: Path) -> list[dict]:
    """Time a new process until its first score, twice; the second reuses compiled programs."""
    items, names = " ".join(ranked.items[1:9]), " ".join(ranked.context)
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    rows = []
    for policy in ("cold start", "cold start, programs kept"):
        start = time.perf_counter()
        command = [sys.executable, "-c", FIRST_SCORE, str(run), items, names]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        passed = 1e3 * (time.perf_counter() - start)
        rows.append(row([passed], [passed], case=policy, policy=policy, candidates=8, history=8))
    return rows


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument("--run", type=Path, help="run folder to rank with instead of --preset")
    parser.add_argument("--candidates", type=int, nargs="+", default=CANDIDATES)
    parser.add_argument("--histories", type=int, nargs="+", default=HISTORIES)
    parser.add_argument("--repeats", type=int, default=100, help="timed rounds of each case")
    parser.add_argument("--items", type=int, default=ITEMS, help="number of items without --run")
    options = parse(parser, argv, repeats=2, candidates=1, histories=0, items=2)
    with tempfile.TemporaryDirectory(prefix="dien_jax-ranking-") as folder:
        run = options.run or random_run(Path(folder), options.preset, options.items)
        ranked = Ranked(run)
        rows = cold_start(run, ranked, Path(folder) / "compiled")
        for history in options.histories:
            for candidates in options.candidates:
                rows += measure(ranked, candidates, history, repeats=options.repeats)
                print(f"{rows[-1]['case']} is done", file=sys.stderr, flush=True)
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
