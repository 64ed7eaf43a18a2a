"""What a compiled program sends between devices and holds, read from its text.

Bytes are those that one device sends by a ring: ``(n - 1) / n`` of the result of an all-gather and
of an all-to-all, twice that of an all-reduce.
"""

import re
from collections import Counter
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(r"\b(pred|[suf]\d+)\[([\d,]*)\]")
_LINE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")


class Collective(NamedTuple):
    """One operation that communicates, and the bytes that one device sends in it."""

    kind: str
    shapes: tuple[str, ...]
    sent: float


def collectives(text: str, devices: int) -> list[Collective]:
    """Every operation of a program that communicates; those of loops once."""
    found = []
    for result, kind in _LINE.findall(text):
        size = 0
        for dtype, dimensions in _SHAPE.findall(result):
            count = SIZES[dtype]
            for dimension in filter(None, dimensions.split(",")):
                count *= int(dimension)
            size += count
        share = (devices - 1) / devices * (2 if kind == "all-reduce" else 1)
        shapes = tuple(f"{dtype}[{sizes}]" for dtype, sizes in _SHAPE.findall(result))
        found.append(Collective(kind, shapes, size * share))
    return found


def kinds(found: list[Collective]) -> dict[str, int]:
    """How many there are of each kind."""
    return dict(Counter(one.kind for one in found))


def shapes(text: str) -> set[tuple[int, ...]]:
    """The dimensions of every array of a program."""
    return {tuple(int(n) for n in sizes.split(",") if n) for _, sizes in _SHAPE.findall(text)}
