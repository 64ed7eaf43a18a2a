"""Compile every kernel and a whole train step for a device that is not attached.

    python -m benchmarks.compile_only --target tpu-v5e [--quick] [--json FILE]
    python -m benchmarks.compile_only --target tpu-v5e-4x4 --rows 100000000 [--json FILE]

Shows that each kernel compiles, its number of launches, and its cost: bundles that a TPU core
executes in a time step, compared with XLA's own loop for the same work (the oracle at the same
precision), or registers, spills and shared memory of an NVIDIA GPU. Results are not computed. The
exit status is 1 where something does not compile or has an unexpected number of launches, and 2
where the compiler is not installed.
"""

import argparse
import dataclasses
import itertools
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from dien_kernels import Device, assume, fused
from dien_kernels.api import Precision
from dien_kernels.choice import KERNELS, Implementation, backend
from dien_kernels.contract import Plan, Shape
from dien_kernels.reference import Cell, Form

from benchmarks.aot import cuda as aot_cuda
from benchmarks.aot import slices
from benchmarks.aot import tpu as aot_tpu
from benchmarks.common.cases import Case, schema_of
from benchmarks.common.report import make_parser, parse, print_rows, write_rows
from benchmarks.recurrence import CELLS, MODES, computation, operands
from dien_jax.config.presets import preset
from dien_jax.config.settings import Config
from dien_jax.data.batch import example_batch
from dien_jax.data.schema import FeatureTables
from dien_jax.data.statistics import blank_factors, blank_statistics
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables, create_state
from dien_jax.steps.train import make_train_step

DEVICES = {
    "tpu-v5e": Device("tpu", "TPU v5 lite"),
    "tpu-v6e": Device("tpu", "TPU v6 lite"),
    "h100": Device("gpu", "NVIDIA H100 80GB HBM3", (9, 0)),
    "a100": Device("gpu", "NVIDIA A100-SXM4-80GB", (8, 0)),
}
FORWARD = {"recurrence_forward", "recurrence_keep"}
ITEMS = 1000
SHAPE = ("kernel", "cell", "form", "precision", "hidden", "direction")
TPU_COLUMNS = (
    "bundles_per_step", "xla_bundles_per_step", "of_xla", "vector_memory_bytes", "launches",
)  # fmt: skip
GPU_COLUMNS = ("registers", "spilled_bytes", "shared_bytes", "launches")
STEP_COLUMNS = ("kernel", "precision", "launches", "gflop", "mbytes", "peak_mbytes")


class Compiled(NamedTuple):
    """A program for an absent device.

    Attributes:
      program: the result of ``jax.stages.Lowered.compile``.
      launches: names of the Pallas kernels that it launches.
      columns: columns of its row that depend on the target.
    """

    program: jax.stages.Compiled
    launches: list[str]
    columns: dict[str, Any]


class Compiler:
    """A compiler for one target."""

    def __init__(self, target: str, folder: Path) -> None:
        """Prepare this process; ``folder`` is for the bundles of a TPU's compiler."""
        self.target, self.device, self._folder = target, DEVICES[target], folder
        # A process without such a device must not look for one. JAX reads JAX_PLATFORMS at import
        # and chooses its devices later; compilers read the environment when they start.
        jax.config.update("jax_platforms", "cpu")
        if self.device.platform == "tpu":
            os.environ.update(aot_tpu.surroundings(folder))
            aot_tpu.device(target)
        else:
            aot_cuda.device(target)

    def program(self, function: Callable, *arguments: Any, steps: int | None = None) -> Compiled:
        """Compile a function for the target; count bundles in loops of ``steps`` steps."""
        with assume(self.device):
            if self.device.platform == "gpu":
                gpu = aot_cuda.compile_for(function, *arguments, target=self.target)  # type: ignore[arg-type]
                return Compiled(gpu.compiled, gpu.launches(), _resources(gpu.kernels))
            for path in self._folder.iterdir():
                path.unlink()
            program = aot_tpu.compile_for(function, *arguments, target=self.target)
        try:
            loops = [] if steps is None else aot_tpu.count(self._folder, steps)
        except RuntimeError as error:
            _say(f"bundles not counted: {str(error)[:200]}")
            loops = []
        columns = {
            "bundles_per_step": sum(loop.average for loop in loops) if loops else None,
            "vector_memory_bytes": max((loop.vector_memory for loop in loops), default=0),
        }
        return Compiled(program, aot_tpu.launches(program), columns)

    def row(self, kernel: str, case: Case, **settings: Any) -> dict[str, Any]:
        """Return the row of a kernel in one direction.

        Raises:
          RuntimeError: for an unexpected number of launches.
        """
        cell, form, precision = (settings[name] for name in ("cell", "form", "precision"))
        gradients = settings["direction"] != MODES[0]

        def compiled(implementation: str) -> Compiled:
            function = computation(
                cell, implementation, gradients=gradients, form=form, precision=precision
            )
            return self.program(function, *operands(cell, case, form), steps=case.steps)

        result = compiled(kernel)
        expected = 1 + gradients
        if len(result.launches) != expected:
            raise RuntimeError(f"expected {expected} launches, found {result.launches}")
        row = dict.fromkeys(
            ("registers", "spilled_bytes", "shared_bytes", "bundles_per_step",
             "xla_bundles_per_step", "of_xla", "vector_memory_bytes")
        )  # fmt: skip
        row |= {"launches": len(result.launches), **result.columns}
        if self.device.platform == "tpu":
            if row["bundles_per_step"] is None:
                raise RuntimeError("the bundles of its time loop could not be counted")
            row["xla_bundles_per_step"] = compiled("reference").columns["bundles_per_step"]
            if row["bundles_per_step"] and row["xla_bundles_per_step"]:
                row["of_xla"] = row["bundles_per_step"] / row["xla_bundles_per_step"]
        return {
            "benchmark": "compile_only",
            "target": self.target,
            "kernel": kernel,
            **settings,
            **case._asdict(),
            **row,
            "versions": versions(),
        }

    def train_step(self, kernel: str, precision: str) -> dict[str, Any]:
        """Return the row of the whole step of the ``dien`` preset.

        Raises:
          RuntimeError: unless it has two launches forward and two backward.
        """
        config = preset("dien")
        named: Any = {"recurrence": kernel, "recurrence_precision": precision}
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **named))
        with assume(self.device):
            step, arguments = step_and_arguments(config)
        result = self.program(step, *arguments)
        directions = Counter("forward" if name in FORWARD else name for name in result.launches)
        if directions != {"forward": 2, "recurrence_backward": 2}:
            raise RuntimeError(f"expected two launches in each direction, found {result.launches}")
        cost: Any = result.program.cost_analysis() or {}
        memory: Any = result.program.memory_analysis()
        return {
            "benchmark": "compile_only, train step",
            "target": self.target,
            "kernel": kernel,
            "precision": precision,
            "batch": config.train.batch_size,
            "steps": config.train.max_history,
            "launches": ", ".join(
                f"{count} {name}" for name, count in Counter(result.launches).items()
            ),
            "gflop": cost["flops"] / 1e9 if "flops" in cost else None,
            "mbytes": cost["bytes accessed"] / 1e6 if "bytes accessed" in cost else None,
            "peak_mbytes": memory.peak_memory_in_bytes / 1e6,
            "versions": versions(),
        }


def _resources(kernels: Sequence[aot_cuda.Kernel]) -> dict[str, Any]:
    """Return the largest resources of a program's recurrence kernels."""
    ours = [kernel for kernel in kernels if kernel.name.startswith("recurrence")]
    if not ours:
        return {}
    return {
        "registers": max(kernel.registers for kernel in ours),
        "spilled_bytes": max(kernel.spilled_stores + kernel.spilled_loads for kernel in ours),
        "shared_bytes": max(kernel.shared_bytes for kernel in ours),
    }


def step_and_arguments(config: Config) -> tuple[Callable, tuple]:
    """Return a train step on a small vocabulary, and the shapes of its arguments."""
    schema = schema_of(ITEMS, 20, 500)
    statistics = blank_statistics(schema) if config.model.statistics else {}
    reads = config.model.reads
    factors = blank_factors(schema, reads["transitions"]) if reads["factors"] else {}
    features = FeatureTables({"category": np.zeros(ITEMS, np.int32)}, {}, statistics, factors)
    sampler = make_sampler(np.ones(ITEMS), config.model.auxiliary_distribution)
    batch = example_batch(
        schema, batch_size=config.train.batch_size, steps=config.train.max_history
    )
    state = jax.eval_shape(lambda: create_state(config, schema, 100, seed=0))
    return make_train_step(config, schema, 100), (state, Tables(features, sampler), batch)


def versions() -> dict[str, str]:
    """Return the versions on which a figure depends."""
    installed = {"python": platform.python_version()}
    for package in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def kernels_for(target: str) -> list[Implementation]:
    """Return every kernel that runs on the target."""
    return [name for name, kernel in KERNELS.items() if kernel.fits(DEVICES[target])]


def refusal(
    kernel: Implementation, case: Case, cell: Cell, form: Form, precision: str
) -> str | None:
    """Return the kernel's reason to refuse a shape or a precision, or None."""
    try:
        plan = Plan(cell, form, jax.lax.Precision[precision.upper()])
        shape = Shape(case.batch, case.steps, case.hidden)
        fused.with_blocks(plan, backend(kernel), shape)
    except (ValueError, NotImplementedError) as error:
        return str(error)
    return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--target", required=True, choices=[*DEVICES, *slices.SLICES])
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[10**8],
        help="rows of the items' table, for a target of several devices",
    )
    parser.add_argument(
        "--updates",
        nargs="+",
        default=["lazy_adam"],
        help="updates of embeddings, for a target of several devices",
    )
    parser.add_argument("--hidden", nargs="+", type=int, default=[36, 128])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--forms", nargs="+", default=get_args(Form), choices=get_args(Form))
    parser.add_argument(
        "--precisions", nargs="+", default=["highest", "default"], choices=get_args(Precision)
    )
    parser.add_argument(
        "--quick", action="store_true", help="the train step alone, with the first precision"
    )
    options = parse(parser, arguments, hidden=1, batch=1, steps=1)
    if options.quick:
        options.hidden, options.batch, options.steps = [36], 128, 100
        options.cells, options.forms = ["augru"], ["paper"]
        options.precisions = ["highest", "default"]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, print and write the rows."""
    options = _options(arguments)
    if options.target in slices.SLICES:
        _several_devices(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiler = Compiler(options.target, Path(folder))
        except (ModuleNotFoundError, RuntimeError) as error:
            _say(f"error: {error}")
            raise SystemExit(2) from error
        rows, steps, refused, failures = _all(compiler, options)
    if rows:
        print_rows(rows, (*SHAPE, *(TPU_COLUMNS if "tpu" in options.target else GPU_COLUMNS)))
    if steps:
        print("\nThe train step of the `dien` preset:\n")
        print_rows(steps, STEP_COLUMNS)
    if refused:
        print("\nNot supported:\n\n" + "\n".join(f"- {line}" for line in refused))
    print(f"\n{options.target}, batch {options.batch}, {options.steps} steps, {versions()}")
    if options.json:
        print(f"written to {options.json}")
    if failures:
        raise SystemExit("\n".join(f"error: {line}" for line in failures))


def _several_devices(options: argparse.Namespace) -> None:
    """Compile the sharded train step, print and write its rows."""
    jax.config.update("jax_platforms", "cpu")
    device = DEVICES[slices.SLICES[options.target][0]]
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if device.platform == "tpu":
            os.environ.update(aot_tpu.surroundings(Path(folder)) | slices.SURROUNDINGS)
        try:
            chips = slices.devices(options.target)
        except (ModuleNotFoundError, RuntimeError) as error:
            _say(f"error: {error}")
            raise SystemExit(2) from error
        for update, size in itertools.product(options.updates, options.rows):
            config = slices.without_statistics(preset("dien"), update)
            sizes = {"rows": size, "batch": options.batch, "steps": options.steps}
            try:
                row = slices.train_step(config, chips, device, **sizes)
            except Exception as error:  # any error of a compiler: the others are still compiled
                failures.append(f"{update}, {size:,} rows: {_first_line(error)}")
                continue
            named = {"benchmark": "compile_only, several devices", "target": options.target}
            rows.append(named | row | {"versions": versions()})
            if options.json:
                write_rows(options.json, rows)
    print_rows(rows, slices.COLUMNS)
    print(f"\n{options.target}, {versions()}")
    if failures:
        raise SystemExit("\n".join(f"error: {line}" for line in failures))


def _all(
    compiler: Compiler, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], list[str]]:
    """Return rows of kernels, rows of train steps, refusals and failures."""
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    refused: list[str] = []
    failures: list[str] = []

    def attempt(
        table: list[dict[str, Any]], name: str, make: Callable[..., Any], **keywords: Any
    ) -> None:
        start = time.perf_counter()
        try:
            table.append(make(**keywords))
        except Exception as error:  # any error of a compiler: the others are still compiled
            failures.append(f"{name}: {_first_line(error)}")
            _say(f"{name}: failed")
            return
        _say(f"{name}: {time.perf_counter() - start:.0f} s")
        if options.json:
            write_rows(options.json, rows + steps)

    for kernel in kernels_for(options.target):
        supported: list[str] = []
        for precision, hidden, cell, form in itertools.product(
            options.precisions, options.hidden, options.cells, options.forms
        ):
            if options.quick and supported:
                break
            case = Case(options.batch, options.steps, hidden)
            name = f"{kernel}, {cell}, {form}, {precision}, H {hidden}"
            with assume(compiler.device):
                reason = refusal(kernel, case, cell, form, precision)
            if reason:
                refused.append(f"{name}: {reason}")
                continue
            supported.append(precision)
            settings = {"kernel": kernel, "cell": cell, "form": form, "precision": precision}
            for direction in () if options.quick else MODES:
                attempt(
                    rows, f"{name}, {direction}", compiler.row,
                    case=case, **settings, direction=direction,
                )  # fmt: skip
        if supported:
            attempt(
                steps, f"{kernel}, {supported[0]}, train step", compiler.train_step,
                kernel=kernel, precision=supported[0],
            )  # fmt: skip
    return rows, steps, refused, failures


if __name__ == "__main__":
    main()
