"""The train step on ever larger item tables: what each update of embeddings costs.

    python -m benchmarks.embedding_rows [--rows N ...] [--steps T ...] [--json FILE] [--plot FILE]

Batch 128, histories T long, embeddings of 18; items of a batch are drawn uniformly, the worst case
for lazy updates: hardly a row is looked up twice, and none is in a cache.
"""

import argparse
import gc
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import plots
from benchmarks.common.timing import (
    interleaved_milliseconds,
    print_rows,
    quartile_spread,
    surroundings,
    write_rows,
)
from benchmarks.train_step import CATEGORIES, USERS
from dien_jax.config.preset_files import with_settings
from dien_jax.config.settings import Config, OptimConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, FeatureTables, Schema
from dien_jax.steps.negatives import Sampler
from dien_jax.steps.state import Tables, TrainState, create_state
from dien_jax.steps.train import make_train_step

ROWS, STEPS = (10**4, 10**6, 10**7), (100, 16)
UPDATES: tuple[str, ...] = get_args(get_type_hints(OptimConfig)["embedding_update"])
STEPS_A_TURN = 4
"""Steps timed together, so that most find in a cache what the step before left there."""
BATCHES = 8
COLUMNS = ("case", "policy", "threads", "median_ms", "spread_ms", "of_smallest", "peak_mb")


class Training:
    """A state on a table of items, and what trains it."""

    def __init__(self, config: Config, items: int) -> None:
        schema = Schema(
            item=(
                Feature("item", "categorical", items),
                Feature("category", "categorical", CATEGORIES),
            ),
            user=(Feature("user", "categorical", USERS),),
        )
        of_items = jnp.arange(items, dtype=jnp.int32)
        # Uniform auxiliary negatives: the alias table of a million items takes long to make.
        self.tables = Tables(
            FeatureTables({"category": of_items % CATEGORIES}, {}),
            Sampler(jnp.ones(items, jnp.float32), of_items),
        )
        self.items, self.batch_size = items, config.train.batch_size
        self.step = make_train_step(config, schema, 100)
        self.state: TrainState = create_state(config, schema, 100, seed=0)

    def batches(self, steps: int) -> list[Batch]:
        """Batches of histories ``steps`` long, each of other items and users."""
        rng, size = np.random.default_rng(0), self.batch_size

        def ids(rows: int, *shape: int) -> np.ndarray:
            return rng.integers(0, rows, shape, dtype=np.int32)

        return [
            Batch(
                history=ids(self.items, size, steps),
                lengths=np.full(size, steps, np.int32),
                item=ids(self.items, size),
                user=ids(USERS, size),
                label=ids(2, size).astype(np.float32),
                weight=np.ones(size, np.float32),
                context={},
            )
            for _ in range(BATCHES)
        ]

    def peak_megabytes(self, batch: Batch) -> float:
        """What a step holds at once by XLA's account: state, tables, batch and temporaries."""
        memory = (
            cast(Any, self.step).lower(self.state, self.tables, batch).compile().memory_analysis()
        )
        outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
        held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
        return held / 2**20

    def turn(self, steps: int) -> Callable[[], Any]:
        """A function that takes ``STEPS_A_TURN`` steps."""
        batches = itertools.cycle(self.batches(steps))

        def call() -> Any:
            for batch in itertools.islice(batches, STEPS_A_TURN):
                self.state, metrics = self.step(self.state, self.tables, batch)
            return self.state.step, metrics

        return call


def measure(
    config: Config, update: str, rows: Sequence[int], steps: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """A row for each number of steps and of rows; sizes take turns."""
    config = with_settings(config, {"optim.embedding_update": update})
    trainings = {items: Training(config, items) for items in rows}
    found = []
    for length in steps:
        calls = {str(items): training.turn(length) for items, training in trainings.items()}
        times = interleaved_milliseconds(calls, repeats=repeats)
        medians = {name: statistics.median(each) / STEPS_A_TURN for name, each in times.items()}
        for items, training in trainings.items():
            median = medians[str(items)]
            found.append(
                {
                    "benchmark": "embedding_rows",
                    "case": f"B {training.batch_size} T {length}, {items:,} rows",
                    "system": "dien_jax",
                    "policy": update,
                    "rows": items,
                    "steps": length,
                    "median_ms": median,
                    "spread_ms": quartile_spread(times[str(items)]) / STEPS_A_TURN,
                    "of_smallest": median / medians[str(min(rows))],
                    "samples_per_second": 1e3 * training.batch_size / median,
                    "peak_mb": training.peak_megabytes(training.batches(length)[0]),
                    **surroundings(),
                }
            )
    return found


def panels(rows: Sequence[dict[str, Any]]) -> plots.Curves:
    """The curves of a picture: a panel for each number of steps, a curve for each update."""
    found: plots.Curves = {}
    for steps in dict.fromkeys(row["steps"] for row in rows):
        of_steps = [row for row in rows if row["steps"] == steps]
        curves = found.setdefault(f"ms a step of {steps} behaviours", {})
        for update in dict.fromkeys(row["policy"] for row in of_steps):
            points = [row for row in of_steps if row["policy"] == update]
            curves[update] = [row["rows"] for row in points], [row["median_ms"] for row in points]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="sizes of the item table")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="lengths of histories")
    parser.add_argument("--updates", nargs="+", default=UPDATES, choices=UPDATES)
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="draw the curves to this PNG")
    options = parser.parse_args(arguments)
    for name in ("rows", "steps"):
        if min(getattr(options, name)) < 1:
            parser.error(f"--{name} must be at least 1, got {min(getattr(options, name))}")
    if options.repeats < 2:
        parser.error(f"--repeats must be at least 2, got {options.repeats}")
    if options.plot:
        plots.require()
    rows = []
    for update in options.updates:
        rows += measure(Config(), update, options.rows, options.steps, options.repeats)
        jax.clear_caches()
        gc.collect()  # the next one's tables take their place
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")
    if options.plot:
        plots.curves(
            options.plot,
            panels(rows),
            x="rows of the item table",
            title="Train step by rows of the item table",
        )
        print(f"drawn to {options.plot}")


if __name__ == "__main__":
    main()
