"""Time of a Pallas kernel by block size, on the current device.

    python -m benchmarks.on_device.block_sizes NAME --json FILE

Times AUGRU forward and backward at batch 1024, 100 steps, H 36 and 128. Block sizes that the kernel
refuses are skipped. ``chosen`` is its default.
"""

import functools
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from dien_kernels import Blocks
from dien_kernels.choice import KERNELS, backend
from dien_kernels.contract import Plan
from dien_kernels.options import Precision

from benchmarks.common.cases import Case
from benchmarks.common.report import make_parser, parse, write_rows
from benchmarks.common.timing import interleaved_milliseconds, timed_row
from benchmarks.recurrence import computation, operands

SIZES = [name for name, kernel in KERNELS.items() if kernel.is_pallas]
ROWS, STEPS, WARPS = (16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16), (2, 4, 8)
BATCH, TIME, HIDDEN = 1024, 100, (36, 128)
PRECISION: Precision = "default"
REPEATS = 10


def candidates(name: Any, hidden: int) -> Iterator[Blocks | None]:
    """Yield None for the kernel's default, then the other sizes that it accepts."""
    kernel: Any = backend(name)
    plan = Plan("augru", "paper", jax.lax.Precision[PRECISION.upper()])
    padded = kernel.padded_hidden(hidden)
    own = kernel.blocks(plan, BATCH, TIME, padded)
    yield None
    for rows, steps, warps in itertools.product(ROWS, STEPS, WARPS):
        blocks = Blocks(rows, steps, warps)
        if blocks == own:
            continue
        try:
            kernel.check(plan, blocks, BATCH, TIME, padded)
        except (ValueError, NotImplementedError):
            continue
        yield blocks


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every block size, and write the rows after each."""
    parser = make_parser(__doc__)
    parser.add_argument("implementation", choices=SIZES)
    options = parse(parser, arguments)
    rows: list[dict[str, Any]] = []
    for hidden in HIDDEN:
        inputs = operands("augru", Case(BATCH, TIME, hidden))
        for blocks in candidates(options.implementation, hidden):
            named: Any = {"gradients": True, "precision": PRECISION, "blocks": blocks}
            run = computation("augru", options.implementation, **named)
            label = (
                "chosen" if blocks is None else f"{blocks.rows} x {blocks.steps} x {blocks.warps}"
            )
            shared = {"implementation": options.implementation, "hidden": hidden, "blocks": label}
            try:
                call = functools.partial(run, *inputs)
                times = interleaved_milliseconds({label: call}, repeats=REPEATS)[label]
            except Exception as error:  # compilers raise anything; the others are still timed
                print(f"{label}: {type(error).__name__}", file=sys.stderr, flush=True)
                continue
            rows.append(timed_row("block_sizes", times, **shared))
            print(json.dumps({**shared, "median_ms": rows[-1]["median_ms"]}), flush=True)
            if options.json:
                write_rows(options.json, rows)


if __name__ == "__main__":
    main()
