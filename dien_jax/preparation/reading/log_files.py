"""CSV and Parquet logs into the table ``rows``: text columns and a line number.

The database's own CSV reader is fast, but a quote that is never closed makes it lose whatever
follows without saying how much. So where it meets anything out of order the file is read a second
time, line by line, and every line that makes no sense is counted and told by its number.
"""

import csv
import re
import shutil
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.expr.types import StringColumn, Table, Value

from dien_jax.errors import UserError, suggestion
from dien_jax.preparation.options import ColumnOptions, LogColumn
from dien_jax.preparation.reading.workspace import Workspace, quoted
from dien_jax.utils.text_files import GZIP_MAGIC, BadLines, open_bytes, read_lines

PARQUET_MAGIC = b"PAR1"
ZIP_MAGIC = b"PK\x03\x04"
LONGEST_RECORD = 10
"""Lines over which a quoted value may run in a file that needs the second look."""
BATCH_ROWS = 1 << 16
END = (0, "")
"""What follows the last line."""


class Log(NamedTuple):
    """A log in the database.

    Attributes:
      file: where it came from.
      rows: the wanted columns as text, NULL where empty, and ``line``, rising in the log's order.
      bad: the malformed lines that are not among ``rows``.
      lines_known: whether ``line`` is the line (row, in Parquet) of the file, from 1, and not
        only in its order.
    """

    file: Path
    rows: Table
    bad: BadLines
    lines_known: bool


def read_log(workspace: Workspace, options: ColumnOptions, *, careful: bool) -> Log:
    """Reads the log that the options name; see :func:`read_columns`."""
    return read_columns(
        workspace,
        options.file,
        options.wanted(),
        columns=options.columns,
        separator=options.separator,
        careful=careful,
        hint=" (a CSV file without a header needs --columns)",
    )


def read_columns(
    workspace: Workspace,
    file: Path,
    wanted: Mapping[str, LogColumn],
    *,
    columns: Sequence[str] = (),
    separator: str = "|",
    careful: bool,
    hint: str = "",
) -> Log:
    """Reads columns of a CSV or Parquet file, told by its first bytes; gzip too.

    Values of a ``.tsv[.gz]`` are separated by tabs, those of other text by commas.

    Args:
      workspace: where ``rows`` is stored.
      file: the file.
      wanted: which of its columns, by their name in ``rows``.
      columns: the names of all its columns, for CSV without a header.
      separator: what joins the values of a Parquet list.
      careful: whether to read line by line in any case.
      hint: what to say of a CSV file that lacks a column.

    Raises:
      UserError: when the file is missing, empty, damaged or of another kind, or lacks a column.
    """
    try:
        with open_bytes(file) as stream:
            magic = stream.read(len(PARQUET_MAGIC))
    except (OSError, EOFError, zlib.error):
        magic = b""  # read as text, it tells what is wrong
    if magic == PARQUET_MAGIC:
        return _read_parquet(workspace, file, wanted, separator)
    if magic == ZIP_MAGIC:
        raise UserError(f"{file} is a zip archive; unpack it, and name the file in it")
    delimiter = "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
    header = list(columns) or _csv_header(file, delimiter)
    places = _find(file, wanted, header, hint)
    if not careful:
        rows = _read_csv(workspace, file, delimiter, len(header), places, not columns)
        if rows is not None:
            return Log(file, rows, BadLines(), lines_known=False)
    bad = BadLines()
    parsed = workspace.folder / "lines.parquet"
    records = _records(file, delimiter, len(header), not columns, bad)
    write_rows(parsed, list(places), ((n, [f[p] for p in places.values()]) for n, f in records))
    return Log(file, load_rows(workspace, parsed, places), bad, lines_known=True)


def write_rows(parquet: Path, names: list[str], records: Iterator[tuple[int, list[str]]]) -> None:
    """Writes records with their line numbers to a Parquet file, empty values as NULL."""
    schema = pa.schema([("line", pa.int64()), *((name, pa.string()) for name in names)])
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


def load_rows(workspace: Workspace, parquet: Path, names: Iterable[str]) -> Table:
    """Stores what :func:`write_rows` wrote as the table ``rows``, and removes the file."""
    workspace.sql(
        "CREATE OR REPLACE TABLE rows AS SELECT * FROM read_parquet($file)",
        {"file": _literal(parquet)},
    )
    parquet.unlink()
    return ibis.table({"line": "int64"} | dict.fromkeys(names, "string"), name="rows")


def _find(
    file: Path, wanted: Mapping[str, LogColumn], found: list[str], hint: str = ""
) -> dict[str, int]:
    places = {}
    for alias, column in wanted.items():
        if column.name not in found:
            raise UserError(
                f"{file} has no column {column.name!r} ({column.flag})"
                f"{suggestion(column.name, found)}; "
                f"its columns are {', '.join(name[:40] for name in found)}{hint}"
            )
        if found.count(column.name) > 1:
            raise UserError(f"{file} has two columns {column.name!r} ({column.flag})")
        places[alias] = found.index(column.name)
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
    """The file through the database's own reader, or None when anything in it is out of order."""
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(width))
    selected = ", ".join(f"c{place} AS {quoted(alias)}" for alias, place in places.items())
    try:
        workspace.sql(
            f"CREATE TABLE raw AS SELECT {selected} FROM read_csv($file, auto_detect = false, "
            f"columns = {{{types}}}, header = $header, delim = $delimiter, quote = '\"', "
            "escape = '\"', nullstr = '', compression = $compression, strict_mode = true)",
            {
                "file": _literal(file),
                "header": has_header,
                "delimiter": delimiter,
                "compression": "gzip" if _is_gzip(file) else "none",
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
    if _is_gzip(file):
        plain = workspace.folder / "log.parquet"
        with open_bytes(file) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    try:
        schema = pq.read_schema(plain)
        places = _find(file, wanted, schema.names)
        selected = ", ".join(
            f"{quoted(column.name)} AS {quoted(alias)}" for alias, column in wanted.items()
        )
        workspace.sql(
            f"CREATE TABLE raw AS SELECT {selected}, file_row_number + 1 AS line "
            "FROM read_parquet($file, file_row_number = true)",
            {"file": _literal(plain)},
        )
    except (pa.ArrowException, duckdb.InvalidInputException, duckdb.IOException) as error:
        raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error
    types = {alias: schema.field(place).type for alias, place in places.items()}
    raw = ibis.table(
        ibis.Schema.from_pyarrow(pa.schema([*types.items(), ("line", pa.int64())])), name="raw"
    )
    texts = {
        alias: _as_text(file, column, raw[alias], separator).nullif("")
        for alias, column in wanted.items()
    }
    rows = workspace.store("rows", raw.select("line", **texts))
    workspace.sql("DROP TABLE raw")
    return Log(file, rows, BadLines(), lines_known=True)


def _as_text(file: Path, column: LogColumn, values: Value, separator: str) -> StringColumn:
    kind = values.type()
    if kind.is_array():
        return values.cast("array<string>").join(separator)
    if kind.is_nested():
        raise UserError(
            f"{file}: column {column.name!r} ({column.flag}) should hold plain values, found {kind}"
        )
    return (values.cast("int8") if kind.is_boolean() else values).cast("string")


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _literal(file: Path) -> str:
    """The path as a pattern that means just this file: the engine takes ``*?[`` for wildcards."""
    return re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", str(file.absolute()))


def _records(
    file: Path, delimiter: str, width: int, has_header: bool, bad: BadLines
) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record of a CSV file that has ``width`` fields."""
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
            fields, reason = _quoted(line, delimiter, lines, waiting)
        if not reason and len(fields) != width:
            reason = f"expected {width} columns, found {len(fields)}"
        if reason:
            bad.add(file, number, reason)
        else:
            yield number, fields


def _quoted(
    line: str,
    delimiter: str,
    lines: Iterator[tuple[int, str]],
    waiting: deque[tuple[int, str]],
) -> tuple[list[str], str]:
    """Fields of a record that starts with ``line``, or why there are none.

    A value whose quote is not closed goes on in the next lines, ``LONGEST_RECORD`` at most; they
    are consumed only when that makes a record.
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
