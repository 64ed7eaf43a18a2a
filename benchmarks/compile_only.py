"""Compile every kernel and a whole train step for a device that is not attached.

    python -m benchmarks.compile_only --target tpu-v5e [--quick] [--json FILE]

Shows whether each kernel and the train step compile, how many kernels they launch, and the peak
memory of the step. Nothing is executed. The exit status is 1 if something does not compile or has
an unexpected number of launches, and 2 if the compiler is not installed.
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from dien_kernels import assume, fused
from dien_kernels.choice import KERNELS, backend
from dien_kernels.contract import Plan, Shape
from dien_kernels.options import Form, Precision

from benchmarks.common.absent_devices import DEVICES, absent_device, compile_for
from benchmarks.common.cases import Case, schema_of
from benchmarks.common.report import first_line, make_parser, parse, print_rows, write_rows
from benchmarks.common.timing import versions_of
from benchmarks.recurrence import CELLS, MODES, computation, operands
from dien_jax.config.presets import preset, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.tables import FeatureTables, blank_counts, example_batch
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables, create_state
from dien_jax.steps.train import make_train_step

FORWARD = {"recurrence_forward", "recurrence_keep"}
ITEMS = 1000
COLUMNS = ("kernel", "cell", "form", "precision", "hidden", "direction", "launches", "seconds")
STEP_COLUMNS = ("kernel", "precision", "launches", "peak_mbytes")
PRECISIONS: tuple[Precision, ...] = ("highest", "default")
HIDDEN = (36, 128)
BATCH, STEPS = 256, 100
PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12")
"""Packages on which the outcome depends."""


class Found(NamedTuple):
    """Rows of what compiled, and lines on what is refused or fails."""

    kernels: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    refused: list[str]
    failures: list[str]


def kernel_row(target: str, kernel: str, case: Case, **settings: Any) -> dict[str, Any]:
    """Compile a kernel in one direction; return its row, or raise if launches are unexpected."""
    cell, form, precision = (settings[name] for name in ("cell", "form", "precision"))
    gradients = settings["direction"] != MODES[0]
    function = computation(cell, kernel, gradients=gradients, form=form, precision=precision)
    start = time.perf_counter()
    _, launches = compile_for(target, function, *operands(cell, case, form))
    if len(launches) != 1 + gradients:
        raise RuntimeError(f"expected {1 + gradients} launches, found {launches}")
    return {
        "benchmark": "compile_only",
        "target": target,
        "kernel": kernel,
        **settings,
        **case._asdict(),
        "launches": len(launches),
        "seconds": time.perf_counter() - start,
        "versions": versions_of(*PACKAGES),
    }


def step_row(target: str, kernel: str, precision: str) -> dict[str, Any]:
    """Compile the step of ``wide_dien``; return its row, or raise if launches are unexpected."""
    settings = {"model.implementation": kernel, "model.recurrence_precision": precision}
    config = with_settings(preset("wide_dien"), settings)
    with assume(DEVICES[target]):
        step, arguments = step_and_arguments(config)
    program, launches = compile_for(target, step, *arguments)
    directions = Counter("forward" if name in FORWARD else name for name in launches)
    if directions != {"forward": 2, "recurrence_backward": 2}:
        raise RuntimeError(f"expected two launches in each direction, found {launches}")
    memory: Any = program.memory_analysis()
    return {
        "benchmark": "compile_only, train step",
        "target": target,
        "kernel": kernel,
        "precision": precision,
        "batch": config.train.batch_size,
        "steps": config.train.max_history,
        "launches": ", ".join(f"{count} {name}" for name, count in Counter(launches).items()),
        "peak_mbytes": memory.peak_memory_in_bytes / 1e6,
        "versions": versions_of(*PACKAGES),
    }


def step_and_arguments(config: Config) -> tuple[Callable, tuple]:
    """Return a train step on a small vocabulary, and the shapes of its arguments."""
    schema = schema_of(ITEMS, 20, 500)
    features = FeatureTables({"category": np.zeros(ITEMS, np.int32)}, {}, *blank_counts(schema))
    sampler = make_sampler(np.ones(ITEMS))
    batch = example_batch(
        schema, batch_size=config.train.batch_size, steps=config.train.max_history
    )
    state = jax.eval_shape(lambda: create_state(config, schema, 100, seed=0))
    return make_train_step(config, schema, 100), (state, Tables(features, sampler), batch)


def compile_all(options: argparse.Namespace) -> Found:
    """Compile every kernel of the target, and a train step with each."""
    target, found = options.target, Found([], [], [], [])

    def attempt(name: str, rows: list[dict[str, Any]], make: Callable, **keywords: Any) -> None:
        print(name, file=sys.stderr, flush=True)
        try:
            rows.append(make(target, **keywords))
        except Exception as error:  # compilers raise anything; the others are still compiled
            found.failures.append(f"{name}: {first_line(error)}")
        if options.json:
            write_rows(options.json, found.kernels + found.steps)

    shapes = ((36,), ("augru",), ("paper",)) if options.quick else (HIDDEN, CELLS, get_args(Form))
    for kernel in (name for name, one in KERNELS.items() if one.fits(DEVICES[target])):
        supported: list[str] = []
        for precision, hidden, cell, form in itertools.product(PRECISIONS, *shapes):
            plan = Plan(cell, form, jax.lax.Precision[precision.upper()])
            name = f"{kernel}, {cell}, {form}, {precision}, H {hidden}"
            try:
                with assume(DEVICES[target]):
                    fused.with_blocks(plan, backend(kernel), Shape(BATCH, STEPS, hidden))
            except (ValueError, NotImplementedError) as error:
                found.refused.append(f"{name}: {error}")
                continue
            supported.append(precision)
            settings = {"kernel": kernel, "cell": cell, "form": form, "precision": precision}
            for mode in () if options.quick else MODES:
                named = {**settings, "case": Case(BATCH, STEPS, hidden), "direction": mode}
                attempt(f"{name}, {mode}", found.kernels, kernel_row, **named)
        if supported:
            named = {"kernel": kernel, "precision": supported[0]}
            attempt(f"{kernel}, {supported[0]}, train step", found.steps, step_row, **named)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--target", required=True, choices=DEVICES)
    parser.add_argument(
        "--quick", action="store_true", help="only the train step, at the first supported precision"
    )
    options = parse(parser, arguments)
    try:
        absent_device(options.target)
    except ModuleNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    found = compile_all(options)
    if found.kernels:
        print(f"Recurrences, batch {BATCH}, {STEPS} steps:\n")
        print_rows(found.kernels, COLUMNS)
    if found.steps:
        print("\nThe train step of the `wide_dien` preset:\n")
        print_rows(found.steps, STEP_COLUMNS)
    if found.refused:
        print("\nNot supported:\n\n" + "\n".join(f"- {line}" for line in found.refused))
    print(f"\n{options.target}, {versions_of(*PACKAGES)}")
    if options.json:
        print(f"written to {options.json}")
    if found.failures:
        raise SystemExit("\n".join(f"error: {line}" for line in found.failures))


if __name__ == "__main__":
    main()
