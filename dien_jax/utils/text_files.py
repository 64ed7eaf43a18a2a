"""Reading text logs line by line, and keeping account of the lines that make no sense."""

import contextlib
import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dien_jax.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
EXAMPLES = 5
"""Malformed lines that are shown."""
LONGEST_LINE = 1 << 24
"""Bytes; a longer line means that the file is not text in lines."""


class BadLines:
    """Counts malformed lines and keeps the first ones, each with its file and line number.

    Attributes:
      read: lines that :func:`read_lines` has read, malformed ones included.
      count: malformed lines.
      examples: the first of them, one line of text each.
    """

    def __init__(self) -> None:
        self.read = 0
        self.count = 0
        self.examples: list[str] = []

    def add(self, file: Path, line_number: int, reason: str) -> None:
        """Counts one malformed line; the first line of a file has number 1."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{file}:{line_number}: {reason}")

    def check(self, total: int, max_share: float) -> list[str]:
        """Refuses too many malformed lines, and reports few of them.

        Args:
          total: lines that were read, malformed ones included.
          max_share: the largest share of them that may be malformed.

        Returns:
          Lines of text for the user, none when no line was malformed.

        Raises:
          UserError: when more than ``max_share`` of the lines were malformed.
        """
        if self.count == 0:
            return []
        shown = [f"  {example}" for example in self.examples]
        if self.count > len(shown):
            shown.append(f"  and {self.count - len(shown)} more")
        found = f"{self.count} of {total} lines are malformed"
        if self.count > max_share * total:
            allowed = f"more than the allowed share of {max_share:g} (--max-bad-share)"
            raise UserError("\n".join([f"{found}, {allowed}:", *shown]))
        return [f"{found} and were left out:", *shown]


def read_lines(
    file: Path, bad: BadLines, *, member: str = "", encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """Lines of a text file, plain or gzip (told by its first bytes, not by its name).

    A byte order mark before the first line is left out.

    Args:
      file: the file.
      bad: where lines that are not in the encoding, or hold a NUL byte, are counted; they are
        left out.
      member: the file is a zip archive, and this the name of the text file in it.
      encoding: of the text.

    Yields:
      Line number, from 1, and the line without its end (LF or CR LF).

    Raises:
      UserError: when the file is missing, unreadable or empty, the gzip stream or the archive is
        cut off or damaged, there is no such member, or there are no lines in it.
    """
    number = 0
    container = "archive" if member else "gzip stream"
    shown = file / member
    try:
        with open_member(file, member) if member else open_bytes(file) as stream:
            while line := stream.readline(LONGEST_LINE):
                number += 1
                bad.read += 1
                if len(line) == LONGEST_LINE:
                    raise UserError(
                        f"{shown}:{number}: not a text file, a line is longer than "
                        f"{LONGEST_LINE} bytes"
                    )
                try:
                    first = number == 1 and encoding == "utf-8"
                    text = line.decode("utf-8-sig" if first else encoding)
                except UnicodeDecodeError:
                    bad.add(shown, number, f"not {encoding.upper()}")
                    continue
                if "\0" in text:
                    bad.add(shown, number, "holds a NUL byte")
                    continue
                yield number, text.removesuffix("\n").removesuffix("\r")
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{shown}: the {container} is cut off or damaged after line {number}: {error}"
        ) from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error
    if number == 0:
        raise UserError(f"{shown}: the file is empty")


def open_bytes(file: Path) -> io.BufferedIOBase:
    """The bytes of a file, decompressed when it is gzip (told by its first bytes).

    Raises:
      OSError: when it cannot be opened. Reading can raise OSError, EOFError and zlib.error.
    """
    with file.open("rb") as stream:
        is_gzip = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.GzipFile(file, "rb") if is_gzip else file.open("rb")


@contextlib.contextmanager
def open_member(file: Path, member: str) -> Iterator[io.BufferedIOBase]:
    """The bytes of one file in a zip archive.

    Raises:
      UserError: when the archive does not hold it.
      OSError: when the archive cannot be opened. Opening and reading can raise OSError, EOFError,
        BadZipFile and zlib.error.
    """
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if member not in names:
            raise UserError(
                f"{file} holds no {member}; its files are {', '.join(names[:10])}"
                f"{' and more' * (len(names) > 10)}"
            )
        with archive.open(member) as stream:
            yield io.BufferedReader(cast(io.RawIOBase, stream), 1 << 18)


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file as it lies on disk.

    Raises:
      UserError: when it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error
