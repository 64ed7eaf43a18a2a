"""Text files that Python parses line by line into tables: JSON, literals, odd separators."""

from collections.abc import Callable, Iterator
from pathlib import Path

from dien_jax.errors import UserError
from dien_jax.preparation.reading.log_files import Log, load_records
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines, read_lines

LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100
"""Characters shown of why a line is malformed."""


def read_records(
    workspace: Workspace,
    file: Path,
    parse: Callable[[str], list[str]],
    columns: list[str],
    *,
    member: str = "",
    encoding: str = "utf-8",
    header: str = "",
) -> Log:
    """Parse a file line by line into a table, and count the malformed lines.

    Args:
      workspace: database that stores the table, under a name made of its columns.
      file: plain text, gzip, or a zip archive.
      parse: returns the values of a line as text; raises ``ValueError`` for a malformed one.
      columns: names of the values. The table also has ``line``, from 1; empty values are NULL.
      member: name of the text file in the zip archive.
      encoding: encoding of the text.
      header: the expected first line, if there is one.

    Raises:
      UserError: when the file cannot be read, or its first line is not the header.
    """
    bad = BadLines()
    shown = file / member

    def records() -> Iterator[tuple[int, list[str]]]:
        for number, line in read_lines(file, bad, member=member, encoding=encoding):
            if number % LINES_BETWEEN_NOTES == 0:
                current.note = f"{number:,} lines"
            if header and number == 1:
                if line.strip() != header:
                    raise UserError(f"{shown}:1: expected {header!r}, found {line[:80]!r}")
                continue
            if not line.strip():
                continue
            try:
                record = parse(line)
                "".join(record).encode()
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                bad.add(shown, number, str(error)[:LONGEST_REASON])
            else:
                yield number, record

    with stage(f"reading {shown}") as current:
        rows = load_records(workspace, columns, records())
        return Log(shown, workspace.store("_".join(columns), rows), bad)
