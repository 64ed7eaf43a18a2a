"""Tables of requests, read in pieces; tables of scores and of lists, written in pieces."""

import contextlib
import csv
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.value_text import Use, check_type, column_text
from dien_jax.errors import UserError, encodable, printable, require, suggestion
from dien_jax.inference.lists import Ranking
from dien_jax.utils.files import atomic_path, check_utf8
from dien_jax.utils.text_files import BadLines, is_gzip, open_bytes, read_lines, take_long_cells

SCORE = "score"
"""Name of the column that is added."""
LIST_COLUMNS = ("user", "rank", "item", SCORE)
"""Columns of a table of lists."""
PARQUET_MAGIC = b"PAR1"
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", "")
"""Ends of the names of text tables, before ``.gz``."""


class Piece(NamedTuple):
    """Consecutive rows of a table.

    ``content`` is all their columns, in the form that the table's writer takes. ``places`` are
    lines of a text file, or numbers of rows in a Parquet file, from 1.
    """

    rows: int
    content: Any
    places: Sequence[int]


Write = Callable[[Piece, np.ndarray], None]
"""Appends the rows of a piece with their scores, float32 ``[rows]``."""


class TextTable:
    """CSV with a header; the columns of a ``.tsv[.gz]`` are separated by tabs."""

    file: Path
    rows: int | None  # None if it is not known before they are read
    names: list[str]

    def __init__(self, file: Path) -> None:
        self.file, self.rows, self.names = file, None, []
        _, header = next(self._records())
        self.names = [name.strip() for name in header]

    def share(self) -> float | None:
        """Return the share of the rows that were read, if it is known."""
        return self._read.share_of(self.file)

    def where(self, place: int) -> str:
        """Return the place of a row for error messages."""
        return f"{self.file}:{place}"

    def pieces(self, size: int) -> Iterator[Piece]:
        """Yield the rows, at most ``size`` at a time."""
        records = itertools.islice(self._records(), 1, None)
        while rows := list(itertools.islice(records, size)):
            places, content = zip(*rows, strict=True)
            yield Piece(len(rows), content, places)

    def column(self, piece: Piece, name: str, use: Use) -> list[Any]:
        """Return the cells of one column: text, lists of text, or None where they are missing."""
        column = self.names.index(name)
        return [fields[column] for fields in piece.content]

    @contextlib.contextmanager
    def writing(self, out: Path) -> Iterator[Write]:
        """Yield a function that writes pieces; the file appears when the block ends."""
        if not _is_text_name(out):
            raise UserError(f"--out {out}: {self.file} is text and is written as text; name the "
                            f"file .csv, .tsv or .txt, or one of these and .gz")  # fmt: skip
        with _text_writer(out, [*self.names, SCORE]) as writer:

            def write(piece: Piece, scores: np.ndarray) -> None:
                for fields, score in zip(piece.content, scores, strict=True):
                    writer.writerow([*fields, f"{score:.9g}"])  # exact for a float32

            yield write

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the last line and the fields of each record, the header first."""
        take_long_cells()
        bad = self._read = BadLines()
        lines = (line + "\n" for _, line in read_lines(self.file, bad))
        good = itertools.takewhile(lambda _: not bad.count, lines)
        reader = csv.reader(good, delimiter=_delimiter(self.file), strict=True)
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        check_utf8(file)
        if is_gzip(file):
            raise UserError(f"{file} is Parquet within gzip; unpack it first")
        self.file = file
        try:
            self._parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            self.names = list(self._parquet.schema_arrow.names)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error
        self.rows: int | None = self._parquet.metadata.num_rows
        self._read = 0

    def share(self) -> float | None:
        return self._read / self.rows if self.rows else None

    def where(self, place: int) -> str:
        return f"{self.file}: row {place}"

    def pieces(self, size: int) -> Iterator[Piece]:
        import pyarrow as pa

        start = 1
        try:
            for batch in self._parquet.iter_batches(size):
                yield Piece(batch.num_rows, batch, range(start, start + batch.num_rows))
                start += batch.num_rows
                self._read = start - 1
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.file}: damaged after row {start - 1}: {error}") from error

    def column(self, piece: Piece, name: str, use: Use) -> list[Any]:
        where = f"{self.file}: column {name!r}"
        return list(column_text(where, piece.content.column(name), use).to_pylist())

    def check_type(self, name: str, reason: str, use: Use) -> None:
        """Refuse the type of a column that cannot be read for a use."""
        kind = self._parquet.schema_arrow.field(name).type
        check_type(f"{self.file}: column {name!r} ({reason})", kind, use)

    @contextlib.contextmanager
    def writing(self, out: Path) -> Iterator[Write]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not out.name.endswith(".parquet"):
            raise UserError(f"--out {out}: {self.file} is Parquet and is written as Parquet; "
                            f"name the file .parquet")  # fmt: skip
        check_utf8(out, "--out")
        schema = self._parquet.schema_arrow.append(pa.field(SCORE, pa.float32()))
        with atomic_path(out) as file, pq.ParquetWriter(file, schema) as writer:

            def write(piece: Piece, scores: np.ndarray) -> None:
                columns = [*piece.content.columns, pa.array(scores, pa.float32())]
                writer.write_batch(pa.record_batch(columns, schema=schema))

            yield write


@contextlib.contextmanager
def _text_writer(out: Path, header: Sequence[str]) -> Iterator[Any]:
    """Yield a CSV writer; the file appears when the block ends."""
    opened = partial(gzip.open if out.name.endswith(".gz") else open, encoding="utf-8")
    with atomic_path(out) as file, opened(file, "wt", newline="") as stream:
        writer = csv.writer(stream, delimiter=_delimiter(out), lineterminator="\n")
        writer.writerow(header)
        yield writer


@contextlib.contextmanager
def writing_lists(out: Path) -> Iterator[Callable[[Sequence[str], Sequence[Ranking]], None]]:
    """Yield a function that writes the lists of users in ``LIST_COLUMNS``, ranks from 1.

    Parquet if the name ends in ``.parquet``, else CSV; the file appears when the block ends.
    """

    def rows(users: Sequence[str], lists: Sequence[Ranking]) -> Iterator[tuple[Any, ...]]:
        for user, listed in zip(users, lists, strict=True):
            for place, (item, score) in enumerate(zip(listed.ids, listed.scores, strict=True), 1):
                yield user, place, encodable(item), score

    if out.suffix == ".parquet":
        require("data", "writing Parquet")
        import pyarrow as pa
        import pyarrow.parquet as pq

        check_utf8(out, "--out")
        types = (pa.string(), pa.int32(), pa.string(), pa.float32())
        schema = pa.schema(list(zip(LIST_COLUMNS, types, strict=True)))
        with atomic_path(out) as file, pq.ParquetWriter(file, schema) as parquet:

            def write_batch(users: Sequence[str], lists: Sequence[Ranking]) -> None:
                columns = list(zip(*rows(users, lists), strict=True)) or [()] * len(types)
                arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
                parquet.write_batch(pa.record_batch(arrays, schema=schema))

            yield write_batch
        return
    if not _is_text_name(out):
        raise UserError(f"--out {out}: expected the name of a .parquet, .csv, .tsv or .txt file, "
                        f"or of one of the last three and .gz")  # fmt: skip
    with _text_writer(out, LIST_COLUMNS) as writer:

        def write_rows(users: Sequence[str], lists: Sequence[Ranking]) -> None:
            for user, place, item, score in rows(users, lists):
                writer.writerow((user, place, item, f"{score:.9g}"))

        yield write_rows


def has_columns(names: Sequence[str]) -> Callable[[Path], bool]:
    """Return a function that says whether a file is a table of these columns."""

    def is_table(file: Path) -> bool:
        table = ParquetTable(file) if file.suffix == ".parquet" else TextTable(file)
        return table.names == [*names]

    return is_table


RequestTable = TextTable | ParquetTable


def open_requests(file: Path) -> RequestTable:
    """Open a CSV, TSV or Parquet table, recognised by its content; text may be gzip."""
    try:
        with open_bytes(file) as stream:
            is_parquet = stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except (OSError, EOFError, zlib.error):
        is_parquet = False  # reading it as text raises the error
    table = ParquetTable(file) if is_parquet else TextTable(file)
    for name in table.names:
        if table.names.count(name) > 1:
            raise UserError(f"{file} has two columns {name!r}")
    if SCORE in table.names:
        raise UserError(f"{file} already has a column {SCORE!r}, the new column's name; rename it")
    return table


def find_column(table: RequestTable, name: str, reason: str, use: Use) -> None:
    """Check that a table has a column of a type for a use; the error says for what reason."""
    if name not in table.names:
        raise UserError(
            f"{table.file} has no column {name!r} ({reason}){suggestion(name, table.names)}; its "
            f"columns are {', '.join(printable(column[:40]) for column in table.names)}"
        )
    if isinstance(table, ParquetTable):
        table.check_type(name, reason, use)


def _is_text_name(out: Path) -> bool:
    return Path(out.name.removesuffix(".gz")).suffix.lower() in TEXT_SUFFIXES


def _delimiter(file: Path) -> str:
    return "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
