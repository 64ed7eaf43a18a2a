"""Draw the pictures of ``docs/architecture.md``: ``python docs/tools/draw_architecture.py``.

The layers come from the contract "Imports go down" in ``pyproject.toml``, so the picture shows the
rule that import-linter checks. ``--check`` writes nothing and fails if a picture is stale.
"""

import sys
import tomllib
from collections.abc import Sequence
from html import escape
from pathlib import Path

import tyro

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
CONTRACT = "Imports go down"
KERNELS = "dien_kernels"

CAPTIONS = {
    "server": "HTTP: routes, queue, reload",
    "inspection": "explanations and the report",
    "experiments": "comparison, tables",
    "training": "one run, from start to result",
    "inference": "ranking, exported files",
    "runs": "the run folder: checkpoints, scores",
    "devices": "arrays divided over several devices",
    "steps": "jitted functions: train, score, rank",
    "model": "Flax modules, equations",
    "preparation": "logs to dataset folders",
    "config": "settings and presets",
    "statistics": "counts, vectors of values",
    "data": "dataset folder, loader, batches",
    "metrics": "scores, intervals, diagnostics",
    "utils": "files, console, plots",
    "errors": "UserError",
    "_lazy": "names, when used",
    "_version": "the version",
    KERNELS: "GRU, AGRU, AUGRU; imports jax alone",
}
"""A caption for each package of the contract."""

PATH = [
    ("config", "settings"),
    ("prepare", "log to folder"),
    ("dataset", "mapped arrays"),
    ("loader", "batches"),
    ("model", "click logits"),
    ("step", "one update"),
    ("train", "run folder"),
    ("rank", "sorted items"),
]
"""The stages of the data flow, each with its product."""

INK, LINE, PAPER = "#1f2937", "#94a3b8", "#ffffff"
FILLS = {"command": "#fef3c7", "layer": "#e0e7ff", "ground": "#e5e7eb", "kernels": "#d1fae5"}
WIDTH, MARGIN, GAP = 920, 20, 14


def layers() -> list[list[str]]:
    """Return the contract's layers from top to bottom, each a list of modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["name"] == CONTRACT)
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    """Return a rounded rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
        f'fill="{FILLS[fill]}" stroke="{LINE}"/>'
    )


def text(x: float, y: float, content: str, size: int, *, bold: bool = False) -> str:
    """Return a centred line of text."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight}>{escape(content)}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line with an arrowhead at its end."""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" '
        'stroke-width="1.5" marker-end="url(#head)"/>'
    )


def picture(title: str, height: float, parts: Sequence[str]) -> str:
    """Return the SVG file, with a white background for dark pages."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
            f'font-family="system-ui, sans-serif" fill="{INK}" text-anchor="middle" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto">'
            f'<path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="{PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def draw_layers() -> str:
    """Draw the layers of ``dien_jax``, commands on top, and ``dien_kernels`` beside the model."""
    commands, *floors = layers()
    parts, y, inner = [], float(MARGIN), WIDTH - 2 * MARGIN - 3 * GAP
    height = 58.0
    parts.append(box(MARGIN, y, inner, height, "command"))
    parts.append(text(MARGIN + inner / 2, y + 24, "commands", 15, bold=True))
    parts.append(text(MARGIN + inner / 2, y + 44, " · ".join(commands), 13))
    for floor in floors:
        y += height + GAP
        fill = "ground" if floor is floors[-1] else "layer"
        modules = [*floor, KERNELS] if "model" in floor else floor
        width = (inner - GAP * (len(modules) - 1)) / len(modules)
        for index, name in enumerate(modules):
            x = MARGIN + index * (width + GAP)
            parts.append(box(x, y, width, height, "kernels" if name == KERNELS else fill))
            parts.append(text(x + width / 2, y + 24, name, 15, bold=True))
            parts.append(text(x + width / 2, y + 44, CAPTIONS[name], 13))
    bottom = y + height
    x = WIDTH - MARGIN
    parts.append(arrow(x, MARGIN, x, bottom))
    middle = (MARGIN + bottom) / 2
    label = text(0, 0, "imports", 13)
    parts.append(f'<g transform="translate({x - 14:g} {middle:g}) rotate(90)">{label}</g>')
    return picture("The layers of dien_jax: imports go down", bottom + MARGIN, parts)


def draw_path() -> str:
    """Draw the stages from settings and a log to a ranking, from left to right."""
    between = 20.0
    width = (WIDTH - 2 * MARGIN - between * (len(PATH) - 1)) / len(PATH)
    height, parts = 58.0, []
    for index, (name, product) in enumerate(PATH):
        x = MARGIN + index * (width + between)
        parts.append(box(x, MARGIN, width, height, "layer"))
        parts.append(text(x + width / 2, MARGIN + 24, name, 15, bold=True))
        parts.append(text(x + width / 2, MARGIN + 44, product, 11))
        if index:
            middle = MARGIN + height / 2
            parts.append(arrow(x - between + 2, middle, x - 2, middle))
    return picture("The data flow", height + 2 * MARGIN, parts)


def write(drawn: dict[Path, str], script: str, *, check: bool) -> int:
    """Write or check the pictures of a script; return the exit status."""
    if not check:
        for file, content in drawn.items():
            file.write_text(content, encoding="utf-8")
        return 0
    stale = [
        file
        for file, content in drawn.items()
        if not file.exists() or file.read_text(encoding="utf-8") != content
    ]
    for file in stale:
        print(f"{file.relative_to(ROOT)} is stale: python docs/tools/{script}")
    return 1 if stale else 0


def main(*, check: bool = False) -> int:
    """Write or check the pictures; return the exit status."""
    drawn = {DOCS / "architecture.svg": draw_layers(), DOCS / "data-path.svg": draw_path()}
    return write(drawn, "draw_architecture.py", check=check)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
