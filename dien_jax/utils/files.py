"""JSON files, atomic files, and the user's cache folder."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from dien_jax.errors import UserError, reading, writing
from dien_jax.utils.json_values import parse_json

T = TypeVar("T")

OPEN_FILES = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
"""Starts of paths of files that a process has open already; another file cannot replace them."""
LARGEST_JSON = 64 << 20
"""Bytes of the largest JSON file that is read."""
LOCK_FILE = ".lock"
"""File in a folder that one process at a time may write; it stays, and is locked or free."""


def user_cache() -> Path:
    """Return the folder for this user's downloads, simulated data and compiled programs.

    Raises:
      UserError: when the user has no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "dien_jax"
    except RuntimeError as error:
        problem = "this user has no home folder for files to keep"
        raise UserError(f"{problem}; set HOME or XDG_CACHE_HOME") from error


def read_json(file: Path, kind: Callable[..., T]) -> T:
    """Return a JSON file as a value of a type; see :func:`dien_jax.utils.json_values.parse_json`.

    A file that cannot be read, is larger than ``LARGEST_JSON`` or holds another value is a
    :class:`UserError`.
    """
    with reading(file), file.open("rb") as stream:
        content = stream.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise UserError(f"{file}: expected JSON of at most {LARGEST_JSON >> 20} MiB, found more")
    return parse_json(content, kind, file)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write an object without NaN as indented JSON, completely or not at all."""
    with atomic_file(file) as stream:
        stream.write(json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_path(file: Path) -> Iterator[Path]:
    """Yield a path that becomes ``file`` when the block ends, and is deleted if it raises.

    A symbolic link stays, and the file it points to is replaced. A device or a pipe cannot be
    replaced: the path is then ``file`` itself.
    """
    if _is_written_into(file):
        yield file
        return
    target = file.resolve()
    remove_left_partials(target)
    partial = partial_path(target)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[TextIO]:
    """Yield a text file that replaces ``file`` when the block ends, or is deleted if it raises.

    See :func:`atomic_path` for links, devices and pipes.
    """
    with atomic_path(file) as path:
        # "x" makes a new file, and never follows a link that waits in its place.
        mode: Literal["w", "x"] = "w" if path == file else "x"
        with path.open(mode, encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            if mode == "x":
                os.fsync(stream.fileno())


def _is_written_into(file: Path) -> bool:
    """Return whether a path is a device, a pipe or an open file of this process."""
    is_open_file = str(file.absolute()).startswith(OPEN_FILES)
    return file.exists() and (is_open_file or not (file.is_file() or file.is_dir()))


def partial_path(target: Path, kind: str = "") -> Path:
    """Return the path of this process for what becomes ``target``; ``kind`` is empty or "work-"."""
    return target.with_name(f"{_partial_name(target)}{kind}{os.getpid()}")


def _partial_name(target: Path) -> str:
    return f".{target.name[:200]}.partial-"


def remove_left_partials(target: Path) -> None:
    """Remove the partial files and folders of processes that were killed while writing a target.

    They are its siblings ``.NAME.partial-PROCESS`` and ``.NAME.partial-work-PROCESS``.
    """
    start = _partial_name(target)
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        number = path.name.removeprefix(start).removeprefix("work-")
        if not path.name.startswith(start) or not number.isdecimal():
            continue
        is_folder = path.is_dir() and not path.is_symlink()
        if (int(number) == os.getpid() and not is_folder) or not _is_running(int(number)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if is_folder else path.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes from writing into a folder; the lock of a killed process is free.

    Args:
      folder: the folder; it exists.
      name: name of the folder in messages, such as ``--out study``.

    Raises:
      UserError: when another process holds the lock, with its number.
    """
    with contextlib.ExitStack() as stack:
        with writing(folder / LOCK_FILE):
            stream = stack.enter_context((folder / LOCK_FILE).open("a+", encoding="utf-8"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                holder = stream.read(20) or "that has just started"
                problem = f"{name} is in use by process {holder}; wait for its end"
                raise UserError(problem) from error
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
        yield


def check_utf8(path: Path, flag: str = "") -> None:
    """Refuse a path that is not UTF-8, for libraries that take no other."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        name = f"{flag} {path}" if flag else str(path)
        remedy = "rename it, or use a locale of UTF-8"
        raise UserError(f"{name}: expected a path of UTF-8 characters; {remedy}") from error


def check_out(file: Path, *suffixes: str) -> None:
    """Check a file to write, its suffix and folder, before anything is computed for it."""
    if suffixes and file.suffix.lower() not in suffixes:
        raise UserError(f"{file} cannot be written: expected the name of a {suffixes[0]} file")
    if file.is_dir():
        raise UserError(f"{file} cannot be written: it is a folder")
    if not file.absolute().parent.is_dir():
        raise UserError(f"{file} cannot be written: there is no folder {file.parent}")
