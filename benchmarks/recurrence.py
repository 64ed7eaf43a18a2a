"""Implementations of the recurrences against each other, forward and with gradients.

    python -m benchmarks.recurrence [--cases NAME ...] [--json FILE]

Every timing comes with the largest deviation from the oracle, values and gradients, in the same
run. A last column is the time relative to the oracle's.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Weights, agru, augru, gru

from benchmarks.cases import CASES, Case
from benchmarks.timing import milliseconds, print_rows, quartile_spread, surroundings, write_rows

CELLS: dict[str, Callable] = {"gru": gru, "agru": agru, "augru": augru}
IMPLEMENTATIONS = ("reference", "xla")  # the oracle first


def operands(cell: str, case: Case) -> tuple:
    """Input, attention, weights and lengths of a case, drawn with a fixed seed."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(scale=shape[0] ** -0.5, size=shape), jnp.float32)

    gates, hidden = 2 if cell == "agru" else 3, case.hidden
    weights = Weights(
        normal(hidden, gates, hidden), normal(hidden, gates, hidden), normal(gates, hidden)
    )
    x = jnp.asarray(rng.normal(size=(case.batch, case.steps, hidden)), jnp.float32)
    attention = jnp.asarray(rng.uniform(size=(case.batch, case.steps)), jnp.float32)
    return x, attention, weights, jnp.full(case.batch, case.steps, jnp.int32)


def computation(cell: str, implementation: str, *, gradients: bool) -> Callable[..., Any]:
    """Jitted: the states, or the gradients of their sum of squares."""

    def states(x: Any, attention: Any, weights: Any, lengths: Any) -> jax.Array:
        inputs = (x, weights) if cell == "gru" else (x, attention, weights)
        return CELLS[cell](*inputs, lengths=lengths, implementation=implementation)[0]

    def loss(*arguments: Any) -> jax.Array:
        return (states(*arguments) ** 2).sum()

    if not gradients:
        return jax.jit(states)
    places = (0, 2) if cell == "gru" else (0, 1, 2)
    return jax.jit(jax.grad(loss, places))


def deviation(found: Any, expected: Any) -> float:
    """The largest, relative to the largest entry of each array."""
    errors = jax.tree.map(lambda a, b: jnp.abs(a - b).max() / jnp.abs(b).max(), found, expected)
    return max(float(error) for error in jax.tree.leaves(errors))


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="*", default=["paper", "wide"], choices=CASES)
    parser.add_argument("--cells", nargs="*", default=list(CELLS), choices=CELLS)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = []
    for name in options.cases:
        for cell in options.cells:
            arguments = operands(cell, CASES[name])
            for mode in ("forward", "forward + backward"):
                oracle, baseline = None, 0.0
                for implementation in IMPLEMENTATIONS:
                    run = computation(cell, implementation, gradients=mode != "forward")
                    result = run(*arguments)
                    oracle = result if oracle is None else oracle
                    times = milliseconds(lambda: run(*arguments), repeats=options.repeats)  # noqa: B023
                    median = statistics.median(times)
                    baseline = baseline or median
                    rows.append(
                        {
                            "benchmark": "recurrence",
                            "case": name,
                            "implementation": implementation,
                            "cell": cell,
                            "form": "paper",
                            "mode": mode,
                            "precision": "highest",
                            "median_ms": median,
                            "spread_ms": quartile_spread(times),
                            "of_reference": median / baseline,
                            "max_error": deviation(result, oracle),
                            **surroundings(),
                        }
                    )
    print_rows(
        rows,
        ("case", "cell", "mode", "implementation", "median_ms", "spread_ms", "of_reference",
         "max_error"),
    )  # fmt: skip
    print(f"\n{rows[0]['device']}, {rows[0]['threads']} threads, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
