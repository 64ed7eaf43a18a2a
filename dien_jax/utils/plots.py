"""Figures as PNG files, and text that fits into them; matplotlib is imported only to draw."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from dien_jax.errors import require, writing
from dien_jax.utils.files import atomic_path, check_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
LONGEST_SIDE = 2**16 - 1  # pixels; matplotlib before 3.10 draws no more, nor do browsers show it
SOFTWARE = "dien_jax"  # name of the program that drew a figure, in its file


def check_picture(file: Path, **options: Any) -> None:
    """Check that a figure can be drawn and written; ``options`` are those of ``check_out``."""
    check_out(file, ".png", is_ours=f"Software\0{SOFTWARE}".encode(), **options)
    require("plot", "drawing a figure")


def save_picture(figure: "Figure", file: Path) -> None:
    """Write a figure as PNG, completely or not at all; a very long one is scaled down."""
    dots = min(DOTS_PER_INCH, LONGEST_SIDE / max(figure.get_size_inches()))
    with drawing(), writing(file), atomic_path(file) as path:
        figure.savefig(path, format="png", dpi=dots, metadata={"Software": SOFTWARE})


def new_figure(
    width: float, height: float, columns: int, **options: Any
) -> tuple["Figure", "list[Axes]"]:
    """Return a figure of a size in inches, and its row of axes; options are of ``subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False, **options).ravel().tolist()
    for axes in panels:
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Silence matplotlib's warning about characters that its font lacks; it draws boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def shortened(text: str, width: int) -> str:
    """Return the text in at most ``width`` columns of a terminal, cut in the middle."""
    kept, short = len(text), text
    while cell_len(short) > width and kept:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def padded(text: str, width: int) -> str:
    """Return the text, shortened or padded with blanks to ``width`` columns of a terminal."""
    return set_cell_size(shortened(text, width), width)
