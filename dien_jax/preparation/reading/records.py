"""Text files that Python reads line by line, as tables: JSON, literals, odd separators."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ibis.expr.types import Table

from dien_jax.errors import UserError
from dien_jax.preparation.reading.log_files import load_rows, write_rows
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import Stage, stage
from dien_jax.utils.text_files import BadLines, read_lines

LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100
"""Characters shown of why a line is malformed."""


def load_records(
    workspace: Workspace,
    file: Path,
    read: Callable[[str], list[str]],
    columns: list[str],
    *,
    member: str = "",
    encoding: str = "utf-8",
    header: str = "",
) -> tuple[Table, BadLines]:
    """Parses a file line by line into a table, and counts the lines that make no sense.

    Args:
      workspace: where the table goes, under a name made of its columns.
      file: plain text, gzip, or a zip archive.
      read: the values of a line, as text; raises ``ValueError`` for a malformed one.
      columns: their names. The table has ``line`` too, from 1; empty values are NULL.
      member: the name of the text file in the zip archive.
      encoding: of the text.
      header: the first line, where there is one.

    Raises:
      UserError: when the file cannot be read, or its first line is not the header.
    """
    bad = BadLines()
    shown = file / member

    def records(current: Stage) -> Iterator[tuple[int, list[str]]]:
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
                record = read(line)
                "".join(record).encode()
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                bad.add(shown, number, str(error)[:LONGEST_REASON])
            else:
                yield number, record

    parsed = workspace.folder / "lines.parquet"
    with stage(f"reading {shown}") as current:
        write_rows(parsed, columns, records(current))
        return workspace.store("_".join(columns), load_rows(workspace, parsed, columns)), bad
