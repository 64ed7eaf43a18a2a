"""Text files, plain, gzip or zipped, read line by line with counts of malformed lines."""

import contextlib
import csv
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dien_jax.errors import UserError, printable, reading

GZIP_MAGIC = b"\x1f\x8b"
EXAMPLES = 5  # malformed lines that are shown
DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
LONGEST_LINE = 1 << 24  # bytes; a file with a longer line is not text


def take_long_cells() -> None:
    """Allow cells as long as the longest line in Python's CSV reader."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))


class BadLines:
    """Counter of malformed lines, with the first ones as examples, by file and line number.

    ``unit`` is the word for a line. ``read`` counts the lines that :func:`read_lines` has read,
    including malformed ones, and ``bytes`` is their uncompressed size.
    """

    def __init__(self, unit: str = "line") -> None:
        self.unit = unit
        self.read = self.bytes = self.count = 0
        self.examples: list[str] = []

    def share_of(self, file: Path) -> float | None:
        """Return the share of a file that has been read; None if it is compressed."""
        with contextlib.suppress(OSError):
            if file.is_file() and not zipfile.is_zipfile(file) and not is_gzip(file):
                return self.bytes / max(1, file.stat().st_size)
        return None

    def add(self, file: Path | str, line_number: int, reason: str) -> None:
        """Count one malformed line; the first line of a file has number 1."""
        self.count += 1
        self.show(file, line_number, reason)

    def show(self, file: Path | str, line_number: int, reason: str) -> None:
        """Keep an example of a line that is counted elsewhere, if there is room."""
        if len(self.examples) < EXAMPLES:
            place = f":{line_number}" if self.unit == "line" else f", {self.unit} {line_number}"
            self.examples.append(printable(f"{file}{place}: {reason}"))

    def check(self, total: int, max_share: float) -> list[str]:
        """Refuse more malformed lines than a share of ``total``; return report lines otherwise."""
        if self.count == 0:
            return []
        shown = [f"  {example}" for example in self.examples]
        if self.count > len(shown):
            shown.append(f"  and {self.count - len(shown)} more")
        malformed = f"{self.count} of {total} {self.unit}s are malformed"
        if self.count > max_share * total:
            allowed = f"more than the allowed share of {max_share:g} (--max-bad-share)"
            raise UserError("\n".join([f"{malformed}, {allowed}:", *shown]))
        return [f"{malformed} and were left out:", *shown]


def read_lines(
    file: Path, bad: BadLines, *, member: str = "", encoding: str = "utf-8", ends: bool = False
) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file, plain or gzip (recognised by its first bytes), or of a zip.

    A byte order mark before the first line is removed. Lines that are not in the encoding, or
    contain a NUL byte, are skipped and counted in ``bad``. ``member`` is the name of the text file
    in a zip archive. Yield line number, from 1, and the line, without its end (LF or CR LF) unless
    ``ends``. A file that cannot be read to its end, is empty, or changes its size meanwhile is a
    ``UserError``.
    """
    number = 0
    shown = file / member
    with reading(file):
        size = file.stat().st_size
        try:
            with open_member(file, member) if member else open_bytes(file) as stream:
                while line := stream.readline(LONGEST_LINE):
                    number += 1
                    bad.read += 1
                    bad.bytes += len(line)
                    if len(line) == LONGEST_LINE:
                        problem = f"a line is longer than {LONGEST_LINE} bytes"
                        raise UserError(f"{shown}:{number}: not a text file, {problem}")
                    try:
                        first = number == 1 and encoding == "utf-8"
                        text = line.decode("utf-8-sig" if first else encoding)
                    except UnicodeDecodeError:
                        bad.add(shown, number, f"not {encoding.upper()}")
                        continue
                    if "\0" in text:
                        bad.add(shown, number, "holds a NUL byte")
                        continue
                    yield number, text if ends else text.removesuffix("\n").removesuffix("\r")
        except DAMAGED as error:
            kind = "archive" if member else "gzip stream"
            damage = f"the {kind} is cut off or damaged after line {number}: {error}"
            raise UserError(f"{shown}: {damage}") from error
        check_size(file, size)
    if number == 0:
        raise UserError(f"{shown}: the file is empty")


def is_gzip(file: Path) -> bool:
    """Return whether a file begins like gzip; a pipe is a ``UserError``."""
    refuse_pipe(file)
    with file.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def first_bytes(file: Path, count: int) -> bytes:
    """Return the first bytes of a file, decompressed if it is gzip; none if it cannot be read."""
    with contextlib.suppress(OSError, EOFError, zlib.error), open_bytes(file) as stream:
        return stream.read(count)
    return b""


def delimiter_of(file: Path) -> str:
    """Return what separates the columns of a text table: a tab in ``.tsv`` and ``.inter``."""
    name = file.name.lower().removesuffix(".gz")
    return "\t" if name.endswith((".tsv", ".inter")) else ","


def refuse_pipe(file: Path) -> None:
    """Refuse a pipe or a socket, whose first bytes can be read only once."""
    if file.is_fifo() or file.is_socket():
        problem = "is a pipe, and this file is read more than once"
        raise UserError(f"{file} {problem}; write it to a file first")


def check_size(file: Path, before: int) -> None:
    """Refuse a file whose size changed while it was read."""
    if (after := file.stat().st_size) != before:
        problem = f"its size changed from {before:,} to {after:,} bytes while it was read"
        raise UserError(f"{file}: {problem}; wait until it is written, or read a copy")


def open_bytes(file: Path) -> io.BufferedIOBase:
    """Open the bytes of a file, decompressed if it is gzip."""
    return gzip.GzipFile(file, "rb") if is_gzip(file) else file.open("rb")


@contextlib.contextmanager
def open_member(file: Path, member: str) -> Iterator[io.BufferedIOBase]:
    """Open a file in a zip archive; a missing or unreadable one is a UserError."""
    shown = file / member
    refuse_pipe(file)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if member not in names:
            listed = ", ".join(names[:10]) + " and more" * (len(names) > 10)
            raise UserError(f"{file} holds no {member}; its files are {listed}")
        try:
            stream = archive.open(member)
        except (NotImplementedError, RuntimeError) as error:
            raise UserError(f"{shown}: cannot be unpacked: {error}") from error
        with stream:
            yield io.BufferedReader(cast(io.RawIOBase, stream), 1 << 18)


def plain_or_gzip(folder: Path, name: str) -> Path:
    """Return the file of that name in a folder, or its gzip."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    hint = f"; unpack {name}.tar.gz first" * (folder / f"{name}.tar.gz").exists()
    raise UserError(f"{folder}: expected a folder with {name} or {name}.gz{hint}")


def sha256(file: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with reading(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
