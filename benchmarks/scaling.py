"""Examples a second and bytes sent of the train step over 1, 2, 4 and 8 devices.

    python -m benchmarks.scaling [--devices 1 2 4 8] [--json FILE]

Weak scaling has ``--batch`` examples on each device, strong scaling has ``--total`` in all. Each
number of devices has a process of its own. Without as many accelerators the devices are virtual:
threads of one CPU, which share its cores, so that examples a second cannot rise with their number.
They show what dividing a step costs, and what it sends.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from benchmarks.common.cases import CATEGORIES, random_batch, schema_of, without_statistics
from benchmarks.common.compiled_text import collectives
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import interleaved_milliseconds, timed_row
from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Config
from dien_jax.data.tables import FeatureTables
from dien_jax.devices import Placement
from dien_jax.steps.negatives import Sampler, host_sampler
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables, TrainState, create_state
from dien_jax.steps.train import make_train_step

DEVICES = (1, 2, 4, 8)
BATCHES = 8
COLUMNS = (
    "scaling", "devices", "virtual", "batch", "median_ms", "spread_ms", "samples_per_second",
    "of_one", "sent_kb", "further_rounds",
)  # fmt: skip


class Training:
    """A training state on n devices, and its step."""

    def __init__(self, config: Config, items: int, devices: int, batch: int, steps: int) -> None:
        self.config = with_settings(without_statistics(config), {"train.batch_size": batch})
        schema, popularity = schema_of(items), np.ones(items, np.int64)
        category = np.arange(items, dtype=np.int32) % CATEGORIES
        self.devices = devices
        place = Placement(devices, schema) if devices > 1 else OneDevice(schema)
        self.state: TrainState = create_state(self.config, schema, 100, 0, place)
        rng = np.random.default_rng(0)
        batches = [random_batch(rng, batch, steps, items) for _ in range(BATCHES)]
        features: Any = FeatureTables({"category": category}, {})
        sampler = Sampler(*map(place.put_items, host_sampler(popularity, "uniform")))
        self.tables = Tables(place.put_features(features), sampler)
        self.batches = [place.put_batch(one) for one in batches]
        step = make_train_step(self.config, schema, 100, place)
        self.program = cast(Any, step).lower(self.state, self.tables, self.batches[0]).compile()
        self.taken, self.further_rounds = 0, 0.0

    def step(self) -> Any:
        """Take a step, on another batch than the last."""
        batch = self.batches[self.taken % BATCHES]
        self.state, metrics = self.program(self.state, self.tables, batch)
        self.taken += 1
        self.further_rounds += float(metrics.get("further_rounds", 0))
        return metrics

    def sent_bytes(self) -> float:
        """Return the bytes that a device sends in a step without further rounds."""
        found = collectives(self.program.as_text(), self.devices)
        return sum(one.sent for one in found if not one.in_loop)


def measure(options: Any) -> list[dict[str, Any]]:
    """Return the rows of one number of devices."""
    devices, rows = options.of, []
    for scaling, batch in (("weak", options.batch * devices), ("strong", options.total)):
        settings = {"optim.embedding_update": "lazy_adam"}
        config = with_settings(Config(), settings)
        training = Training(config, options.rows, devices, batch, options.steps)
        times = interleaved_milliseconds({"step": training.step}, repeats=options.repeats)["step"]
        columns = {
            "scaling": scaling,
            "devices": devices,
            "virtual": jax.devices()[0].platform == "cpu",
            "case": f"B {batch} T {options.steps}, {options.rows:,} rows",
            "batch": batch,
            "rows": options.rows,
            "sent_kb": training.sent_bytes() / 1e3,
            "further_rounds": training.further_rounds / training.taken,
        }
        row = timed_row("scaling", times, **columns)
        rows.append(row | {"samples_per_second": 1e3 * batch / row["median_ms"]})
    return rows


def in_own_process(devices: int, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of one number of devices, from another process."""
    # More devices than there are, for a CPU alone: accelerators are as many as there are.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.scaling", *arguments, "--of", str(devices)]
    done = subprocess.run(
        command,
        env=os.environ | {"XLA_FLAGS": flags.strip()},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES, help="how many")
    parser.add_argument("--batch", type=int, default=128, help="examples on each device, weak")
    parser.add_argument("--total", type=int, default=1024, help="examples in all, strong")
    parser.add_argument("--steps", type=int, default=100, help="length of histories")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the item table")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps")
    parser.add_argument("--of", type=int, help="print the rows of one number of devices as JSON")
    options = parse(parser, arguments, devices=1, batch=1, total=1, steps=2, rows=2, repeats=2)
    if options.of:
        print(json.dumps(measure(options)))
        return
    found = [row for devices in options.devices for row in in_own_process(devices, arguments)]
    rows = sorted(found, key=lambda row: (row["scaling"] != "weak", row["devices"]))
    for row in rows:
        first = next(one for one in rows if one["scaling"] == row["scaling"])
        row["of_one"] = row["samples_per_second"] / first["samples_per_second"]
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()
