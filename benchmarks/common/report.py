"""Shared flags and output: ``--json``, the table of rows, a user's mistakes in one line."""

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dien_jax.errors import UserError, described
from dien_jax.utils.files import write_text
from dien_jax.utils.machine import keep_freed_memory

Rows = Sequence[dict[str, Any]]


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one line about a mistake in a folder, a file or a flag, without a traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {described(error)}") from error


def make_parser(doc: str | None, *, keep_memory: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the shared flags, described by the first line of ``doc``.

    Args:
      doc: the module's docstring.
      keep_memory: adds the flag ``--keep-memory``.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    if keep_memory:
        parser.add_argument(
            "--keep-memory", action="store_true", help="keep freed memory, as the commands do"
        )
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, **least: int
) -> argparse.Namespace:
    """Parse flags; reject values below the minimum that ``least`` gives for a flag."""
    options = parser.parse_args(arguments)
    for name, limit in least.items():
        value = getattr(options, name)
        value = min(value) if isinstance(value, Sequence) else value
        if value is not None and value < limit:
            parser.error(f"--{name.replace('_', '-')} must be at least {limit}, got {value}")
    if getattr(options, "keep_memory", False) and not keep_freed_memory():
        parser.error("--keep-memory: needs glibc, its allocator not set by the environment")
    return options


def report(options: argparse.Namespace, rows: Rows, columns: Sequence[str]) -> None:
    """Print the table and the machine, and write the rows where ``--json`` says."""
    if columns:
        print_rows(rows, columns)
    versions = rows[0]["versions"] | rows[-1]["versions"]
    print(f"\n{rows[0]['device']}, {rows[0]['threads']} threads, {versions}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


def print_rows(rows: Rows, columns: Sequence[str]) -> None:
    """Print a Markdown table of the given columns."""
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    print("\n".join(markdown_table(columns, cells)))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    first, *others = (f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


def write_rows(path: Path, rows: Rows) -> None:
    """Write the rows atomically as a JSON list."""
    with one_line_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(list(rows), indent=1) + "\n")
