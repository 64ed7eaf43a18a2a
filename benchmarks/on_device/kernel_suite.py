"""Compare one implementation of the recurrences with the oracle, on the current device.

    python -m benchmarks.on_device.kernel_suite NAME --json FILE [--interpreted]

States, last states and the gradients of all operands are compared with those of the oracle at the
highest precision, relative to the largest entry of each array. A line is written before and after
each case, so the last line shows the case in which a kernel hangs or crashes. The exit status is 1
if a case deviates or raises.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import devices
from dien_kernels.agreement import TOLERANCES
from dien_kernels.options import Form, Implementation

from benchmarks import recurrence
from benchmarks.common.cases import Case
from benchmarks.common.comparison import deviation
from benchmarks.common.report import first_line, make_parser

NAMES = ("states", "last", "x", "attention", "input", "recurrent", "bias", "recurrent_bias",
         "initial_state")  # fmt: skip


class SuiteCase(NamedTuple):
    """One compilation: B rows, T steps, D inputs, H hidden."""

    cell: str
    form: str
    precision: str
    batch: int
    steps: int
    size: int
    hidden: int

    def __str__(self) -> str:
        shape = f"B {self.batch} T {self.steps} D {self.size} H {self.hidden}"
        return f"{self.cell}, {self.form}, {self.precision}, {shape}"


SHAPES = ((70, 9, 12, 36), (130, 20, 36, 128), (3, 1, 8, 8))
"""B, T, D, H: several blocks of rows, the widest that ``mosaic_gpu`` takes, and the smallest."""


def cases() -> Iterator[SuiteCase]:
    """Yield the cases, the most informative first."""
    for shape in SHAPES:
        for precision in ("default", "highest"):
            for cell in ("augru", "gru", "agru"):
                for form in get_args(Form):
                    yield SuiteCase(cell, form, precision, *shape)


def operands(case: SuiteCase) -> tuple[tuple, jax.Array]:
    """Return the operands of a case, and its lengths, 0 and T among them."""
    shape = Case(case.batch, case.steps, case.hidden)
    x, attention, weights, _ = recurrence.operands(case.cell, shape, case.form, case.size)
    initial = np.random.default_rng(1).uniform(-0.5, 0.5, (case.batch, case.hidden))
    lengths = jnp.arange(case.batch, dtype=jnp.int32) % (case.steps + 1)
    return (x, attention, weights, jnp.asarray(initial, jnp.float32)), lengths


def results(case: SuiteCase, implementation: str, precision: str) -> Callable[..., Any]:
    """Return a jitted function of operands and lengths: gradients, states and last states."""

    def objective(places: tuple, lengths: jax.Array) -> tuple[jax.Array, Any]:
        x, attention, weights, initial = places
        inputs = (x, weights) if case.cell == "gru" else (x, attention, weights)
        states, last = recurrence.CELLS[case.cell](
            *inputs, lengths=lengths, initial_state=initial, form=case.form,
            implementation=implementation, precision=precision,
        )  # fmt: skip
        return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum(), (states, last)

    return jax.jit(jax.grad(objective, has_aux=True))


def compare(case: SuiteCase, implementation: str, interpreted: bool) -> dict[str, Any]:
    """Return the outcome of a case, and the array that deviates most."""
    places, lengths = operands(case)
    mode = devices.interpreted() if interpreted else contextlib.nullcontext()
    tolerance = TOLERANCES[jax.lax.Precision[case.precision.upper()]]
    try:
        with mode:
            found = results(case, implementation, case.precision)(places, lengths)
            found = jax.block_until_ready(found)
    except (NotImplementedError, ValueError) as error:
        return {"outcome": "refuses", "error": first_line(error)}
    except Exception as error:  # compilers raise anything
        return {"outcome": "raises", "error": first_line(error)}
    gradients, values = found
    oracle_gradients, oracle_values = results(case, "reference", "highest")(places, lengths)
    pairs = zip(_named(values, gradients), _named(oracle_values, oracle_gradients), strict=True)
    worst, name = max((deviation(a, b), name) for (name, a), (_, b) in pairs)
    outcome = "agrees" if worst <= tolerance else "deviates"
    return {"outcome": outcome, "deviation": worst, "array": name, "tolerance": tolerance}


def _named(values: tuple, gradients: tuple) -> list[tuple[str, Any]]:
    x, attention, weights, initial = gradients
    arrays = (*values, x, attention, *weights, initial)
    return [(name, a) for name, a in zip(NAMES, arrays, strict=True) if a is not None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases of one implementation, and write a line before and after each."""
    parser = make_parser(__doc__)
    parser.add_argument("implementation", choices=get_args(Implementation))
    parser.add_argument("--interpreted", action="store_true", help="run in Pallas's interpreter")
    parser.add_argument("--most", type=int, help="run at most this many cases")
    options = parser.parse_args(arguments)
    wrong = 0
    with options.json.open("w") if options.json else contextlib.nullcontext(sys.stdout) as stream:
        for case in list(cases())[: options.most]:
            shared = {"implementation": options.implementation, "case": str(case)}
            print(json.dumps({**shared, "outcome": "started"}), file=stream, flush=True)
            start = time.perf_counter()
            row = compare(case, options.implementation, options.interpreted)
            row = {**shared, **row, "seconds": time.perf_counter() - start}
            print(json.dumps(row), file=stream, flush=True)
            wrong += row["outcome"] in ("deviates", "raises")
    if wrong:
        raise SystemExit(f"{options.implementation}: {wrong} cases deviate or raise")


if __name__ == "__main__":
    main()
