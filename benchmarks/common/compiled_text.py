"""Collectives and array shapes of a compiled program, read from its HLO text.

Bytes are what one of n devices sends in a ring: ``(n - 1) / n`` of the result of an all-gather or
all-to-all, and twice as much for an all-reduce.
"""

import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_SHAPE = re.compile(r"\b(pred|b?[suf]\d+)\[([\d,]*)\]")
_LINE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$", re.MULTILINE)
_CALLED = re.compile(r"\b(?:body|condition|to_apply|calls)=%?([\w.-]+)")
_LOOP = re.compile(r"\bbody=%?([\w.-]+)")


class Collective(NamedTuple):
    """One collective operation, and the bytes that one device sends in it.

    ``in_loop`` is true in the body of a loop, which may run any number of times, or never.
    """

    kind: str
    shapes: tuple[str, ...]
    sent: float
    in_loop: bool = False


def collectives(text: str, devices: int) -> list[Collective]:
    """Return every collective of a program; one in a loop appears once."""
    parts = _computations(text)
    in_loops = _reached(parts, {name for body in parts.values() for name in _LOOP.findall(body)})
    found = []
    for name, body in parts.items():
        for result, kind, started in _LINE.findall(body):
            shapes = _SHAPE.findall(result)
            if started and kind != "all-reduce":  # operands, then results
                shapes = shapes[len(shapes) // 2 :]
            size = sum(SIZES[dtype] * math.prod(_dimensions(sizes)) for dtype, sizes in shapes)
            share = (devices - 1) / devices * (2 if kind == "all-reduce" else 1)
            named = tuple(f"{dtype}[{sizes}]" for dtype, sizes in shapes)
            found.append(Collective(kind, named, size * share, name in in_loops))
    return found


def shapes(text: str) -> set[tuple[int, ...]]:
    """Return the dimensions of every array of a program."""
    return {_dimensions(sizes) for _, sizes in _SHAPE.findall(text)}


def _dimensions(sizes: str) -> tuple[int, ...]:
    return tuple(int(size) for size in sizes.split(",") if size)


def _computations(text: str) -> dict[str, str]:
    """Return the text of each computation by name."""
    starts = list(_COMPUTATION.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return {match[1]: text[match.end() : end] for match, end in zip(starts, ends, strict=True)}


def _reached(parts: dict[str, str], names: set[str]) -> set[str]:
    """Return the named computations, and all that they call, directly or not."""
    reached: set[str] = set()
    while names:
        reached |= names
        called = {name for one in names for name in _CALLED.findall(parts.get(one, ""))}
        names = called - reached
    return reached
