"""Tables of requests, scores and lists, which are read and written in pieces of some rows."""

import contextlib
import csv
import dataclasses
import gzip
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dien_jax.data.value_text import SEPARATOR, Use, check_type, column_text
from dien_jax.errors import UserError, failing, printable, require, suggestion
from dien_jax.utils.files import atomic_path, check_out, check_utf8
from dien_jax.utils.text_files import (
    BadLines,
    delimiter_of,
    first_bytes,
    is_gzip,
    read_lines,
    take_long_cells,
)

SCORE = "score"
"""Name of the last column of every written table."""


USES: dict[str, Use] = {
    "user": "categorical",
    "item": "categorical",
    "history": "multivalued",
    "timestamp": "time",
}
"""Uses of the columns of ids and times, which decide how they are read."""


@dataclass(frozen=True)
class UserColumns:
    """Columns of a table of users."""

    user: str = "user"
    """Column of user ids. An empty cell is an unknown user."""
    history: str | None = None
    """Column of histories: a list, or ids with separators. Default: 'history', if it exists."""
    timestamp: str | None = None
    """Column of times, used when histories come from the data folder: whole numbers as in the log,
    or ISO dates (UTC without an offset). Default: 'timestamp', if it exists."""
    separator: str = SEPARATOR
    """Separator between the values of a history or a multi-valued column."""


@dataclass(frozen=True)
class RequestColumns(UserColumns):
    """Columns of a table of requests: those of users, and the item."""

    item: str = "item"
    """Column of item ids."""


DEFAULT_COLUMNS, USER_COLUMNS = RequestColumns(), UserColumns()
AnyColumns = TypeVar("AnyColumns", bound=UserColumns)


class Piece(NamedTuple):
    """Consecutive rows of a table.

    ``columns`` has all columns, as lists of text or Arrow arrays. ``places`` has the number of each
    row's line in a text file, or of the row in a Parquet file, from 1.
    """

    columns: Sequence[Any]
    places: Sequence[int]


Write = Callable[[Sequence[Any], np.ndarray], None]
"""A function that appends rows: their columns, and their scores, float32 ``[rows]``."""


class TextTable:
    """CSV with a header; tabs separate columns of ``.tsv`` and ``.inter``."""

    schema: Any = None
    """Arrow schema of the columns of a Parquet file; None for text."""
    rows: int | None = None  # unknown before reading
    names: Sequence[str] = ()

    def __init__(self, file: Path) -> None:
        self.file = file
        _, header = next(self._records())
        self.names = [name.strip() for name in header]

    def share(self) -> float | None:
        """Return the fraction of the table that has been read, or None if unknown."""
        return self._read.share_of(self.file)

    def where(self, place: int) -> str:
        """Return file and line or row, for error messages."""
        return f"{self.file}:{place}"

    def pieces(self, size: int) -> Iterator[Piece]:
        """Yield the rows, at most ``size`` at a time."""
        records = itertools.islice(self._records(), 1, None)
        while rows := list(itertools.islice(records, size)):
            places, cells = zip(*rows, strict=True)
            yield Piece(list(zip(*cells, strict=True)), places)

    def column(self, piece: Piece, name: str, use: Use) -> list[Any]:
        """Return the cells of one column: text, lists of text, or None for missing cells."""
        return list(piece.columns[self.names.index(name)])

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the last line and the fields of each record, the header first."""
        take_long_cells()
        bad = self._read = BadLines()
        lines = (line for _, line in read_lines(self.file, bad, ends=True))
        good = itertools.takewhile(lambda _: not bad.count, lines)
        reader = csv.reader(good, delimiter=delimiter_of(self.file), strict=True)
        try:
            for fields in reader:
                if self.names and not fields:
                    continue
                if self.names and len(fields) != len(self.names):
                    raise UserError(
                        f"{self.where(reader.line_num)}: expected {len(self.names)} columns, "
                        f"found {len(fields)}"
                    )
                yield reader.line_num, fields
        except csv.Error as error:
            header = "" if self.names else "expected Parquet, or CSV with a header: "
            raise UserError(f"{self.where(reader.line_num)}: {header}{error}") from error
        if bad.count:
            raise UserError(f"{bad.examples[0]}; expected Parquet, or CSV with a header")


class ParquetTable:
    """Parquet, with the attributes and methods of :class:`TextTable`."""

    def __init__(self, file: Path) -> None:
        require("data", "reading Parquet")
        import pyarrow.parquet as pq

        check_utf8(file)
        if is_gzip(file):
            raise UserError(f"{file} is Parquet within gzip; unpack it first")
        self.file = file
        with failing(f"{file}: damaged, or not a Parquet file"):
            self._parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            self.schema: Any = self._parquet.schema_arrow
            self.names = list(self.schema.names)
        self.rows: int | None = self._parquet.metadata.num_rows
        self._read = 0

    def share(self) -> float | None:
        return self._read / self.rows if self.rows else None

    def where(self, place: int) -> str:
        return f"{self.file}: row {place}"

    def pieces(self, size: int) -> Iterator[Piece]:
        batches = iter(self._parquet.iter_batches(size))
        while True:
            with failing(f"{self.file}: damaged after row {self._read}"):
                batch = next(batches, None)
            if batch is None:
                return
            start, self._read = self._read + 1, self._read + batch.num_rows
            yield Piece(batch.columns, range(start, self._read + 1))

    def column(self, piece: Piece, name: str, use: Use) -> list[Any]:
        where = f"{self.file}: column {name!r}"
        cells = piece.columns[self.names.index(name)]
        return list(column_text(where, cells, use).to_pylist())


RequestTable = TextTable | ParquetTable


@contextlib.contextmanager
def writing_scores(
    out: Path, names: Sequence[str], schema: Any, why: str = "", flag: str = "--out"
) -> Iterator[Write]:
    """Yield a function that writes rows of the columns ``names`` and their scores.

    The table is Parquet if there is an Arrow ``schema``, else CSV; ``why`` explains this in an
    error. The file is renamed into place when the block ends.
    """
    kinds = (
        ".csv, .tsv or .txt file, or one of these and .gz" if schema is None else ".parquet file"
    )
    is_text_name = Path(out.name.removesuffix(".gz")).suffix.lower() in (".csv", ".tsv", ".txt", "")
    if not (is_text_name if schema is None else out.suffix == ".parquet"):
        raise UserError(f"{flag} {out}: {why}expected the name of a {kinds}")
    if schema is None:
        coded = {"encoding": "utf-8", "errors": "backslashreplace"}  # ids of any log
        opened = partial(gzip.open if out.name.endswith(".gz") else open, newline="", **coded)
        with atomic_path(out) as file, opened(file, "wt") as stream:
            # Python 3.11 quotes a carriage return only if lines end in one.
            lines = SimpleNamespace(write=lambda line: stream.write(line[:-2] + "\n"))
            writer = csv.writer(lines, delimiter=delimiter_of(out), lineterminator="\r\n")
            writer.writerow([*names, SCORE])

            def write_rows(columns: Sequence[Any], scores: np.ndarray) -> None:
                texts = [f"{score:.9g}" for score in scores]  # exact for a float32
                writer.writerows(zip(*columns, texts, strict=True))

            yield write_rows
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_utf8(out, "--out")
    schema = schema.append(pa.field(SCORE, pa.float32()))
    with atomic_path(out) as file, pq.ParquetWriter(file, schema) as parquet:

        def write_batch(columns: Sequence[Any], scores: np.ndarray) -> None:
            parquet.write_batch(pa.record_batch([*columns, scores], schema=schema))

        yield write_batch


def check_table(out: Path, names: Sequence[str], **options: Any) -> None:
    """Check that a table of the columns ``names`` and scores can be written, see ``check_out``."""

    def is_ours(file: Path) -> bool:
        table = ParquetTable(file) if file.suffix == ".parquet" else TextTable(file)
        return table.names == [*names, SCORE]

    check_out(out, is_ours=is_ours, **options)


def open_requests(file: Path) -> RequestTable:
    """Open a CSV, TSV or Parquet table, recognised by its content; text may be gzip."""
    # If the file cannot be read, reading it as text raises the right error.
    is_parquet = first_bytes(file, 4) == b"PAR1"
    table = ParquetTable(file) if is_parquet else TextTable(file)
    for name in table.names:
        if table.names.count(name) > 1:
            raise UserError(f"{file} has two columns {name!r}")
    if SCORE in table.names:
        raise UserError(f"{file} already has a column {SCORE!r}, the new column's name; rename it")
    return table


def find_column(table: RequestTable, name: str, reason: str, use: Use) -> None:
    """Check that a table has a column that suits its use; an error gives the ``reason`` for it."""
    if name not in table.names:
        names = ", ".join(printable(column[:40]) for column in table.names)
        problem = f"{table.file} has no column {name!r} ({reason}); its columns are {names}"
        raise UserError(problem + suggestion(name, table.names))
    if table.schema is not None:
        where = f"{table.file}: column {name!r} ({reason})"
        check_type(where, table.schema.field(name).type, use)


def found_columns(requests: RequestTable, columns: AnyColumns) -> AnyColumns:
    """Return ``columns`` with the defaults that a table has; refuse columns that are unreadable."""
    if not columns.separator:
        raise UserError("--separator must not be empty")
    defaults = {
        name: name
        for name in ("history", "timestamp")
        if name in requests.names and getattr(columns, name) is None
    }
    columns = dataclasses.replace(columns, **defaults)
    flags: dict[str, str] = {}
    for flag, use in USES.items():  # each use needs a column of its own
        if (column := getattr(columns, flag, None)) is not None:
            if column in flags:
                other = f"--{flag} must name another column than --{flags[column]}"
                raise UserError(f"{other}, got {column!r}")
            flags[column] = flag
            find_column(requests, column, f"--{flag}", use)
    return columns
