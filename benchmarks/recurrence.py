"""Implementations of the recurrences against each other, forward and with gradients.

    python -m benchmarks.recurrence [--cases NAME ...] [--peers] [--json FILE] [--plot FILE.png]

Implementations take turns, round by round, so that their ratios hold on a machine that others use
too. Every row has the largest deviation from the oracle at the highest precision, of the states or
of the gradients, in the same run; the program ends with status 1 where one exceeds what
``dien_kernels.agreement`` allows at the precision. The time is compared with the oracle's at the
same precision.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Weights, agru, augru, devices, gru
from dien_kernels.agreement import TOLERANCES
from dien_kernels.api import Precision
from dien_kernels.choice import KERNELS, Implementation, require
from dien_kernels.reference import Form

from benchmarks.common import plots
from benchmarks.common.cases import CASES, Case
from benchmarks.common.timing import (
    interleaved_milliseconds,
    print_rows,
    quartile_spread,
    surroundings,
    write_rows,
)

CELLS: dict[str, Callable] = {"gru": gru, "agru": agru, "augru": augru}
MODES = ("forward", "forward + backward")
COLUMNS = (
    "case", "cell", "mode", "implementation", "median_ms", "spread_ms", "of_reference", "max_error",
)  # fmt: skip


class Contender(NamedTuple):
    """One implementation, ready to run.

    Attributes:
      call: what is timed; it, or waiting for what it returns, takes until all is computed.
      result: runs it and gives its arrays in the oracle's order and shapes.
      versions: of packages besides those of every row.
    """

    call: Callable[[], Any]
    result: Callable[[], Any]
    versions: Mapping[str, str] = {}


def implementations_here() -> list[str]:
    """The oracle, XLA, and every kernel written for the device at hand."""
    device = devices.current()
    return ["reference", "xla", *(name for name, kernel in KERNELS.items() if kernel.fits(device))]


def operands(cell: str, case: Case, form: str = "paper") -> tuple:
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
    if form == "paper":
        weights = weights._replace(recurrent_bias=normal(hidden))
    return x, attention, weights, jnp.asarray(case.lengths())


def computation(
    cell: str,
    implementation: str,
    *,
    gradients: bool,
    form: str = "paper",
    precision: str = "highest",
) -> Callable[..., Any]:
    """Jitted: the states of live steps, or the gradients of their sum of squares.

    States of dead steps are zeros here: libraries differ in what they leave there.
    """

    def states(x: Any, attention: Any, weights: Any, lengths: Any) -> jax.Array:
        inputs = (x, weights) if cell == "gru" else (x, attention, weights)
        found = CELLS[cell](
            *inputs, lengths=lengths, implementation=implementation, form=form, precision=precision
        )[0]
        live = jnp.arange(x.shape[1], dtype=lengths.dtype)[None, :] < lengths[:, None]
        return jnp.where(live[..., None], found, 0)

    def loss(*arguments: Any) -> jax.Array:
        return (states(*arguments) ** 2).sum()

    if not gradients:
        return jax.jit(states)
    places = (0, 2) if cell == "gru" else (0, 1, 2)
    return jax.jit(jax.grad(loss, places))


def deviation(found: Any, expected: Any) -> float:
    """The largest, relative to the largest entry of each array; infinite where not finite."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    largest = 0.0
    for one, other in pairs:
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape, (one.shape, other.shape)
        error = float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-30))
        largest = max(largest, error if np.isfinite(error) else float("inf"))
    return largest


def contenders(
    cell: str, arguments: tuple, names: Sequence[str], *, gradients: bool, form: str, precision: str
) -> dict[str, Contender]:
    """JAX's implementations by name."""

    def one(name: str) -> Contender:
        run = computation(cell, name, gradients=gradients, form=form, precision=precision)
        return Contender(lambda: run(*arguments), lambda: run(*arguments))

    return {name: one(name) for name in names}


def measure(
    found: Mapping[str, Contender], expected: Any, *, repeats: int, **shared: Any
) -> tuple[list[dict[str, Any]], dict[str, Exception]]:
    """Rows of the contenders that ran, the oracle first, and what the others raised."""
    errors, raised = {}, {}
    for name, contender in found.items():
        try:
            errors[name] = deviation(contender.result(), expected)
        except Exception as error:  # whatever a compiler raises: the others are still measured
            raised[name] = error
    times = interleaved_milliseconds({name: found[name].call for name in errors}, repeats=repeats)
    medians = {name: statistics.median(of_one) for name, of_one in times.items()}
    around = surroundings()
    rows = [
        {
            "benchmark": "recurrence",
            **shared,
            "implementation": name,
            "median_ms": medians[name],
            "spread_ms": quartile_spread(times[name]),
            "of_reference": medians[name] / medians["reference"],
            "max_error": errors[name],
            **around,
            "versions": {**around["versions"], **found[name].versions},
        }
        for name in times
    ]
    return rows, raised


def too_far(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for every row whose deviation exceeds what its precision allows."""
    lines = []
    for row in rows:
        tolerance = TOLERANCES[jax.lax.Precision[row["precision"].upper()]]
        if row["max_error"] > tolerance:
            lines.append(
                f"{row['case']}, {row['cell']}, {row['mode']}, {row['implementation']}: deviates "
                f"from the oracle by {row['max_error']:.1e}, more than {tolerance:.0e}"
            )
    return lines


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=get_args(Implementation),
        help="besides the oracle; left out: xla and every kernel for the device at hand",
    )
    parser.add_argument("--form", default="paper", choices=get_args(Form))
    parser.add_argument("--precision", default="highest", choices=get_args(Precision))
    parser.add_argument("--peers", action="store_true", help="PyTorch's too, see benchmarks.peers")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="draw them here, a .png")
    options = parser.parse_args(arguments)
    if options.repeats < 2:
        parser.error("--repeats must be at least 2, for the spread")
    names = options.implementations or implementations_here()
    for name in set(names) & set(KERNELS):
        try:
            require(name)
        except NotImplementedError as error:
            parser.error(str(error))
    options.implementations = ["reference", *(name for name in names if name != "reference")]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = _options(arguments)
    make_peers: Callable[..., dict[str, Contender]] | None = None
    if options.peers:
        try:
            from benchmarks.peers.torch_rnn import contenders as make_peers
        except ModuleNotFoundError as error:
            raise SystemExit(f"--peers needs PyTorch: pip install torch ({error})") from error
    if options.plot:
        plots.require()
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    refusals: list[str] = []
    for name in options.cases:
        case = CASES[name]
        for cell in options.cells:
            given = operands(cell, case, options.form)
            for mode in MODES:
                settings: dict[str, Any] = {"gradients": mode != MODES[0], "form": options.form}
                expected = computation(cell, "reference", **settings)(*given)
                settings["precision"] = options.precision
                found = contenders(cell, given, options.implementations, **settings)
                if make_peers is not None:
                    found |= make_peers(cell, given, **settings)
                shared = {"case": name, "cell": cell, "form": options.form, "mode": mode}
                shared["precision"] = options.precision
                more, raised = measure(found, expected, repeats=options.repeats, **shared)
                rows += more
                for implementation, what in raised.items():
                    why = f"{type(what).__name__}: {what}".splitlines()[0][:300]
                    line = f"{name}, {cell}, {mode}, {implementation}: not run: {why}"
                    # A shape that a kernel is not written for is no failure.
                    refused = isinstance(what, (NotImplementedError, ValueError))
                    (refusals if refused else failures).append(line)
        if options.json:
            write_rows(options.json, rows)
    print_rows(rows, COLUMNS)
    if refusals:
        print("\n" + "\n".join(refusals))
    versions = rows[0]["versions"] | rows[-1]["versions"]
    print(f"\n{rows[0]['device']}, {rows[0]['threads']} threads, {versions}")
    if options.json:
        print(f"written to {options.json}")
    if options.plot:
        _draw(options.plot, rows)
        print(f"drawn to {options.plot}")
    failures += too_far(rows)
    if failures:
        raise SystemExit("\n".join(failures))


def _draw(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    panels: plots.Panels = {}
    for row in rows:
        group = f"{row['cell']}\n{row['mode']}"
        case = CASES[row["case"]]
        title = f"{row['case']}: B {case.batch}, T {case.steps}, H {case.hidden}"
        bars = panels.setdefault(title, {}).setdefault(group, {})
        bars[row["implementation"]] = row["median_ms"]
    one = rows[0]
    where = f"{one['device']}, {one['threads']} threads"
    plots.grouped_bars(file, panels, f"{one['form']} form, precision {one['precision']}, {where}")


if __name__ == "__main__":
    main()
