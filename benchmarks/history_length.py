"""Time and memory of the whole train step by the length of histories.

    python -m benchmarks.history_length [--steps 50 100 200 500 1000] [--json FILE] [--plot PNG]

Histories have the full length, batches 128 rows, the model the sizes of ``benchmarks.train_step``.
Each length has a process of its own, for its peak memory.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import plots
from benchmarks.common.report import make_parser, parse, report
from benchmarks.train_step import COLUMNS, full_length
from dien_jax.config.presets import PRESETS, preset
from dien_jax.config.settings import Config

STEPS = (50, 100, 200, 500, 1000)


def of_length(config: Config, steps: int, repeats: int) -> dict:
    """Measure one length in this process."""
    train = dataclasses.replace(config.train, max_history=steps, buckets=())
    (row,) = full_length(dataclasses.replace(config, train=train), repeats=repeats)
    return row | {"benchmark": "history_length", "steps": steps}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every length; print, write and draw the rows."""
    parser = make_parser(__doc__, plot="the curves")
    parser.add_argument("--preset", default="dien", choices=PRESETS)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each length")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parse(parser, argv, repeats=2, steps=1)
    if options.alone:
        print(json.dumps(of_length(preset(options.preset), options.steps[0], options.repeats)))
        return
    rows = []
    for steps in options.steps:
        flags = ["--alone", "--preset", options.preset, "--repeats", str(options.repeats)]
        command = [sys.executable, "-m", "benchmarks.history_length", *flags, "--steps", str(steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{steps} steps: {rows[-1]['median_ms']:.0f} ms", file=sys.stderr, flush=True)
    report(options, rows, COLUMNS, draw)


def draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw time and memory by length."""
    lengths = [row["steps"] for row in rows]
    panels: plots.Curves = {
        title: {"dien_jax": (lengths, [row[column] for row in rows])}
        for title, column in (("ms a step", "median_ms"), ("peak memory, MB", "peak_mb"))
    }
    title = "Train step, batch 128, by the length of histories"
    plots.curves(file, panels, x="steps of every history", title=title)


if __name__ == "__main__":
    main()
