"""Throughput and communication of the train step on 1, 2, 4 and 8 devices.

    python -m benchmarks.scaling [--devices 1 2 4 8] [--json FILE]

Weak scaling has ``--batch`` examples on each device, strong scaling ``--total`` on all devices. A
separate process measures each number of devices. On a CPU, devices are virtual and share its cores,
so throughput cannot rise with their number. They show the overhead of dividing a step, and the
bytes that it sends.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.compiled_text import collectives
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import interleaved_milliseconds, timed_row
from benchmarks.common.training import made_batches, on_made_tables
from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Config

DEVICES = (1, 2, 4, 8)
COLUMNS = (
    "scaling", "devices", "virtual", "batch", "median_ms", "spread_ms", "samples_per_second",
    "of_one", "sent_kb", "further_rounds",
)  # fmt: skip


def row_of(options: Any, scaling: str, batch: int) -> dict[str, Any]:
    """Return the row of one global batch size on the devices of this process."""
    settings = {"optim.embedding_update": "lazy_adam", "train.batch_size": batch}
    training = on_made_tables(with_settings(Config(), settings), options.rows, options.of)
    batches = made_batches(training.place, batch, options.steps, options.rows)
    training.step = training.compiled(batches[0])
    sent = collectives(training.step.as_text(), options.of)
    rounds, turns = [], itertools.cycle(batches)

    def step() -> None:
        metrics = training.take(next(turns))
        rounds.append(float(metrics.get("further_rounds", 0)))

    times = interleaved_milliseconds({"step": step}, repeats=options.repeats)["step"]
    columns = {
        "scaling": scaling,
        "devices": options.of,
        "virtual": jax.devices()[0].platform == "cpu",
        "case": f"B {batch} T {options.steps}, {options.rows:,} rows",
        "batch": batch,
        "rows": options.rows,
        # Further rounds are a loop, and are not counted.
        "sent_kb": sum(one.sent for one in sent if not one.in_loop) / 1e3,
        "further_rounds": statistics.mean(rounds),
    }
    row = timed_row("scaling", times, **columns)
    return row | {"samples_per_second": 1e3 * batch / row["median_ms"]}


def in_own_process(devices: int, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Measure one number of devices in another process, and return its rows."""
    # The flag adds virtual devices on CPU only.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.scaling", *arguments, "--of", str(devices)]
    environment, root = os.environ | {"XLA_FLAGS": flags.strip()}, Path(__file__).parents[1]
    output = subprocess.check_output(command, env=environment, cwd=root, text=True)
    return json.loads(output.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES, help="how many")
    parser.add_argument("--batch", type=int, default=128, help="examples on each device (weak)")
    parser.add_argument("--total", type=int, default=1024, help="examples on all devices (strong)")
    parser.add_argument("--steps", type=int, default=100, help="length of histories")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the item table")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps")
    parser.add_argument("--of", type=int, help="print the rows of this number of devices as JSON")
    options = parse(parser, arguments, devices=1, batch=1, total=1, steps=2, rows=2, repeats=2)
    if options.of:
        sizes = {"weak": options.batch * options.of, "strong": options.total}
        print(json.dumps([row_of(options, name, size) for name, size in sizes.items()]))
        return
    if any(options.total % devices for devices in options.devices):
        parser.error(f"--total {options.total} is not a multiple of each of --devices")
    found = [row for devices in options.devices for row in in_own_process(devices, arguments)]
    rows = sorted(found, key=lambda row: (row["scaling"] != "weak", row["devices"]))
    for row in rows:
        first = next(one for one in rows if one["scaling"] == row["scaling"])
        row["of_one"] = row["samples_per_second"] / first["samples_per_second"]
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
