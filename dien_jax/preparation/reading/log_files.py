"""CSV and Parquet logs as the table ``rows``: text columns and a line number.

The database's own CSV reader is fast, but after a quote that is never closed it skips an unknown
number of rows. So a file in which it meets anything unexpected is read a second time in Python,
line by line: every malformed line is counted and reported by its number.
"""

import csv
import functools
import re
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.expr.types import StringColumn, Table, Value

from dien_jax.errors import UserError, suggestion
from dien_jax.preparation.options import LogColumn
from dien_jax.preparation.reading.workspace import Workspace, quoted
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines, is_gzip, open_bytes, read_lines

PARQUET_MAGIC = b"PAR1"
ZIP_MAGIC = b"PK\x03\x04"
LONGEST_RECORD = 10
"""Lines that a quoted value may span when a file is read line by line."""
BATCH_ROWS = 1 << 16
END = (0, "")
"""Marks the end of the lines."""


class Log(NamedTuple):
    """A log in the database."""

    file: Path  # the file it was read from
    # the requested columns as text, NULL where empty, and line, rising in the log's order
    rows: Table
    bad: BadLines  # the malformed lines that are not among rows
    # reads the log again, so that line is the line (row, in Parquet) of the file, from 1; None
    # where it is that already
    reread: "Callable[[], Log] | None" = None

    def check(self, workspace: Workspace, max_bad_share: float) -> list[str]:
        """Check the share of malformed lines, and return lines about them.

        Raises:
          UserError: when it is larger than ``max_bad_share``.
        """
        return self.bad.check(workspace.count(self.rows) + self.bad.count, max_bad_share)


def read_columns(
    workspace: Workspace,
    file: Path,
    wanted: Mapping[str, LogColumn],
    *,
    columns: Sequence[str] = (),
    separator: str = "|",
    careful: bool = False,
    hint: str = "",
) -> Log:
    """Read columns of a CSV or Parquet file, recognised by its first bytes; gzip too.

    Values of a ``.tsv[.gz]`` are separated by tabs, those of other text by commas.

    Args:
      workspace: database that stores ``rows``.
      file: the file.
      wanted: the columns to read, by their name in ``rows``.
      columns: names of all columns, for CSV without a header.
      separator: joins the values of a Parquet list.
      careful: whether to read CSV line by line in any case.
      hint: end of the message about a CSV file that lacks a column.

    Raises:
      UserError: when the file is missing, empty, damaged or of another kind, or lacks a column.
    """
    try:
        with open_bytes(file) as stream:
            magic = stream.read(len(PARQUET_MAGIC))
    except (OSError, EOFError, zlib.error):
        magic = b""  # reading it as text raises the right error
    if magic == ZIP_MAGIC:
        raise UserError(f"{file} is a zip archive; unpack it, and name the file in it")
    with stage(f"reading {file}{' line by line' if careful else ''}"):
        if magic == PARQUET_MAGIC:
            return _read_parquet(workspace, file, wanted, separator)
        delimiter = "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
        header = list(columns) or _csv_header(file, delimiter)
        places = _column_places(file, wanted, header, hint)
        if not careful:
            rows = _read_csv(workspace, file, delimiter, len(header), places, not columns)
            if rows is not None:
                reread = functools.partial(
                    read_columns, workspace, file, wanted, columns=columns, careful=True
                )
                return Log(file, rows, BadLines(), reread)
        bad = BadLines()
        records = _records(file, delimiter, len(header), not columns, bad)
        chosen = ((number, [f[p] for p in places.values()]) for number, f in records)
        return Log(file, load_records(workspace, list(places), chosen), bad)


def load_records(
    workspace: Workspace, names: list[str], records: Iterable[tuple[int, list[str]]]
) -> Table:
    """Store records with their line numbers as the table ``rows``, empty values as NULL."""
    schema = pa.schema([("line", pa.int64()), *((name, pa.string()) for name in names)])
    parquet = workspace.folder / "lines.parquet"
    with pq.ParquetWriter(parquet, schema) as writer:
        lines: list[int] = []
        values: list[list[str]] = []

        def flush() -> None:
            columns = zip(*values, strict=True) if values else ([] for _ in names)
            arrays = [pa.array([v or None for v in c], pa.string()) for c in columns]
            writer.write_table(pa.table([pa.array(lines, pa.int64()), *arrays], schema=schema))
            lines.clear()
            values.clear()

        for line, record in records:
            lines.append(line)
            values.append(record)
            if len(lines) == BATCH_ROWS:
                flush()
        flush()
    workspace.sql(
        "CREATE OR REPLACE TABLE rows AS SELECT * FROM read_parquet($file)",
        {"file": _escape_wildcards(parquet)},
    )
    parquet.unlink()
    return ibis.table({"line": "int64"} | dict.fromkeys(names, "string"), name="rows")


def _column_places(
    file: Path, wanted: Mapping[str, LogColumn], header: list[str], hint: str = ""
) -> dict[str, int]:
    """Return the position of every wanted column in the header."""
    places = {}
    for alias, column in wanted.items():
        if column.name not in header:
            raise UserError(
                f"{file} has no column {column.name!r} ({column.flag})"
                f"{suggestion(column.name, header)}; "
                f"its columns are {', '.join(name[:40] for name in header)}{hint}"
            )
        if header.count(column.name) > 1:
            raise UserError(f"{file} has two columns {column.name!r} ({column.flag})")
        places[alias] = header.index(column.name)
    return places


def _csv_header(file: Path, delimiter: str) -> list[str]:
    bad = BadLines()
    number, line = next(read_lines(file, bad), END)
    if number != 1:
        raise UserError(f"{bad.examples[0]}; expected Parquet, or CSV with a header")
    try:
        names = next(csv.reader([line], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration) as error:
        raise UserError(f"{file}:1: expected a CSV header, found {line[:80]!r}") from error
    return [name.strip() for name in names]


def _read_csv(
    workspace: Workspace,
    file: Path,
    delimiter: str,
    width: int,
    places: Mapping[str, int],
    has_header: bool,
) -> Table | None:
    """Read the file with the database's own reader; None when it meets anything unexpected."""
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(width))
    selected = ", ".join(f"c{place} AS {quoted(alias)}" for alias, place in places.items())
    try:
        workspace.sql(
            f"CREATE TABLE raw AS SELECT {selected} FROM read_csv($file, auto_detect = false, "
            f"columns = {{{types}}}, header = $header, delim = $delimiter, quote = '\"', "
            "escape = '\"', nullstr = '', compression = $compression, strict_mode = true)",
            {
                "file": _escape_wildcards(file),
                "header": has_header,
                "delimiter": delimiter,
                "compression": "gzip" if is_gzip(file) else "none",
            },
        )
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException):
        return None
    raw = ibis.table(dict.fromkeys(places, "string"), name="raw")
    rows = workspace.store("rows", raw.mutate(line=raw.rowid()))
    workspace.sql("DROP TABLE raw")
    return rows


def _read_parquet(
    workspace: Workspace, file: Path, wanted: Mapping[str, LogColumn], separator: str
) -> Log:
    plain = file
    if is_gzip(file):
        plain = workspace.folder / "log.parquet"
        with open_bytes(file) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    try:
        schema = pq.read_schema(plain)
        places = _column_places(file, wanted, schema.names)
        selected = ", ".join(
            f"{quoted(column.name)} AS {quoted(alias)}" for alias, column in wanted.items()
        )
        workspace.sql(
            f"CREATE TABLE raw AS SELECT {selected}, file_row_number + 1 AS line "
            "FROM read_parquet($file, file_row_number = true)",
            {"file": _escape_wildcards(plain)},
        )
    except (pa.ArrowException, duckdb.InvalidInputException, duckdb.IOException) as error:
        raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error
    types = {alias: schema.field(place).type for alias, place in places.items()}
    raw = ibis.table(
        ibis.Schema.from_pyarrow(pa.schema([*types.items(), ("line", pa.int64())])), name="raw"
    )
    texts = {
        alias: _text_column(file, column, raw[alias], separator).nullif("")
        for alias, column in wanted.items()
    }
    rows = workspace.store("rows", raw.select("line", **texts))
    workspace.sql("DROP TABLE raw")
    return Log(file, rows, BadLines())


def _text_column(file: Path, column: LogColumn, values: Value, separator: str) -> StringColumn:
    kind = values.type()
    if kind.is_array():
        return values.cast("array<string>").join(separator)
    if kind.is_nested():
        raise UserError(
            f"{file}: column {column.name!r} ({column.flag}) should hold plain values, found {kind}"
        )
    return (values.cast("int8") if kind.is_boolean() else values).cast("string")


def _escape_wildcards(file: Path) -> str:
    """Return a pattern that matches this path alone: the engine expands ``*?[``."""
    return re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", str(file.absolute()))


def _records(
    file: Path, delimiter: str, width: int, has_header: bool, bad: BadLines
) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every record of a CSV file that has ``width`` fields."""
    lines = read_lines(file, bad)
    if has_header:
        next(lines)
    waiting: deque[tuple[int, str]] = deque()
    while True:
        number, line = waiting.popleft() if waiting else next(lines, END)
        if number == 0:
            return
        if not line:
            continue
        if '"' not in line:
            fields, reason = line.split(delimiter), ""
        else:
            fields, reason = _quoted_record(line, delimiter, lines, waiting)
        if not reason and len(fields) != width:
            reason = f"expected {width} columns, found {len(fields)}"
        if reason:
            bad.add(file, number, reason)
        else:
            yield number, fields


def _quoted_record(
    line: str,
    delimiter: str,
    lines: Iterator[tuple[int, str]],
    waiting: deque[tuple[int, str]],
) -> tuple[list[str], str]:
    """Return the fields of a record that starts with ``line``, or why it is malformed.

    A value whose quote is not closed continues in the next lines, at most ``LONGEST_RECORD``. They
    are consumed only when that completes a record.
    """
    parts = [line + "\n"]
    while len(parts) <= LONGEST_RECORD:
        try:
            fields = next(csv.reader(parts, delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" not in str(error):
                return [], f"wrong quotes: {error}"
        else:
            for _ in parts[1:]:
                waiting.popleft()
            return fields, ""
        if len(parts) > len(waiting):
            waiting.append(next(lines, END))
        if waiting[len(parts) - 1] == END:
            break
        parts.append(waiting[len(parts) - 1][1] + "\n")
    return [], "a quote is not closed"
