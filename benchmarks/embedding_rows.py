"""Time of the train step by the number of items, for each kind of embedding update.

    python -m benchmarks.embedding_rows [--rows N ...] [--steps T ...] [--json FILE]

Batches of 128, histories of T events, embeddings of size 18. Items are drawn uniformly, the worst
case for lazy updates: few rows are looked up twice, and none is in a cache. Four steps are timed
together, sizes take turns, and ``of_smallest`` is the ratio to the smallest table. ``peak_mb`` is
the memory of the compiled step according to XLA: state, feature tables, batch and temporaries.
"""

import gc
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

import jax

from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import interleaved_milliseconds, timed_row
from benchmarks.common.training import Training, made_batches, on_made_tables
from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Config, OptimConfig
from dien_jax.data.tables import Batch

ROWS, STEPS = (10**4, 10**6, 10**7), (100, 16)
UPDATES: tuple[str, ...] = get_args(get_type_hints(OptimConfig)["embedding_update"])
STEPS_A_TURN = 4
"""Steps timed together, so that most run with caches warm from the step before."""
COLUMNS = ("case", "policy", "threads", "median_ms", "spread_ms", "of_smallest", "peak_mb")


def peak_megabytes(training: Training, batch: Batch) -> float:
    """Return XLA's figure for the memory of a step: state, tables, batch and temporaries."""
    memory = training.compiled(batch).memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs) / 2**20


def turn(training: Training, batches: list[Batch]) -> Callable[[], Any]:
    """Return a function that takes ``STEPS_A_TURN`` steps."""
    turns = itertools.cycle(batches)
    return lambda: [training.take(batch) for batch in itertools.islice(turns, STEPS_A_TURN)]


def measure(
    config: Config, update: str, rows: Sequence[int], steps: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Return a row for each number of steps and of rows; sizes take turns."""
    config = with_settings(config, {"optim.embedding_update": update})
    trainings = {items: on_made_tables(config, items) for items in rows}
    size = config.train.batch_size
    measured = []
    for length in steps:
        batches = {n: made_batches(one.place, size, length, n) for n, one in trainings.items()}
        calls = {str(n): turn(training, batches[n]) for n, training in trainings.items()}
        times = interleaved_milliseconds(calls, repeats=repeats)
        step_times = {name: [t / STEPS_A_TURN for t in turns] for name, turns in times.items()}
        smallest = statistics.median(step_times[str(min(rows))])
        for items, training in trainings.items():
            median = statistics.median(step_times[str(items)])
            columns = {
                "case": f"B {size} T {length}, {items:,} rows",
                "policy": update,
                "rows": items,
                "steps": length,
                "of_smallest": median / smallest,
                "samples_per_second": 1e3 * size / median,
                "peak_mb": peak_megabytes(training, batches[items][0]),
            }
            measured.append(timed_row("embedding_rows", step_times[str(items)], **columns))
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="sizes of the item table")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="lengths of histories")
    parser.add_argument("--updates", nargs="+", default=UPDATES, choices=UPDATES)
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds")
    options = parse(parser, arguments, rows=2, steps=1, repeats=2)
    rows = []
    for update in options.updates:
        rows += measure(Config(), update, options.rows, options.steps, options.repeats)
        jax.clear_caches()
        gc.collect()  # frees the tables before the next ones are made
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
