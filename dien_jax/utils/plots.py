"""Pictures as files, and texts that fit into them; matplotlib is imported when one is drawn."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

from dien_jax.errors import UserError
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def check_picture(file: Path) -> None:
    """Refuses a picture that could not be drawn or written, before anything is computed for it.

    Raises:
      UserError: saying what has to be another.
    """
    if file.suffix.lower() != ".png":
        raise UserError(f"--out must name a .png file, got {file}")
    if file.is_dir():
        raise UserError(f"--out {file} cannot be written: it is a folder")
    if not file.parent.is_dir():
        raise UserError(f"--out {file} cannot be written: there is no folder {file.parent}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("--out needs matplotlib: pip install 'dien_jax[plot]'") from None


def save_picture(figure: "Figure", file: Path) -> None:
    """Writes a picture, all of it or nothing.

    Raises:
      UserError: when the file cannot be written.
    """
    with drawing(), writing(file), atomic_path(file) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Lets matplotlib draw a box for a character that its font lacks, without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turns what a block cannot write into a :class:`UserError` that names ``--out``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {file} cannot be written: {error.strerror or error}") from error


def shortened(text: str, width: int) -> str:
    """The text in at most ``width`` columns of a terminal, its middle left out if need be."""
    if cell_len(text) <= width:
        return text
    kept = len(text)
    while True:
        kept -= 1
        head, tail = (kept + 1) // 2, kept // 2
        short = f"{text[:head]}…{text[len(text) - tail :]}"
        if cell_len(short) <= width or not kept:
            return short


def padded(text: str, width: int) -> str:
    """The text, shortened and filled with blanks to ``width`` columns of a terminal."""
    text = shortened(text, width)
    return text + " " * (width - cell_len(text))
