"""Text files read line by line, plain, gzip or zipped, with an account of malformed lines."""

import contextlib
import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dien_jax.errors import UserError, reading

GZIP_MAGIC = b"\x1f\x8b"
EXAMPLES = 5
"""Malformed lines that are shown."""
LONGEST_LINE = 1 << 24
"""Bytes; a file with a longer line is not text."""


class BadLines:
    """Counter of malformed lines, with the first ones, each with its file and line number.

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
        """Count one malformed line; the first line of a file has number 1."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{file}:{line_number}: {reason}")

    def check(self, total: int, max_share: float) -> list[str]:
        """Refuse too many malformed lines, and report few of them.

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
        malformed = f"{self.count} of {total} lines are malformed"
        if self.count > max_share * total:
            allowed = f"more than the allowed share of {max_share:g} (--max-bad-share)"
            raise UserError("\n".join([f"{malformed}, {allowed}:", *shown]))
        return [f"{malformed} and were left out:", *shown]


def read_lines(
    file: Path, bad: BadLines, *, member: str = "", encoding: str = "utf-8"
) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file, plain or gzip (recognised by its first bytes).

    A byte order mark before the first line is removed.

    Args:
      file: the file.
      bad: counts lines that are not in the encoding, or contain a NUL byte; they are skipped.
      member: the file is a zip archive, and this the name of the text file in it.
      encoding: encoding of the text.

    Yields:
      Line number, from 1, and the line without its end (LF or CR LF).

    Raises:
      UserError: when the file is missing, unreadable or empty, the gzip stream or the archive is
        cut off or damaged, or the archive has no such member.
    """
    number = 0
    shown = file / member
    with reading(file):
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
                f"{shown}: the {'archive' if member else 'gzip stream'} is cut off or damaged "
                f"after line {number}: {error}"
            ) from error
    if number == 0:
        raise UserError(f"{shown}: the file is empty")


def is_gzip(file: Path) -> bool:
    """Return whether a file begins like gzip.

    Raises:
      OSError: when it cannot be read.
    """
    with file.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def open_bytes(file: Path) -> io.BufferedIOBase:
    """Open the bytes of a file, decompressed when it is gzip.

    Raises:
      OSError: when it cannot be opened. Reading can raise OSError, EOFError and zlib.error.
    """
    return gzip.GzipFile(file, "rb") if is_gzip(file) else file.open("rb")


@contextlib.contextmanager
def open_member(file: Path, member: str) -> Iterator[io.BufferedIOBase]:
    """Open the bytes of one file in a zip archive.

    Raises:
      UserError: when the archive does not contain it.
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
    """Return the hexadecimal SHA-256 of a file's bytes.

    Raises:
      UserError: when it cannot be read.
    """
    with reading(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
