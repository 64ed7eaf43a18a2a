"""Draw DIEN for its page, ``docs/dien.svg``.

    python docs/tools/draw_model.py [--check]

``--check`` writes nothing and fails if the picture is stale.
"""

import sys

import tyro
from draw_architecture import DOCS, INK, LINE, arrow, box, picture, text, write

STEPS = ("1", "2", "3", "T")
BOX, HEIGHT = 92.0, 44.0
COLUMNS = (150.0, 268.0, 386.0, 540.0)
"""Centres of the steps; a gap separates the last from the others."""
EVENTS, EXTRACTOR, ATTENTION, EVOLUTION = 420.0, 310.0, 200.0, 90.0
"""Top edges of the rows."""
RIGHT = 760.0
"""Centre of the click network."""


def label(y: float, name: str) -> str:
    """Return the name of a row, on its left."""
    return f'<g text-anchor="start">{text(16, y + HEIGHT / 2 + 5, name, 13, bold=True)}</g>'


def node(x: float, y: float, content: str, fill: str, width: float = BOX) -> str:
    """Return a box with its symbol."""
    return box(x - width / 2, y, width, HEIGHT, fill) + text(x, y + HEIGHT / 2 + 5, content, 14)


def dashed(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a dashed line, which marks computation in training only."""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{LINE}" '
        'stroke-width="2" stroke-dasharray="5 4"/>'
    )


def draw() -> str:
    """Draw behaviours at the bottom, interests above them, the click network on the right."""
    rows = (
        (EVOLUTION, "evolution"),
        (ATTENTION, "attention"),
        (EXTRACTOR, "extractor"),
        (EVENTS, "history"),
    )
    parts = [label(y, name) for y, name in rows]
    for place, (x, step) in enumerate(zip(COLUMNS, STEPS, strict=True)):
        parts.append(node(x, EVENTS, f"event {step}", "ground"))
        parts.append(node(x, EXTRACTOR, f"GRU h{step}", "layer"))
        parts.append(node(x, ATTENTION, f"a{step}", "command"))
        parts.append(node(x, EVOLUTION, f"AUGRU s{step}", "kernels"))
        for low, high in ((EVENTS, EXTRACTOR), (EXTRACTOR, ATTENTION), (ATTENTION, EVOLUTION)):
            parts.append(arrow(x, low, x, high + HEIGHT + 2))
        if place:
            before = COLUMNS[place - 1]
            for y in (EXTRACTOR, EVOLUTION):
                middle = y + HEIGHT / 2
                parts.append(arrow(before + BOX / 2, middle, x - BOX / 2 - 2, middle))
            parts.append(dashed(before + 20, EXTRACTOR + HEIGHT, x - 20, EVENTS))
    parts.append(text((COLUMNS[0] + COLUMNS[1]) / 2 + 2, EVENTS + 70, "dashed: auxiliary loss", 13))
    wide = 210.0
    parts.append(node(RIGHT, EVENTS, "candidate, user, request", "ground", wide))
    parts.append(node(RIGHT, EVOLUTION, "click network", "layer", wide))
    parts.append(text(RIGHT, EVOLUTION - 50, "probability of a click", 14, bold=True))
    parts.append(arrow(RIGHT, EVOLUTION, RIGHT, EVOLUTION - 42))
    parts.append(arrow(RIGHT, EVENTS, RIGHT, EVOLUTION + HEIGHT + 2))
    last, first = COLUMNS[-1] + BOX / 2, RIGHT - wide / 2
    parts.append(arrow(last, EVOLUTION + HEIGHT / 2, first - 2, EVOLUTION + HEIGHT / 2))
    middle = ATTENTION + HEIGHT / 2
    parts.append(arrow(RIGHT, middle, last + 2, middle))
    parts.append(text((last + RIGHT) / 2, middle - 8, "candidate", 13))
    parts.append(f'<circle cx="{RIGHT:g}" cy="{middle:g}" r="3" fill="{INK}"/>')
    return picture("The network of DIEN", EVENTS + 90, parts)


def main(*, check: bool = False) -> int:
    """Write or check the picture; return the exit status."""
    return write({DOCS / "dien.svg": draw()}, "draw_model.py", check=check)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
