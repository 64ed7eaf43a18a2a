"""Time of each implementation of the recurrences, with and without gradients.

    python -m benchmarks.recurrence [--cases NAME ...] [--peers] [--json FILE]

Each row has the largest deviation of states or gradients from the oracle at the highest precision,
measured in the same run. ``benchmarks/README.md`` describes the method.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Blocks, Weights, agru, augru, devices, gru
from dien_kernels.agreement import TOLERANCES
from dien_kernels.choice import KERNELS, require
from dien_kernels.options import Form, Implementation, Precision

from benchmarks.common.cases import CASES, Case
from benchmarks.common.comparison import Contender, measure
from benchmarks.common.report import first_line, make_parser, parse, report, write_rows

CELLS: dict[str, Callable] = {"gru": gru, "agru": agru, "augru": augru}
MODES = ("forward", "forward + backward")
COLUMNS = (
    "case", "cell", "mode", "implementation", "median_ms", "spread_ms", "of_reference", "max_error",
)  # fmt: skip


def implementations_here() -> list[str]:
    """Return the names of the oracle, XLA, and every kernel for the current device."""
    device = devices.current()
    return ["reference", "xla", *(name for name, kernel in KERNELS.items() if kernel.fits(device))]


def operands(cell: str, case: Case, form: str = "paper", size: int | None = None) -> tuple:
    """Draw input, attention, weights and lengths of a case with a fixed seed.

    Inputs have width ``size``, by default that of a state.
    """
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(scale=shape[0] ** -0.5, size=shape), jnp.float32)

    gates, hidden, size = 2 if cell == "agru" else 3, case.hidden, size or case.hidden
    weights = Weights(
        normal(size, gates, hidden), normal(hidden, gates, hidden), normal(gates, hidden)
    )
    x = jnp.asarray(rng.normal(size=(case.batch, case.steps, size)), jnp.float32)
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
    blocks: Blocks | None = None,
) -> Callable[..., Any]:
    """Return a jitted function: states of live steps, or gradients of their sum of squares.

    States of dead steps are set to zero, because libraries differ in their values.
    """

    def live_states(x: Any, attention: Any, weights: Any, lengths: Any) -> jax.Array:
        inputs = (x, weights) if cell == "gru" else (x, attention, weights)
        states = CELLS[cell](
            *inputs, lengths=lengths, implementation=implementation, form=form,
            precision=precision, blocks=blocks,
        )[0]  # fmt: skip
        live = jnp.arange(x.shape[1], dtype=lengths.dtype)[None, :] < lengths[:, None]
        return jnp.where(live[..., None], states, 0)

    def loss(*arguments: Any) -> jax.Array:
        return (live_states(*arguments) ** 2).sum()

    if not gradients:
        return jax.jit(live_states)
    places = (0, 2) if cell == "gru" else (0, 1, 2)
    return jax.jit(jax.grad(loss, places))


def contenders(
    cell: str, arguments: tuple, names: Sequence[str], *, gradients: bool, form: str, precision: str
) -> dict[str, Contender]:
    """Return a contender for each implementation in JAX, by name."""
    settings: Any = {"gradients": gradients, "form": form, "precision": precision}
    runs = {name: computation(cell, name, **settings) for name in names}
    return {name: Contender(functools.partial(run, *arguments)) for name, run in runs.items()}


def too_far(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each row whose deviation exceeds the tolerance of its precision."""
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
    parser = make_parser(__doc__, keep_memory=True)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=get_args(Implementation),
        help="in addition to the oracle; default: xla and every kernel for the current device",
    )
    parser.add_argument("--form", default="paper", choices=get_args(Form))
    parser.add_argument("--precision", default="highest", choices=get_args(Precision))
    parser.add_argument("--peers", action="store_true", help="add PyTorch's recurrences")
    parser.add_argument("--repeats", type=int, default=30)
    options = parse(parser, arguments, repeats=2)
    names = options.implementations or implementations_here()
    for name in set(names) & set(KERNELS):
        try:
            require(name)
        except NotImplementedError as error:
            parser.error(str(error))
    options.implementations = ["reference", *(name for name in names if name != "reference")]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    options = _options(arguments)
    make_peers: Callable[..., dict[str, Contender]] | None = None
    if options.peers:
        try:
            from benchmarks.peers.torch_rnn import contenders as make_peers
        except ModuleNotFoundError as error:
            raise SystemExit(f"--peers needs PyTorch: pip install torch ({error})") from error
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    refusals: list[str] = []
    for name in options.cases:
        case = CASES[name]
        for cell in options.cells:
            inputs = operands(cell, case, options.form)
            for mode in MODES:
                settings: dict[str, Any] = {"gradients": mode != MODES[0], "form": options.form}
                expected = computation(cell, "reference", **settings)(*inputs)
                settings["precision"] = options.precision
                measured = contenders(cell, inputs, options.implementations, **settings)
                if make_peers is not None:
                    measured |= make_peers(cell, inputs, **settings)
                shared = {"benchmark": "recurrence", "case": name, "cell": cell}
                shared |= {"form": options.form, "mode": mode, "precision": options.precision}
                more, raised = measure(measured, expected, repeats=options.repeats, **shared)
                rows += more
                for implementation, failure in raised.items():
                    line = f"{name}, {cell}, {mode}, {implementation}: not run: "
                    # A kernel may refuse a shape; anything else is a failure.
                    refused = isinstance(failure, (NotImplementedError, ValueError))
                    (refusals if refused else failures).append(line + first_line(failure))
        if options.json:
            write_rows(options.json, rows)
    report(options, rows, COLUMNS)
    if refusals:
        print("\n" + "\n".join(refusals))
    failures += too_far(rows)
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
