"""Compile for TPUs that are not attached, and count the bundles that their cores would execute.

A TPU core issues one VLIW bundle a cycle, in order, so the bundles that a time step executes are,
to first order, its cycles. libtpu compiles without a device and writes every scheduled bundle to
``*-final_bundles.txt``: one file for the top level, which calls one for each fusion, copy or
kernel. Scalar instructions alone decide which bundles are executed, so :func:`time_loops` runs
them, branches with their four delay slots included, and counts bundles.

Limits of the counts:

- a bundle may wait for memory, a matrix unit's result or a branch: cycles are at least the bundles;
- vector instructions are not run, and a scalar result of one is unknown; a forward branch on an
  unknown is not taken, a backward one raises;
- every scalar that a Pallas kernel loads is taken as the number of steps, as are the lengths of
  full histories, and an index argument of a fusion as half of it.
"""

import importlib
import importlib.util
import json
import operator
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

TARGETS = {"tpu-v5e": "v5e:2x2", "tpu-v6e": "v6e:2x2"}
DELAY_SLOTS = 4


def device(target: str) -> Any:
    """Return the first device of the target's topology; the target is a name in ``TARGETS``."""
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {tuple(TARGETS)}, got {target!r}")
    if importlib.util.find_spec("libtpu") is None:
        raise RuntimeError("compiling for an absent TPU needs its compiler: pip install libtpu")
    return topologies.get_topology_desc(TARGETS[target], platform="tpu").devices[0]


def compile_for(function: Callable, *arguments: Any, target: str) -> jax.stages.Compiled:
    """Compile ``function``, jitted or not, for the shapes and dtypes of the arguments."""
    sharding = SingleDeviceSharding(device(target))

    def abstract(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    return jitted.lower(*jax.tree.map(abstract, arguments)).compile()


def launches(compiled: jax.stages.Compiled) -> list[str]:
    """Return the names of the Pallas kernels that a program calls; a call in a loop counts once."""
    return _LAUNCH.findall(compiled.as_text() or "")


_LAUNCH = re.compile(
    r'%(\w+?)(?:\.[\d.]+)? = [^\n]* custom-call\([^\n]*custom_call_target="tpu_custom_call"'
)


def surroundings(folder: Path) -> dict[str, str]:
    """Return the environment in which libtpu starts without a TPU and dumps to ``folder``."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # Only the dumps that are read: dumping all takes longer than compiling.
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=^(final_bundles|original|deduplication-map)$",
    }


class TimeLoop(NamedTuple):
    """Bundles of a loop over time.

    Attributes:
      name: the kernel's, or ``while`` for a loop of XLA.
      step: bundles of an ordinary step, all rows: a trip of the loop, or of a kernel's inner loop.
      average: the same with the code around a kernel's inner loop, spread over the steps.
      operations: bundles a step of each operation that a loop of XLA calls.
      vector_memory: bytes of vector memory that a kernel reserves; 0 for a loop of XLA.
    """

    name: str
    step: float
    average: float
    operations: dict[str, float]
    vector_memory: int


def time_loops(make: str, target: str, *, steps: int, **keywords: Any) -> list[TimeLoop]:
    """Return the loops of ``steps`` steps in a program, in order.

    Args:
      make: ``"module:function"`` that takes the keywords and returns a function and its arguments;
        libtpu reads its settings when it starts, so the program is compiled in a new process.
      target: a name in ``TARGETS``.
      steps: T; loops of XLA with other trip counts are omitted.
      **keywords: JSON values for ``make``.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = "from benchmarks.aot.tpu import _compile_named as c; import sys; c(*sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, make, target, json.dumps(keywords)],
            env=os.environ | surroundings(Path(folder)), capture_output=True, text=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{make} did not compile for {target}:\n{done.stderr[-2000:]}")
        return count(Path(folder), steps)


def _compile_named(make: str, target: str, keywords: str) -> None:
    module, name = make.split(":")
    function, arguments = getattr(importlib.import_module(module), name)(**json.loads(keywords))
    compile_for(function, *arguments, target=target)


def count(folder: Path, steps: int) -> list[TimeLoop]:
    """Return the time loops of the one program with a dump in ``folder``."""
    dumps = _Dumps(folder)
    top = dumps.program("TLP")
    runs = top.run(loaded=None, given=None)
    loops = {}
    for first, last in top.loops():
        if runs[first] == steps:
            operations: dict[str, float] = {}
            for place in range(first, last + 1):
                for name, _ in top.calls(place):
                    bundles = sum(dumps.program(name).run(loaded=None, given=steps // 2))
                    operations[name] = bundles * runs[place] / steps
            step = sum(runs[first : last + 1]) / steps + sum(operations.values())
            loops[first] = TimeLoop("while", step, step, operations, 0)
    for place, run in enumerate(runs):
        for name, hlo in top.calls(place):
            if run == 1 and " custom-call(" in f" {hlo}":
                kernel = dumps.program(name)
                inner = [pair for pair in kernel.loops() if kernel.multiplies(*pair)]
                if inner:
                    first, last = min(inner, key=lambda pair: pair[1] - pair[0])
                    executed = kernel.run(loaded=steps, given=None)
                    loops[place] = TimeLoop(
                        name,
                        sum(executed[first : last + 1]) / steps,
                        sum(executed) / steps,
                        {},
                        dumps.vector_memory(name),
                    )
    return [loops[place] for place in sorted(loops)]


class _Dumps:
    """The dump files of one program."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._same: dict[str, str] = {}  # operations that share another one's bundles
        for path in folder.glob("*-deduplication-map.txt"):
            for entry in path.read_text().split("key:")[1:]:
                key, *others = entry.split("\n")
                self._same |= {name.strip(): key for name in others if name.startswith("  ")}

    def program(self, name: str) -> "_Program":
        return _Program(self._read(name, "final_bundles"))

    def vector_memory(self, name: str) -> int:
        sizes = re.findall(r"space=vmem, size = (0x[0-9a-f]+)", self._read(name, "original"))
        return sum(int(size, 16) for size in sizes)

    def _read(self, name: str, kind: str) -> str:
        pattern = re.compile(rf"\d+-{re.escape(self._same.get(name, name))}-\d+-{kind}\.txt")
        paths = [path for path in self._folder.iterdir() if pattern.fullmatch(path.name)]
        if len(paths) != 1:
            raise RuntimeError(f"{kind} of {name}: expected one file, found {paths}")
        return paths[0].read_text()


_ADDRESS = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})? *: ", re.MULTILINE)


class _Program:
    """One file of bundles, and the scalar core that runs it."""

    def __init__(self, text: str) -> None:
        self._texts = _ADDRESS.split(text)[1:]
        self._bundles = [_instructions(text) for text in self._texts]
        self._regions = {
            number: place
            for place, text in enumerate(self._texts)
            for number in re.findall(r"Start(?:/End empty)? region (\d+)", text)
        }

    def calls(self, place: int) -> list[tuple[str, str]]:
        """Return name and HLO of each operation that a bundle calls."""
        return re.findall(r"inlined_call [^;]*?/\* %(\S+) = (.*?) \*/", self._texts[place])

    def loops(self) -> list[tuple[int, int]]:
        """Return the first and last bundle of each loop, delay slots included."""
        return [
            (target, place + DELAY_SLOTS)
            for place, bundle in enumerate(self._bundles)
            for instruction in bundle
            if instruction.operation == "sbr.rel" and (target := self._target(instruction)) <= place
        ]

    def multiplies(self, first: int = 0, last: int | None = None) -> bool:
        """Return True where some bundle of a range uses a matrix unit."""
        return any("vmatmul" in text for text in self._texts[first : last and last + 1])

    def run(self, *, loaded: int | None, given: int | None) -> list[int]:
        """Count the executions of each bundle.

        Args:
          loaded: value of scalar loads, except of spilled registers; None when unknown.
          given: value of the program's scalar arguments; None when unknown.
        """
        runs = [0] * len(self._bundles)
        registers: dict[str, int | None] = {}
        place, jump, slots = 0, 0, -1
        while place < len(self._bundles):
            runs[place] += 1
            before = dict(registers)  # a bundle reads before it writes
            for one in self._bundles[place]:
                holds = _holds(one.predicate, before)
                if one.operation == "sbr.rel":
                    target = self._target(one)
                    if holds is None and target <= place:
                        raise RuntimeError(f"this loop's end is not known: {self._texts[place]}")
                    if holds:
                        jump, slots = target, DELAY_SLOTS
                        break
                elif holds is not False:
                    known = _evaluate(one, before, loaded, given)
                    registers[one.result] = None if holds is None else known
                elif one.otherwise:
                    registers[one.result] = before.get(_register(one.otherwise))
            place = jump if slots == 0 else place + 1
            slots -= 1
        return runs

    def _target(self, branch: "_Instruction") -> int:
        # A region that is marked nowhere is the one after everything.
        return self._regions.get(branch.operands[-1].split("$region")[-1], len(self._texts) - 1)


class _Instruction(NamedTuple):
    result: str  # a physical register, or the address of a spilled one
    operation: str
    predicate: str
    otherwise: str  # what a predicated move leaves
    operands: tuple[str, ...]


def _instructions(text: str) -> list[_Instruction]:
    """Return branches, and instructions that write or spill a scalar or predicate register."""
    instructions = []
    for part in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).strip("> {}\n").split(";;"):
        match = re.match(r" *%(\w+) = ([\w.]+)(.*)", part.strip(), re.DOTALL)
        if match is None:
            continue
        result, operation, rest = match.groups()
        predicate, otherwise = "", ""
        if guard := re.search(r"\((!?%\w+)(?:, (%\w+))?\)", rest):
            predicate, otherwise = guard[1], guard[2] or ""
            rest = rest.replace(guard[0], "")
        operands = tuple(one for one in re.split(r"[,\s]+", rest) if one)
        if operation == "sst" and "_spill" in rest:
            spill = _Instruction(operands[0], operation, predicate, otherwise, operands[1:])
            instructions.append(spill)
        elif operation == "sbr.rel" or (re.match("[sp]", result) and operation != "sphi"):
            # Values that meet in a loop share a register, so that sphi has nothing to do.
            result = _register(result)
            instructions.append(_Instruction(result, operation, predicate, otherwise, operands))
    return instructions


def _register(name: str) -> str:
    """Return the physical register of a name such as ``%s5898_s26``."""
    return name.rsplit("_", 1)[-1]


def _holds(predicate: str, registers: dict[str, int | None]) -> bool | None:
    if not predicate:
        return True
    value = registers.get(_register(predicate))
    return None if value is None else bool(value) != predicate.startswith("!")


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[..., int]] = {
    "smov.u32": lambda a: a,
    "pmov": lambda a: a,
    "sst": lambda a: a,
    "sadd.s32": operator.add,
    "ssub.s32": operator.sub,
    "smul.u32": operator.mul,
    "smulhi.u32": lambda a, b: (a * b) >> 32,
    "sc.u32": lambda a, b: (a + b) >> 32,
    "sand.u32": operator.and_,
    "sor.u32": operator.or_,
    "sxor.u32": operator.xor,
    "sshll.u32": operator.lshift,
    "sshrl.u32": operator.rshift,
    "sshra.s32": lambda a, b: _signed(a) >> b,
    "scalar_select": lambda predicate, yes, no: yes if predicate else no,
    "pneg": lambda a: 1 - a,
}


def _signed(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def _evaluate(
    one: _Instruction, registers: dict[str, int | None], loaded: int | None, given: int | None
) -> int | None:
    """Return the unsigned result of an instruction, or None."""
    if one.operation == "sld":
        return registers.get(one.operands[0]) if "_spill" in one.operands[0] else loaded
    if one.operation == "inlined_call_operand.":
        return given
    values = [
        int(name) % 2**32 if re.fullmatch(r"-?\d+", name) else registers.get(_register(name))
        for name in one.operands
    ]
    if one.operation in ("pnand", "pand", "por"):
        decisive = int(one.operation == "por")  # an operand that settles the result alone
        if decisive in values:
            settled: int | None = decisive
        else:
            settled = None if None in values else 1 - decisive
        return 1 - settled if one.operation == "pnand" and settled is not None else settled
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if one.operation.startswith("scmp."):
        _, relation, kind, *_ = one.operation.split(".")
        left, right = (_signed(value) if kind == "s32" else value for value in known)
        return int(_COMPARE[relation](left, right))
    if one.operation in _ARITHMETIC:
        return _ARITHMETIC[one.operation](*known) % 2**32
    return None
