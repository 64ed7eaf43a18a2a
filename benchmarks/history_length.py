"""Time and memory of the whole train step against the length of histories.

    python -m benchmarks.history_length [--steps 50 100 200 500 1000] [--json FILE] [--plot PNG]

Every history is as long as it may be, batch 128, the sizes of ``benchmarks.train_step``. Each
length has a process of its own, so that its peak memory is its own.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import plots
from benchmarks.common.timing import print_rows, write_rows
from benchmarks.train_step import COLUMNS, full_length
from dien_jax.config.presets import PRESETS, preset
from dien_jax.config.settings import Config

STEPS = (50, 100, 200, 500, 1000)


def of_length(config: Config, steps: int, repeats: int) -> dict:
    """The row of one length, measured in this process."""
    train = dataclasses.replace(config.train, max_history=steps, buckets=())
    (row,) = full_length(dataclasses.replace(config, train=train), repeats=repeats)
    return row | {"benchmark": "history_length", "steps": steps}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every length, print the table, draw and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="dien", choices=PRESETS)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each length")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="draw the curves into this PNG")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.alone:
        print(json.dumps(of_length(preset(options.preset), options.steps[0], options.repeats)))
        return
    if options.plot:
        plots.require()
    rows = []
    for steps in options.steps:
        flags = ["--alone", "--preset", options.preset, "--repeats", str(options.repeats)]
        command = [sys.executable, "-m", "benchmarks.history_length", *flags, "--steps", str(steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{steps} steps: {rows[-1]['median_ms']:.0f} ms", file=sys.stderr, flush=True)
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['versions']}")
    if options.plot:
        lengths = [row["steps"] for row in rows]
        plots.curves(
            options.plot,
            {
                "ms a step": {options.preset: (lengths, [row["median_ms"] for row in rows])},
                "peak memory, MB": {options.preset: (lengths, [row["peak_mb"] for row in rows])},
            },
            x="steps of every history",
            title="Train step, batch 128, against the length of histories",
        )
        print(f"drawn in {options.plot}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
