"""Every combination of Pallas kernel, cell, form, sizes, histories and type, against the oracle.

    python tests/support/kernel_cross.py FILE [KERNEL ...]

runs the cases in the interpreter and adds a line to FILE, as CSV, after each: the largest deviation
as a share of the tolerance, or the error. Cases that FILE has are not run again, so that a stopped
command goes on; all take hours. The last lines say what came out, by kernel, cell and form.
"""

import argparse
import csv
import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from dien_kernels import interpreted
from dien_kernels.choice import KERNELS as ALL_KERNELS

if __name__ == "__main__":  # before the module that is next to this file
    sys.path.insert(0, str(Path(__file__).parents[1]))
from support.recurrences import (
    CELLS,
    FORMS,
    evaluate,
    evaluate_with_8_bits,
    operands,
    scaled,
)

KERNELS = [name for name, kernel in ALL_KERNELS.items() if kernel.is_pallas]
PRECISION = dict.fromkeys(KERNELS, "highest") | {"mosaic_gpu": "default"}
"""Tensor cores have no float32: operands of mosaic_gpu's products have bfloat16's 8 bits."""
REFUSED = ("mosaic_gpu", 200)
"""A hidden size too large for that kernel's shared memory."""
CLEARED = 40
"""Programs that are kept before all are forgotten."""


class CrossCase(NamedTuple):
    """B rows of T steps, H hidden units; which steps are live; type of the input."""

    kernel: str
    cell: str
    form: str
    batch: int
    steps: int
    hidden: int
    live: str
    dtype: str

    @property
    def rounds(self) -> bool:
        """Whether the kernel, and so its oracle, rounds operands to 8 bits."""
        return PRECISION[self.kernel] == "default"

    def tolerance(self) -> float:
        """Return the tolerance, of an array's largest entry.

        float32 rounding grows with the steps that errors pass through and the terms of a sum.
        bfloat16 inputs leave that, and results rounded to 8 bits: two roundings may differ by one
        place, 2^-7 of an entry. Where a kernel rounds operands to 8 bits, the oracle does too; but
        an operand half-way between two such numbers may become either, 2^-8 apart, and later steps
        carry that on.
        """
        exact = 1e-6 * np.sqrt(max(self.batch * self.steps, self.hidden))
        rounded = 2**-7 if self.dtype == "bfloat16" else 0.0
        return max(exact, rounded) + (2**-6 if self.rounds else 0)

    def results(self) -> tuple[tuple, tuple]:
        """Return states, last states and gradients of the kernel and of the oracle."""
        cell, form, hidden = self.cell, self.form, self.hidden
        # Larger recurrent weights make a chaotic recurrence: of H 128 and 100 steps at a scale of
        # 0.5 float32 and float64 NumPy have nothing in common; at 2 / sqrt(H) they agree to 3e-7.
        arrays = operands(
            cell, batch=self.batch, steps=self.steps, hidden=hidden, biased=form == "paper",
            live=self.live, scale=min(0.5, 2 * hidden**-0.5),
        )  # fmt: skip
        arrays = (arrays[0].astype(self.dtype), *arrays[1:])
        with interpreted():
            found = evaluate(cell, form, self.kernel, PRECISION[self.kernel])(*arrays)
        if self.rounds:
            return found, evaluate_with_8_bits(cell, form)(*arrays)
        return found, evaluate(cell, form, "reference")(*arrays)


CROSS = [
    CrossCase(kernel, cell, form, batch, steps, hidden, live, dtype)
    for kernel, cell, form, batch, steps, hidden, dtype, live in itertools.product(
        KERNELS,
        CELLS,
        FORMS,
        (1, 3, 130),
        (1, 7, 100),
        (8, 36, 64, 128, 200),
        ("float32", "bfloat16"),
        ("mixed", "empty", "full"),
    )
    if (kernel, hidden) != REFUSED
]


def deviation(case: CrossCase) -> float:
    """Return the largest deviation of any array, as a share of the tolerance."""
    shares = [np.abs(got - want).max(initial=0) for got, want in scaled(*case.results())]
    return float(np.max(shares)) / case.tolerance()  # NaN where an array has it


def run(file: Path, cases: Sequence[CrossCase]) -> None:
    """Run the cases that a file lacks, in an order that leaves a fair sample when stopped."""
    done = {case for case, _ in read(file)}
    programs = [list(group) for _, group in itertools.groupby(cases, lambda c: c._replace(live=""))]
    random.Random(0).shuffle(programs)
    left = [program for program in programs if not done.issuperset(program)]
    with file.open("a", newline="") as stream:
        for number, program in enumerate(left):
            for case in (case for case in program if case not in done):
                try:
                    outcome = f"{deviation(case):.3g}"
                except Exception as error:  # whatever a compiler raises
                    outcome = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                csv.writer(stream).writerow([*case, outcome])
                stream.flush()
            if number % CLEARED == CLEARED - 1:
                jax.clear_caches()
                print(f"{number + 1} of {len(left)} programs", file=sys.stderr, flush=True)


def read(file: Path) -> list[tuple[CrossCase, str]]:
    """Return the cases of a file, and what came out."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == len(CrossCase._fields) + 1]
    numbers = slice(3, 6)
    return [(CrossCase(*row[:3], *map(int, row[numbers]), *row[6:8]), row[8]) for row in rows]


def summary(rows: Sequence[tuple[CrossCase, str]]) -> Iterator[str]:
    """Yield lines of CSV: how many cases agree, and the largest deviation."""
    yield "kernel,cell,form,cases,run,agree,largest deviation / tolerance,jax"
    for kernel, cell, form in itertools.product(KERNELS, CELLS, FORMS):
        here = (kernel, cell, form)
        found = [outcome for case, outcome in rows if case[:3] == here]
        shares = [float(outcome) for outcome in found if outcome[:1] in "0123456789"]
        agree = sum(share <= 1 for share in shares)
        total = sum(case[:3] == here for case in CROSS)
        largest = f"{max(shares):.3g}" if shares else ""
        yield ",".join(map(str, (*here, total, len(found), agree, largest, jax.__version__)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="file of outcomes, which may exist")
    parser.add_argument("kernels", nargs="*", help=f"some of {', '.join(KERNELS)}; default: all")
    options = parser.parse_args()
    names = options.kernels or KERNELS
    if unknown := set(names) - set(KERNELS):
        parser.error(f"unknown kernels: {', '.join(sorted(unknown))}")
    run(options.file, [case for case in CROSS if case.kernel in names])
    print("\n".join(summary(read(options.file))))


if __name__ == "__main__":
    main()
