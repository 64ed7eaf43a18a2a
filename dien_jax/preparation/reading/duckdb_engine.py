"""The default engine: DuckDB in this process, on disk, within a memory limit; and file reading.

The database's own CSV reader is fast, but after a quote that is never closed it skips an unknown
number of rows. So a file in which it meets anything unexpected is read a second time in Python,
line by line: every malformed line is counted and reported by its number. For other files, the line
number of a row is looked up only when a message needs it.
"""

import contextlib
import csv
import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.expr.types import IntegerValue, StringValue, Table, Value

from dien_jax.errors import UserError, reason
from dien_jax.preparation.options import LogForm
from dien_jax.preparation.reading import log
from dien_jax.preparation.reading.log import FileStart, Log
from dien_jax.preparation.reading.workspace import POSITION, Workspace
from dien_jax.utils import text_files
from dien_jax.utils.console import stage
from dien_jax.utils.files import check_utf8
from dien_jax.utils.machine import trim_memory
from dien_jax.utils.text_files import BadLines, delimiter_of, read_lines

PARQUET_MAGIC, ZIP_MAGIC = b"PAR1", b"PK\x03\x04"
LONGEST_RECORD = 10  # lines that a quoted value may span when a file is read line by line
END = (0, "")  # after the last line


@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.int64))
def epoch_ms(moment: Value) -> IntegerValue:
    """Milliseconds since 1970; declares DuckDB's function to Ibis."""


@contextlib.contextmanager
def duckdb_workspace(out: Path, folder: Path, memory_limit: str) -> Iterator["DuckDBWorkspace"]:
    """Open a database in ``folder``, to prepare the dataset folder ``out``."""
    config: dict[str, Any] = {
        "memory_limit": memory_limit,
        "temp_directory": str(folder / "spill"),
        "autoinstall_known_extensions": False,
        "TimeZone": "UTC",
        "preserve_insertion_order": True,
    }
    try:
        connection = duckdb.connect(folder / "work.duckdb", config=config)
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # it is never opened again
    except duckdb.IOException as error:
        raise UserError(f"{folder} cannot be written: {reason(error)}") from error
    except duckdb.Error as error:
        raise UserError(f"--memory gives the database {memory_limit}: {error}") from error
    try:
        with connection:
            yield DuckDBWorkspace(folder, connection)
    except duckdb.OutOfMemoryException as error:
        problem = "the database ran out of its share of --memory; raise it"
        raise UserError(f"{problem}: {reason(error)}") from error
    except (duckdb.InterruptException, RuntimeError) as error:
        if isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted":
            raise KeyboardInterrupt from error  # how the engine reports Ctrl-C
        raise
    except (duckdb.OperationalError, duckdb.FatalException) as error:
        raise UserError(f"dataset folder {out} cannot be written: {reason(error)}") from error


class DuckDBWorkspace(Workspace):
    """Tables in a DuckDB database, which keeps their rows in order."""

    def __init__(self, folder: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.folder = folder
        self._connection = connection

    def read_columns(self, file: Path, form: LogForm) -> Log:
        if (address := log.address_of(file)) is not None:
            problem = "is no file of this machine; give --engine spark to read it"
            raise UserError(f"{address} {problem}")
        files, bad, starts, line = log.files_of(file), BadLines(), [], 0
        with stage(f"reading {file}") as current:
            whole = self.store("all rows", log.text_schema(form.wanted).empty_table())
            for number, part in enumerate(files, start=1):
                rows, line_of = _read(self, part, form, bad)
                starts.append(FileStart(line, str(part), line_of))
                if part is file:
                    return Log(file, rows, bad, tuple(starts))
                moved = rows.mutate(line=rows.line + line)
                self._connection.execute(f'INSERT INTO "all rows" BY NAME {_query(moved)}')
                line += self.numbers(rows.aggregate(last=rows.line.max()))["last"] + 1
                current.now(f"{number:,} of {len(files):,} files")
        return Log(file, whole, bad, tuple(starts))

    def limit(self, memory: int) -> None:
        self._connection.execute(f"SET memory_limit = '{memory}B'")
        self._give_back()

    def _give_back(self) -> None:
        """Give back freed memory: a thread of DuckDB keeps much of it until the thread ends."""
        self._connection.execute("SET threads = 1")
        self._connection.execute("RESET threads")
        trim_memory()

    def store(self, name: str, table: Table | pa.Table) -> Table:
        self._give_back()
        if isinstance(table, pa.Table):
            self._connection.register("arrow table", table)
            query, schema = 'SELECT * FROM "arrow table"', ibis.Schema.from_pyarrow(table.schema)
        else:
            query, schema = _query(table), table.schema()
        self._connection.execute(f"CREATE OR REPLACE TABLE {quoted(name)} AS {query}")
        return ibis.table(schema, name=name)

    def store_ordered(self, name: str, table: Table, by: Sequence[str]) -> Table:
        stored = self.store(name, table.order_by(*by))
        return stored.mutate(stored.rowid().name(POSITION))

    def append(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Table:
        table = self.store(name, schema.empty_table())
        for batch in batches:
            self._connection.register("arrow batch", batch)
            self._connection.execute(f'INSERT INTO {quoted(name)} SELECT * FROM "arrow batch"')
        return table

    def batches(self, table: Table, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        # Rows of a stored table keep their order: preserve_insertion_order is set.
        query = _query(table.select(*columns) if columns else table)
        yield from pa.RecordBatchReader.from_stream(self._connection.sql(query))

    def numbers(self, table: Table) -> dict[str, int]:
        (values,) = self._connection.sql(_query(table)).fetchall()
        return {name: int(value or 0) for name, value in zip(table.columns, values, strict=True)}

    def number(self, text: StringValue) -> Value:
        return text.contains("_").ifelse(ibis.null("float64"), text.try_cast("float64"))

    def milliseconds(self, date: StringValue) -> Value:
        return epoch_ms(date.try_cast(dt.Timestamp("UTC")))

    def pieces(self, cells: Table, separator: str) -> Table:
        parts = cells.raw.split(separator)
        rank = ibis.range(0, parts.length()).unnest()
        pieces = cells.select(POSITION, rank=rank, raw=parts.unnest().strip())
        return pieces.filter(pieces.raw != "")


def quoted(name: str) -> str:
    """Quote the name of a table or column for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _query(table: Table) -> str:
    return str(ibis.to_sql(table, dialect="duckdb"))


def _read(
    workspace: DuckDBWorkspace, file: Path, form: LogForm, bad: BadLines
) -> tuple[Table, Callable[[int], int]]:
    """Read a file as the table ``rows``, with ``line`` rising from 1, and count malformed lines.

    Also return a function that maps such a line to its line number in the file.
    """
    check_utf8(file)
    # If the file cannot be read, reading it as text raises the right error.
    magic = text_files.first_bytes(file, len(PARQUET_MAGIC))
    if magic == ZIP_MAGIC:
        advice = "unpack it, or save a spreadsheet as CSV, and name that file"
        raise UserError(f"{file} is a zip archive; {advice}")
    if magic == PARQUET_MAGIC:
        return _read_parquet(workspace, file, form), int
    header = form.columns or csv_header(file)
    places = log.column_places(file, form, header, form.hint)
    read = partial(_records, file, len(header), not form.columns)
    rows = _read_csv(workspace, file, len(header), places, not form.columns)
    if rows is not None:
        return rows, lambda row: next(itertools.islice(read(BadLines()), row - 1, None), END)[0]
    chosen = ((number, [fields[p] for p in places.values()]) for number, fields in read(bad))
    return log.load_records(workspace, "rows", list(places), chosen), int


def csv_header(file: Path) -> list[str]:
    """Return the names in the first line of a CSV file."""
    bad = BadLines()
    number, line = next(read_lines(file, bad), END)
    if number != 1:
        raise UserError(f"{bad.examples[0]}; expected Parquet, or CSV with a header")
    try:
        names = next(csv.reader([line], delimiter=delimiter_of(file), strict=True))
    except (csv.Error, StopIteration) as error:
        raise UserError(f"{file}:1: expected a CSV header, found {line[:80]!r}") from error
    return [name.strip() for name in names]


def _read_csv(
    workspace: DuckDBWorkspace, file: Path, width: int, places: Mapping[str, int], has_header: bool
) -> Table | None:
    """Read the file with the database's own reader; None if that meets anything unexpected."""
    types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(width))
    selected = ", ".join(f"c{place} AS {quoted(alias)}" for alias, place in places.items())
    compression = "gzip" if text_files.is_gzip(file) else "none"
    query = f"""CREATE OR REPLACE TABLE rows AS SELECT {selected} FROM read_csv($file,
        auto_detect = false, columns = {{{types}}}, header = {has_header}, delim = $delimiter,
        quote = '"', escape = '"', nullstr = '', compression = {compression}, strict_mode = true,
        hive_partitioning = false)"""
    size = file.stat().st_size
    try:
        # DuckDB expands *?[ in a path; brackets around each prevent that.
        path = re.sub(r"[*?\[]", r"[\g<0>]", str(file.absolute()))
        workspace._connection.execute(query, {"file": path, "delimiter": delimiter_of(file)})
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException):
        return None
    finally:
        text_files.check_size(file, size)
    rows = ibis.table(dict.fromkeys(places, "string"), name="rows")
    return rows.mutate(line=rows.rowid() + 1)


def _read_parquet(workspace: DuckDBWorkspace, file: Path, form: LogForm) -> Table:
    if text_files.is_gzip(file):
        raise UserError(f"{file} is Parquet within gzip; unpack it first")
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
            log.check_columns(file, form, parquet.schema_arrow)
            names = sorted({column.name for column in form.wanted.values()})
            batches = parquet.iter_batches(log.ROWS, columns=names)
            texts = log.text_batches(file, batches, form, first=1)
            return workspace.append("rows", texts, log.text_schema(form.wanted))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error


def _records(
    file: Path, width: int, has_header: bool, bad: BadLines
) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of CSV records; count those without ``width`` fields as bad."""
    text_files.take_long_cells()
    lines, delimiter = read_lines(file, bad), delimiter_of(file)
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
            while len(fields) > width and not fields[-1]:
                fields.pop()  # as DuckDB does
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

    A value with an open quote continues on the next lines, at most ``LONGEST_RECORD``. They are
    consumed only if they complete the record.
    """
    whole = line + "\n"
    spaced = rf'(^|{delimiter}) ?("(?:[^"]++|"")*+") *(?={delimiter}|$)'  # as in DuckDB
    for more in range(1, LONGEST_RECORD + 1):
        try:
            bare = re.sub(spaced, r"\1\2", whole)
            fields = next(csv.reader([bare], delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" not in str(error):
                raise ValueError(f"wrong quotes: {error}") from error
        else:
            for _ in range(more - 1):
                waiting.popleft()
            return fields
        if len(waiting) < more:
            waiting.extend(itertools.islice(lines, 1))
        if len(waiting) < more:
            break
        whole += waiting[more - 1][1] + "\n"
    raise ValueError("a quote is not closed")
