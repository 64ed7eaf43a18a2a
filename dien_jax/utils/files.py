"""JSON files, atomic files, and the user's cache folder."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dien_jax.errors import UserError, reading, writing
from dien_jax.utils.json_values import parse_json

T = TypeVar("T")

OPEN_FILES = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")  # no file can replace these
MARKED = 500  # bytes at the start of a file that are searched for the mark of its writer
LARGEST_JSON = 64 << 20  # maximum size of a JSON file in bytes
LOCK_FILE = ".lock"  # in a folder that one process at a time may write; never removed

MAPPED: dict[str, int] = {}  # files that this process has mapped, and their sizes then, in bytes
_unfinished: list[Path] = []  # partial files and folders, each after the parents made for it

_PARTIAL = re.compile(r"\..*\.partial-(work-)?\d+", re.DOTALL)


def user_cache() -> Path:
    """Return the folder for this user's downloads, simulated data and compiled programs."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "dien_jax"
    except RuntimeError as error:
        problem = "this user has no home folder for files to keep"
        raise UserError(f"{problem}; set HOME or XDG_CACHE_HOME") from error


def read_bytes(file: Path, most: int) -> bytes:
    """Return the bytes of a file; raise ``UserError``, without reading on, if over ``most``."""
    with reading(file), file.open("rb") as stream:
        found = stream.read(most + 1)
    if len(found) > most:
        raise UserError(f"{file}: expected at most {most:,} bytes, found more")
    return found


def read_json(file: Path, kind: Callable[..., T]) -> T:
    """Return a JSON file of limited size as a value of a type, see :func:`parse_json`."""
    return parse_json(read_bytes(file, LARGEST_JSON), kind, file)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write an object without NaN as indented JSON, completely or not at all."""
    write_text(file, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file, completely or not at all; see :func:`atomic_path`."""
    with writing(file), atomic_path(file) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_array(file: Path, array: Any) -> None:
    """Write a NumPy array, completely or not at all."""
    import numpy as np  # imported here: commands without arrays start faster

    with writing(file), atomic_path(file) as partial, partial.open("wb") as stream:
        np.save(stream, array)


@contextlib.contextmanager
def atomic_path(file: Path) -> Iterator[Path]:
    """Yield a path that becomes ``file`` when the block ends, and is deleted if it raises.

    The block opens the path and writes it; at the end, its content is synced to disk. A symbolic
    link stays, and the file it points to is replaced. A device or a pipe cannot be replaced: the
    path is then ``file`` itself. If another process is writing ``file``, a ``UserError`` names it.
    """
    if is_written_into(file):
        yield file
        return
    target = Path(os.path.realpath(file))  # a loop of links stays one
    partial = partial_path(target, str(os.getpid()))
    with _claimed(target, partial) as handle:
        yield partial
        os.fsync(handle)
        partial.replace(target)


@contextlib.contextmanager
def partial_folder(target: Path, kind: str = "") -> Iterator[Path]:
    """Yield a new hidden folder next to ``target``, which is removed when the block ends.

    The block renames it to ``target``, or uses it as a working folder. Missing parents are created,
    and removed again if they are empty. ``kind`` is empty or "work-", for two folders of one
    process. If another process has such a folder for ``target``, a ``UserError`` names it.
    """
    target = target.absolute()
    partial = partial_path(target, f"{kind}{os.getpid()}")
    new_parents = [parent for parent in target.parents if not parent.exists()]
    _unfinished.extend(reversed(new_parents))
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with _claimed(target, partial, is_folder=True):
            yield partial
    finally:
        for parent in new_parents:
            with contextlib.suppress(OSError):  # not empty: it holds the target
                parent.rmdir()
            _unfinished.remove(parent)


def is_written_into(file: Path) -> bool:
    """Return whether a path is a device, a pipe or an open file of this process."""
    is_open_file = str(file.absolute()).startswith(OPEN_FILES)
    return file.exists() and (is_open_file or not (file.is_file() or file.is_dir()))


def partial_path(target: Path, end: str = "") -> Path:
    """Return the path of a partial ``target`` of process ``end``, or the prefix of all of them."""
    name = os.fsdecode(os.fsencode(target.name)[:200])
    return target.with_name(f".{name}.partial-{end}")


@contextlib.contextmanager
def _claimed(target: Path, partial: Path, *, is_folder: bool = False) -> Iterator[int]:
    """Yield the handle of a new partial file or folder, which is locked until it is removed."""
    with contextlib.ExitStack() as stack:
        _unfinished.append(partial)
        stack.callback(_unfinished.remove, partial)
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_CREAT
        while True:
            if partial.is_symlink() or (is_folder and partial.is_file()):
                partial.unlink()
            if is_folder:
                partial.mkdir(exist_ok=True)
            handle = os.open(partial, flags, 0o666)
            stack.callback(os.close, handle)
            if not _lock(handle):
                raise _busy(target, os.getpid())
            if partial.is_dir() and any(partial.iterdir()):  # of a dead process with this id
                shutil.rmtree(partial)
            # Between opening and locking, another process may have removed it as a leftover.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), partial.stat()):
                    break
        stack.callback(_remove, partial)
        remove_left_partials(target)
        yield handle


def remove_unfinished() -> None:
    """Remove all partial files and folders of this process, which is about to exit."""
    for path in reversed(_unfinished):
        if _PARTIAL.fullmatch(path.name):
            _remove(path)
        else:
            with contextlib.suppress(OSError):
                path.rmdir()  # if it is empty


def _remove(path: Path) -> None:
    """Remove a file, or a folder with its content, as far as the system allows."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _lock(handle: int) -> bool:
    """Lock an open file or folder; return False if it is locked. Some file systems cannot lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def remove_left_partials(target: Path) -> None:
    """Remove the partial files and folders of processes that were killed while writing a target.

    They are its siblings ``.NAME.partial-[work-]PROCESS``. A process locks its own while it writes;
    those of this process stay. If another process is writing the target, a ``UserError`` names it.
    """
    start = partial_path(target).name
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        number = path.name.removeprefix(start).removeprefix("work-")
        if not path.name.startswith(start) or not number.isdecimal() or path.is_symlink():
            continue
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _lock(handle):
                    _remove(path)
                elif int(number) != os.getpid():
                    raise _busy(target, number)
            finally:
                os.close(handle)


def _busy(target: Path, process: int | str) -> UserError:
    return UserError(f"{target} is being written by process {process}; wait until it ends")


@contextlib.contextmanager
def locked(folder: Path, name: str, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder against writes of other processes; the system releases a killed one's lock.

    ``name`` is the name of the folder in messages, such as ``--out table``. If another process
    holds the lock, ``wait`` until it is released, or raise a ``UserError`` with the process id.
    """
    with contextlib.ExitStack() as stack:
        with writing(folder / LOCK_FILE):
            # Unbuffered: closing would write a buffer again, outside of this block.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(folder / LOCK_FILE, flags, 0o666)
            stream = stack.enter_context(os.fdopen(handle, "r+b", buffering=0))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                stream.seek(0)
                holder = stream.read(20).decode(errors="replace") or "that has just started"
                problem = f"{name} is in use by process {holder}; wait until it ends"
                raise UserError(problem) from error
            stream.truncate(0)
            stream.write(str(os.getpid()).encode())
        yield


def check_utf8(path: Path, flag: str = "") -> None:
    """Refuse a path that is not UTF-8, for libraries that accept no other paths."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        name = f"{flag} {path}" if flag else str(path)
        remedy = "rename it, or use a locale of UTF-8"
        raise UserError(f"{name}: expected a path of UTF-8 characters; {remedy}") from error


def check_out(
    file: Path,
    *suffixes: str,
    is_ours: Callable[[Path], bool] | bytes,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Check the name, folder and content of an output file, before anything is computed for it.

    The rule for all outputs: an existing file is replaced if the same command wrote it
    (``is_ours``, a mark near its start or a function, which may raise), if it is empty, or with
    ``overwrite``. Inputs are never replaced, nor are files in folders that are inputs, unless the
    same command wrote them. A device, a pipe or an open file is written into. ``suffixes`` are the
    suffixes that the name may have.
    """
    if suffixes and file.suffix.lower() not in suffixes:
        raise UserError(f"{file} cannot be written: expected the name of a {suffixes[0]} file")
    target = Path(os.path.realpath(file))
    with writing(file):
        if not target.parent.is_dir():
            folder = target.parent if file.is_symlink() else file.parent
            raise UserError(f"{file} cannot be written: there is no folder {folder}")
        size = None
        with contextlib.suppress(FileNotFoundError):
            size = file.stat().st_size
        if not (is_written_into(file) or os.access(target.parent, os.W_OK | os.X_OK)):
            is_read_only = os.statvfs(target.parent).f_flag & os.ST_RDONLY
            why = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
            raise OSError(f"{why}; name a file in another folder")
    if file.is_dir():
        raise UserError(f"{file} cannot be written: it is a folder")
    if size is None or is_written_into(file):
        return
    read = [Path(os.path.realpath(path)) for path in inputs if path is not None]
    if any(path.exists() and path.samefile(target) for path in read):
        raise UserError(f"{file} cannot be written: it is an input; name another file")
    if size == 0:
        return
    with contextlib.suppress(Exception), file.open("rb") as stream:  # content may be anything
        start = stream.read(MARKED)
        if is_ours in start if isinstance(is_ours, bytes) else is_ours(file):
            return
    for path in read:
        if target.is_relative_to(path):
            raise UserError(f"{file} cannot be written: it is a file of {path}, which is read")
    if not overwrite:
        advice = "give --overwrite to replace it, or name another file"
        raise UserError(f"{file} exists and was not written by this command; {advice}")


def content(folder: Path) -> list[str]:
    """Return the names in a folder, without its lock and partial files."""
    names = (path.name for path in folder.iterdir())
    return [name for name in names if name != LOCK_FILE and not _PARTIAL.fullmatch(name)]
