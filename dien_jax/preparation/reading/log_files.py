"""Log files as tables of text columns and a line number: CSV, Parquet, and lines of other formats.

The database's own CSV reader is fast, but after a quote that is never closed it skips an unknown
number of rows. So a file in which it meets anything unexpected is read a second time in Python,
line by line: every malformed line is counted and reported by its number.
"""

import contextlib
import csv
import itertools
import json
import math
import re
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.expr.types import Table

from dien_jax.data.value_text import check_type, column_text, joined
from dien_jax.errors import UserError, printable, suggestion
from dien_jax.preparation.options import LogColumn
from dien_jax.preparation.reading.workspace import Workspace, quoted
from dien_jax.utils.console import stage
from dien_jax.utils.files import check_utf8
from dien_jax.utils.json_values import unique_keys
from dien_jax.utils.parquet_files import parquet_batches
from dien_jax.utils.text_files import BadLines, check_gzip_size, is_gzip, open_bytes, read_lines

PARQUET_MAGIC, ZIP_MAGIC = b"PAR1", b"PK\x03\x04"
LONGEST_RECORD = 10  # lines that a quoted value may span when a file is read line by line
BATCH_ROWS = 1 << 16
PARQUET_ROWS = 1 << 18  # rows of a Parquet file read at a time
LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100  # characters shown of why a line is malformed
END = (0, "")  # after the last line
Wanted = Mapping[str, LogColumn]  # columns of a log by their name in the database


class Log(NamedTuple):
    """A log in the database."""

    file: Path  # the file it was read from
    # the requested columns as text, NULL where empty, and line, rising in the log's order
    rows: Table
    bad: BadLines  # the malformed lines that are not among rows
    # reads the log again, so that line is that of the file, from 1; None where it is that already
    reread: "Callable[[], Log] | None" = None

    def check(self, workspace: Workspace, max_bad_share: float) -> list[str]:
        """Check the share of malformed lines, and return lines about them."""
        return self.bad.check(workspace.count(self.rows) + self.bad.count, max_bad_share)


def read_columns(
    workspace: Workspace,
    file: Path,
    wanted: Wanted,
    *,
    columns: Sequence[str] = (),
    separator: str = "|",
    hint: str = "",
) -> Log:
    """Read columns of a CSV or Parquet file, recognised by its first bytes; gzip too.

    Values of a ``.tsv[.gz]`` are separated by tabs, those of other text by commas. ``wanted`` has
    the columns by their name in ``rows``, ``columns`` the names of all columns of CSV without a
    header. ``separator`` joins the values of a Parquet list. ``hint`` ends the message about a CSV
    file that lacks a column.
    """
    check_utf8(file)
    magic = b""  # a file that cannot be read: reading it as text raises the right error
    with contextlib.suppress(OSError, EOFError, zlib.error), open_bytes(file) as stream:
        magic = stream.read(len(PARQUET_MAGIC))
    if magic == ZIP_MAGIC:
        raise UserError(f"{file} is a zip archive; unpack it, and name the file in it")
    with stage(f"reading {file}"):
        if magic == PARQUET_MAGIC:
            return _read_parquet(workspace, file, wanted, separator)
        delimiter = "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
        header = list(columns) or _csv_header(file, delimiter)
        places = _column_places(file, wanted, header, hint)

        def read_by_line() -> Log:
            bad = BadLines()
            records = _records(file, delimiter, len(header), not columns, bad)
            chosen = ((number, [f[p] for p in places.values()]) for number, f in records)
            return Log(file, load_records(workspace, list(places), chosen), bad)

        if is_gzip(file):
            check_gzip_size(file)
        rows = _read_csv(workspace, file, delimiter, len(header), places, not columns)
        if rows is None:
            return read_by_line()
    return Log(file, rows, BadLines(), stage(f"reading {file} line by line")(read_by_line))


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
    """Parse a file (plain text, gzip, or ``member`` of a zip archive) line by line into a table.

    ``parse`` returns the values of a line as text, by ``columns``, and raises ``ValueError`` for a
    malformed one; :func:`json_object` and :func:`text_value` do so for lines of JSON. The table,
    named after its columns, also has ``line``, from 1; empty values are NULL. ``header`` is the
    expected first line, if there is one.
    """
    bad, shown = BadLines(), file / member

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


def json_object(line: str) -> dict[str, Any]:
    """Return the object that a line of JSON holds; ``ValueError`` for another line."""
    try:
        record = json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {line[:20]!r}")
    return record


def text_value(record: Mapping[str, Any], name: str) -> str:
    """Return a value of a record as text; ``ValueError`` unless it is text or a number."""
    return as_text(record.get(name), name)


def as_text(value: object, name: str) -> str:
    """Return the value of a field as text; ``ValueError`` unless it is text or a number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{name!r} should be text or a number, found {value!r:.20}")


def load_records(
    workspace: Workspace, names: list[str], records: Iterable[tuple[int, list[str]]]
) -> Table:
    """Store records with their line numbers as the table ``rows``, empty values as NULL."""
    schema = pa.schema([("line", pa.int64()), *((name, pa.string()) for name in names)])
    parquet = workspace.folder / "lines.parquet"
    records = iter(records)
    with pq.ParquetWriter(parquet, schema) as writer:
        while batch := list(itertools.islice(records, BATCH_ROWS)):
            lines, values = zip(*batch, strict=True)
            columns = ([value or None for value in column] for column in zip(*values, strict=True))
            writer.write_table(pa.table([lines, *columns], schema=schema))
    query = "CREATE OR REPLACE TABLE rows AS SELECT * FROM read_parquet($file)"
    workspace.sql(query, {"file": _escape_wildcards(parquet)})
    parquet.unlink()
    return ibis.table({"line": "int64"} | dict.fromkeys(names, "string"), name="rows")


def _column_places(file: Path, wanted: Wanted, header: list[str], hint: str = "") -> dict[str, int]:
    """Return the position of every wanted column in the header."""
    for column in wanted.values():
        named = f"{column.name!r} ({column.flag})"
        if column.name not in header:
            names = ", ".join(printable(name[:40]) for name in header)
            near = suggestion(column.name, header)
            raise UserError(f"{file} has no column {named}{near}; its columns are {names}{hint}")
        if header.count(column.name) > 1:
            raise UserError(f"{file} has two columns {named}")
    return {alias: header.index(column.name) for alias, column in wanted.items()}


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
    compression = "gzip" if is_gzip(file) else "none"
    query = (
        f"CREATE TABLE raw AS SELECT {selected} FROM read_csv($file, auto_detect = false, "
        f"columns = {{{types}}}, header = {has_header}, delim = $delimiter, quote = '\"', "
        f"escape = '\"', nullstr = '', compression = {compression}, strict_mode = true)"
    )
    try:
        workspace.sql(query, {"file": _escape_wildcards(file), "delimiter": delimiter})
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException):
        return None
    raw = ibis.table(dict.fromkeys(places, "string"), name="raw")
    rows = workspace.store("rows", raw.mutate(line=raw.rowid()))
    workspace.sql("DROP TABLE raw")
    return rows


def _read_parquet(workspace: Workspace, file: Path, wanted: Wanted, separator: str) -> Log:
    plain = file
    if is_gzip(file):
        plain = workspace.folder / "log.parquet"
        with open_bytes(file) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    schema = pa.schema([("line", pa.int64()), *((alias, pa.string()) for alias in wanted)])
    try:
        with pq.ParquetFile(plain) as parquet:
            places = _column_places(file, wanted, parquet.schema_arrow.names)
            for alias, column in wanted.items():
                check_type(
                    column.where(file), parquet.schema_arrow.field(places[alias]).type, column.kind
                )
            names = sorted({column.name for column in wanted.values()})
            batches = parquet_batches(plain, PARQUET_ROWS, names, shown=file)
            texts = _batch_texts(file, batches, wanted, separator, schema)
            return Log(file, workspace.append("rows", texts, schema), BadLines())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error


def _batch_texts(
    file: Path,
    batches: Iterable[pa.RecordBatch],
    wanted: Wanted,
    separator: str,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """Yield batches of a Parquet file as line numbers, from 1, and text; empty text is null."""
    start = 1
    for batch in batches:
        lines = pa.array(np.arange(start, start + batch.num_rows))
        start += batch.num_rows
        columns = [lines]
        for column in wanted.values():
            where, values = column.where(file), batch.column(column.name)
            texts = column_text(where, values, column.kind)
            if pa.types.is_large_list(texts.type):
                texts = joined(where, texts, separator)
            empty = pc.equal(texts, "")
            columns.append(pc.if_else(empty, None, texts).cast(pa.string()))
        yield pa.record_batch(columns, schema=schema)


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
    while (record := waiting.popleft() if waiting else next(lines, END)) != END:
        number, line = record
        if not line:
            continue
        try:
            plain = '"' not in line
            fields = line.split(delimiter) if plain else _quoted(line, delimiter, lines, waiting)
            if len(fields) != width:
                raise ValueError(f"expected {width} columns, found {len(fields)}")
        except ValueError as error:
            bad.add(file, number, str(error))
        else:
            yield number, fields


def _quoted(
    line: str, delimiter: str, lines: Iterator[tuple[int, str]], waiting: deque[tuple[int, str]]
) -> list[str]:
    """Return the fields of a record that starts with ``line``; ``ValueError`` if it is malformed.

    A value whose quote is not closed continues in the next lines, at most ``LONGEST_RECORD``. They
    are consumed only when that completes a record.
    """
    parts = [line + "\n"]
    while len(parts) <= LONGEST_RECORD:
        try:
            fields = next(csv.reader(parts, delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" not in str(error):
                raise ValueError(f"wrong quotes: {error}") from error
        else:
            for _ in parts[1:]:
                waiting.popleft()
            return fields
        if len(parts) > len(waiting):
            waiting.append(next(lines, END))
        if waiting[len(parts) - 1] == END:
            break
        parts.append(waiting[len(parts) - 1][1] + "\n")
    raise ValueError("a quote is not closed")
