"""Reading text logs line by line, and keeping account of the lines that make no sense."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

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


def read_lines(file: Path, bad: BadLines) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file, plain or gzip (told by its first bytes, not by its name).

    A byte order mark before the first line is left out.

    Args:
      file: the file.
      bad: where lines that are not UTF-8, or hold a NUL byte, are counted; they are left out.

    Yields:
      Line number, from 1, and the line without its end (LF or CR LF).

    Raises:
      UserError: when the file is missing, unreadable or empty, the gzip stream is cut off or
        damaged, or there are no lines in it.
    """
    number = 0
    try:
        with open_bytes(file) as stream:
            while line := stream.readline(LONGEST_LINE):
                number += 1
                bad.read += 1
                if len(line) == LONGEST_LINE:
                    raise UserError(
                        f"{file}:{number}: not a text file, a line is longer than "
                        f"{LONGEST_LINE} bytes"
                    )
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    bad.add(file, number, "not UTF-8")
                    continue
                if "\0" in text:
                    bad.add(file, number, "holds a NUL byte")
                    continue
                yield number, text.removesuffix("\n").removesuffix("\r")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{file}: the gzip stream is cut off or damaged after line {number}: {error}"
        ) from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error
    if number == 0:
        raise UserError(f"{file}: the file is empty")


def open_bytes(file: Path) -> io.BufferedIOBase:
    """The bytes of a file, decompressed when it is gzip (told by its first bytes).

    Raises:
      OSError: when it cannot be opened. Reading can raise OSError, EOFError and zlib.error.
    """
    with file.open("rb") as stream:
        is_gzip = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return gzip.GzipFile(file, "rb") if is_gzip else file.open("rb")


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
