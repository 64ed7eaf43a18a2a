"""JSON files, atomic files, and the user's cache folder."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from dien_jax.errors import UserError


def user_cache() -> Path:
    """Return the folder for this user's downloads, simulated data and compiled programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dien_jax"


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; anything else is a :class:`UserError`."""
    try:
        values = json.loads(file.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: expected JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(values).__name__}")
    return values


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write an object without NaN as indented JSON, completely or not at all."""
    with atomic_file(file) as stream:
        stream.write(json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_path(file: Path) -> Iterator[Path]:
    """Yield a path that becomes ``file`` when the block ends, and is deleted if it raises."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[TextIO]:
    """Yield a text file that replaces ``file`` when the block ends, or is deleted if it raises."""
    with atomic_path(file) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def check_out(file: Path, *suffixes: str) -> None:
    """Check a file to write, its suffix and folder, before anything is computed for it."""
    if suffixes and file.suffix.lower() not in suffixes:
        raise UserError(f"{file} cannot be written: expected the name of a {suffixes[0]} file")
    if file.is_dir():
        raise UserError(f"{file} cannot be written: it is a folder")
    if not file.absolute().parent.is_dir():
        raise UserError(f"{file} cannot be written: there is no folder {file.parent}")
