"""A log in an engine: its rows as text columns, and the origin of each row.

Arrow columns, of Parquet files and of tables in memory, are converted to text, some rows at a time.
A table in memory is a pandas DataFrame, or any object with an Arrow stream, such as a Polars
DataFrame. Neither library is imported.
"""

import bisect
import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.expr.types import Table

from dien_jax.data.value_text import check_type, column_text, joined
from dien_jax.errors import UserError, printable, reading, reason, suggestion
from dien_jax.preparation.options import LogColumn, LogForm
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage
from dien_jax.utils.json_values import in_words
from dien_jax.utils.machine import map_in_order
from dien_jax.utils.text_files import EXAMPLES, BadLines, read_lines

BATCH_ROWS = 1 << 16
ROWS = 1 << 18  # rows of Arrow converted at a time
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")
LINES_BETWEEN_NOTES = 10_000
LONGEST_REASON = 100  # characters shown of the reason why a line is malformed
LOCAL_SCHEMES = ("dbfs", "file")  # schemes of addresses that name no host


class FileStart(NamedTuple):
    """A file of a log."""

    line: int  # number of lines of the log before this file
    file: str
    line_of: Callable[[int], int] = int  # maps the file's lines in the log, from 1, to its own


class Log(NamedTuple):
    """A log in an engine."""

    file: Path  # the file, or the folder of files, that was read
    rows: Table  # columns as text, NULL if empty, and line, which increases in the log's order
    bad: BadLines  # the malformed lines, which are not in rows
    starts: tuple[FileStart, ...] = ()  # files in the log's order; empty if there is only one

    def place(self, line: int) -> tuple[str, int]:
        """Return the file of a line of the log, and the line number there."""
        if not self.starts:
            return str(self.file), line
        start = self.starts[bisect.bisect_left(self.starts, (line, "")) - 1]
        return start.file, start.line_of(line - start.line)

    def refuse(self, workspace: Workspace, wrong: Table) -> None:
        """Count malformed rows, given with ``line`` and ``reason``, and report the first ones."""
        first = wrong.order_by("line").limit(EXAMPLES).select("line", "reason")
        for batch in workspace.batches(first):
            for row in batch.to_pylist():
                self.bad.show(*self.place(row["line"]), row["reason"])
        self.bad.count += workspace.count(wrong)

    def check(self, workspace: Workspace, max_bad_share: float) -> list[str]:
        """Check the share of malformed lines, and return lines about them."""
        return self.bad.check(workspace.count(self.rows) + self.bad.count, max_bad_share)


def address_of(file: Path) -> str | None:
    """Return the address that a path is, with its slashes restored; None for a local path.

    >>> [address_of(Path(path)) for path in ("s3://bucket/log", "file:///log", "log")]
    ['s3://bucket/log', 'file:///log', None]
    """
    match = ADDRESS.match(str(file))
    if match is None or file.exists():
        return None
    scheme, path = match.groups()
    return f"{scheme}:///{path}" if scheme in LOCAL_SCHEMES else f"{scheme}://{path}"


def files_of(file: Path) -> list[Path]:
    """Return the files of a log: the file itself, or all files below a folder, sorted by name.

    Names that begin with ``_`` or ``.`` are skipped, because in folders that Spark writes they hold
    no data. Anything else that cannot be read, such as a broken link, is a UserError.
    """
    if not file.is_dir():
        return [file]
    found, folders = [], [file]
    for folder in folders:  # grows
        with reading(folder):
            parts = [part for part in folder.iterdir() if not part.name.startswith(("_", "."))]
        for part in parts:
            if part.is_file():
                found.append(part)
            elif part.is_dir() and not part.is_symlink():
                folders.append(part)
            else:
                kind = "a link to a folder or to nothing" if part.is_symlink() else "another kind"
                raise UserError(f"{part}: expected a regular file or a folder, found {kind}")
    if not found:
        raise UserError(f"{file}: expected a folder with CSV or Parquet files, found none")
    return sorted(found, key=Path.as_posix)


def load_records(
    workspace: Workspace, table: str, names: list[str], records: Iterable[tuple[int, list[str]]]
) -> Table:
    """Store records with their line numbers as a table, empty values as NULL."""
    schema = text_schema(names)

    def batches() -> Iterator[pa.RecordBatch]:
        waiting = iter(records)
        while batch := list(itertools.islice(waiting, BATCH_ROWS)):
            rows = ((line, *(text or None for text in texts)) for line, texts in batch)
            columns = zip(*rows, strict=True)
            yield pa.record_batch([*map(pa.array, columns, schema.types)], schema=schema)

    return workspace.append(table, batches(), schema)


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

    ``parse`` returns the values of a line as text, one for each of ``columns``, and raises
    ``ValueError`` for a malformed line, as msgspec does. The table, named after its columns, also
    has ``line``, from 1; empty values are NULL. ``header`` is the expected first line, if any.
    """
    bad, shown = BadLines(), file / member

    def records() -> Iterator[tuple[int, list[str]]]:
        for number, line in read_lines(file, bad, member=member, encoding=encoding):
            if number % LINES_BETWEEN_NOTES == 0:
                current.note, current.share = f"{number:,} lines", bad.share_of(file)
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
                bad.add(shown, number, in_words(error)[:LONGEST_REASON])
            else:
                yield number, record

    with stage(f"reading {shown}") as current:
        return Log(shown, load_records(workspace, "_".join(columns), columns, records()), bad)


def attach(rows: Table, key: str, other: Table, columns: tuple[LogColumn, ...]) -> Table:
    """Add features of the ``key`` (``user`` or ``item``) from another table to the rows.

    ``other`` has ``line``, the key and columns named like the features. If a key occurs several
    times, its first non-missing value counts.
    """
    found = {column.alias: other[column.name] for column in columns}
    values = {a: value.argmin(other.line, where=value.notnull()) for a, value in found.items()}
    joined = rows.left_join(other.group_by(key).aggregate(**values), key)
    return joined.select(*rows.columns, *values)


def column_places(
    file: Path, form: LogForm, header: Sequence[str], hint: str = ""
) -> dict[str, int]:
    """Return the position of every wanted column in the header."""
    if form.found is not None:
        form.found.update(header)
    if any("\t" in name for name in header):
        hint = "; the first line looks tab-separated: name the file .tsv (in pandas sep='\\t')"
    elif any(";" in name for name in header):
        hint = "; the first line looks separated by ';': read it by pandas with sep=';'"
    for column in form.wanted.values():
        named = f"{column.name!r} ({column.flag})"
        if column.name not in header:
            names = ", ".join(printable(name[:40]) for name in header)
            near = suggestion(column.name, header)
            raise UserError(f"{file} has no column {named}; its columns are {names}{near}{hint}")
        if header.count(column.name) > 1:
            raise UserError(f"{file} has two columns {named}")
    return {alias: header.index(column.name) for alias, column in form.wanted.items()}


def check_columns(file: Path, form: LogForm, schema: pa.Schema) -> None:
    """Refuse a schema that lacks wanted columns, or has types that cannot be read."""
    if form.columns:
        raise UserError(f"--columns is for CSV without a header; {file} has names of columns")
    column_places(file, form, schema.names)
    for column in form.wanted.values():
        check_type(column.where(file), schema.field(column.name).type, column.kind)


def text_schema(names: Iterable[str]) -> pa.Schema:
    """Return the schema of line numbers and columns of text."""
    return pa.schema([("line", pa.int64()), *((name, pa.string()) for name in names)])


def text_batches(
    name: Path, batches: Iterable[pa.RecordBatch], form: LogForm, first: int
) -> Iterator[pa.RecordBatch]:
    """Yield batches of line numbers, starting at ``first``, and text; empty text is null.

    The next batches are converted while the current one is stored.
    """

    def convert(numbered: tuple[int, pa.RecordBatch]) -> pa.RecordBatch:
        line, batch = numbered
        columns = [pa.array(np.arange(line, line + batch.num_rows))]
        for column in form.wanted.values():
            where, values = column.where(name), batch.column(column.name)
            texts = column_text(where, values, column.kind)
            if pa.types.is_large_list(texts.type):
                texts = joined(where, texts, form.separator)
            columns.append(pc.if_else(pc.equal(texts, ""), None, texts).cast(pa.string()))
        return pa.record_batch(columns, schema=text_schema(form.wanted))

    def numbered() -> Iterator[tuple[int, pa.RecordBatch]]:
        line = first
        for batch in batches:
            yield line, batch
            line += batch.num_rows

    return map_in_order(convert, numbered(), threads=2)


def read_table(workspace: Workspace, name: Path, table: Any, form: LogForm) -> tuple[Log, str]:
    """Read columns of a table in memory, called ``name`` in messages; its rows count from 0.

    Also return a digest of the columns that does not depend on the library.
    """
    digests = [hashlib.sha256() for _ in form.wanted]
    slices = _slices(name, table, form)

    def texts() -> Iterator[pa.RecordBatch]:
        for batch in text_batches(name, slices, form, first=0):
            for digest, column in zip(digests, batch.columns[1:], strict=True):
                digest.update(_lines(column))
                digest.update(b"\n")
            yield batch

    with stage(f"reading {name}"):
        rows = workspace.append("rows", texts(), text_schema(form.wanted))
    whole = hashlib.sha256(b"".join(digest.digest() for digest in digests))
    return Log(name, rows, BadLines("row")), whole.hexdigest()


def _lines(texts: pa.StringArray) -> pa.Buffer:
    """Return the bytes of texts joined by newlines; null is empty."""
    ends = pa.array([0, len(texts)], pa.int64())
    whole = pa.LargeListArray.from_arrays(ends, texts.fill_null("").cast(pa.large_string()))
    return pc.binary_join(whole, pa.scalar("\n", pa.large_string()))[0].as_buffer()


def _slices(name: Path, table: Any, form: LogForm) -> Iterator[pa.RecordBatch]:
    """Yield the wanted columns of a table in memory, ``ROWS`` rows at a time."""
    wanted, pandas = form.wanted, sys.modules.get("pandas")
    if pandas is not None and isinstance(table, pandas.DataFrame):
        is_indexed = not {*table.index.names}.isdisjoint(column.name for column in wanted.values())
        hint = "; reset_index() makes columns of its index" if is_indexed else ""
        places = column_places(name, form, list(map(str, table.columns)), hint)
        chosen = {c.name: _of_pandas(name, c, table.iloc[:, places[a]]) for a, c in wanted.items()}
        reader = pa.table(chosen).to_reader()
    else:
        try:
            reader = pa.RecordBatchReader.from_stream(table)
        except (pa.ArrowException, TypeError, ValueError) as error:
            expected = "a DataFrame of pandas or Polars, an Arrow table or the path of a log"
            raise UserError(f"{name} must be {expected}, got {type(table).__name__}") from error
    check_columns(name, form, reader.schema)
    for batch in reader:
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)


def _of_pandas(name: Path, column: LogColumn, series: Any) -> Any:
    """Convert a pandas column to Arrow; missing values are null."""
    try:
        values = pa.array(series, from_pandas=True)
        is_dates = values.type == pa.date32() and series.dtype == object
        if is_dates and series.map(type, "ignore").nunique() > 1:
            raise TypeError("dates and times")  # Arrow would drop the times
        return values
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        first: dict[str, int] = {}
        for row, (value, known) in enumerate(zip(series, series.notna(), strict=True)):
            if known:
                first.setdefault(type(value).__name__, row)
        problem = f"cannot be read: {reason(error)}"
        if len(first) > 1:
            problem = "holds " + ", ".join(f"{kind} (row {row})" for kind, row in first.items())
        advice = "convert it to one type, such as astype('string')"
        raise UserError(f"{column.where(name)} {problem}; {advice}") from error
