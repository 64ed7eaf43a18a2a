"""Tables to score, read in pieces: CSV through the standard library, Parquet through the extra.

A table's rows keep all their columns; what is written beside them goes to a table of the same kind.
"""

import contextlib
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.errors import UserError, suggestion
from dien_jax.utils.extras import require
from dien_jax.utils.files import atomic_path
from dien_jax.utils.text_files import BadLines, open_bytes, read_lines

SCORE = "score"
"""The column that is added."""
PARQUET_MAGIC = b"PAR1"


class Piece(NamedTuple):
    """Some rows of a table.

    Attributes:
      rows: how many.
      whole: all their columns, as the table's writer wants them back.
      places: line of each row in a CSV file, number of each in a Parquet file, from 1.
    """

    rows: int
    whole: Any
    places: Sequence[int]


Write = Callable[[Piece, np.ndarray], None]
"""Appends the rows of a piece with their scores, float32 ``[rows]``."""


class TextTable:
    """CSV with a header; values of a ``.tsv[.gz]`` are separated by tabs.

    Attributes:
      file: where it is.
      names: of its columns.
      unit: what the places of a piece count.
      rows: how many rows there are; not known before they are read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.unit = "line"
        self.rows: int | None = None
        self._delimiter = _delimiter(file)
        header = next(self._records(), None)
        assert header is not None  # an empty file was refused
        self.names = [name.strip() for name in header[1]]

    def pieces(self, size: int) -> Iterator[Piece]:
        """The rows in turn, at most ``size`` at a time."""
        records = self._records()
        next(records)
        places: list[int] = []
        whole: list[list[str]] = []
        for place, fields in records:
            if not fields:
                continue
            if len(fields) != len(self.names):
                raise UserError(
                    f"{self.file}:{place}: expected {len(self.names)} columns, found {len(fields)}"
                )
            places.append(place)
            whole.append(fields)
            if len(whole) == size:
                yield Piece(size, whole, places)
                places, whole = [], []
        if whole:
            yield Piece(len(whole), whole, places)

    def column(self, piece: Piece, name: str) -> list[Any]:
        """The cells of one column."""
        place = self.names.index(name)
        return [fields[place] for fields in piece.whole]

    @contextlib.contextmanager
    def writing(self, out: Path) -> Iterator[Write]:
        """What writes the table with its scores; the file appears when the block ends."""
        if out.name.removesuffix(".gz").endswith(".parquet"):
            raise UserError(f"--out {out}: {self.file} is text, and so is what is written; "
                            f"name it .csv")  # fmt: skip
        with atomic_path(out) as partial:
            compressed = out.name.endswith(".gz")
            opened = gzip.open if compressed else open
            with opened(partial, "wt", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, delimiter=_delimiter(out), lineterminator="\n")
                writer.writerow([*self.names, SCORE])

                def write(piece: Piece, scores: np.ndarray) -> None:
                    # Nine digits give a float32 score back exactly.
                    texts = (f"{score:.9g}" for score in scores)
                    pairs = zip(piece.whole, texts, strict=True)
                    writer.writerows([*fields, text] for fields, text in pairs)

                yield write

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Line on which each record ends, and its fields."""
        bad = BadLines()
        number = 0

        def lines() -> Iterator[str]:
            nonlocal number
            for number, line in read_lines(self.file, bad):  # noqa: B007
                if bad.count:
                    break
                yield line + "\n"

        reader = csv.reader(lines(), delimiter=self._delimiter, strict=True)
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{self.file}:{number}: {error}") from error
            if bad.count:
                raise UserError(f"{bad.examples[0]}; expected Parquet, or CSV with a header")
            if fields is None:
                return
            yield number, fields


class ParquetTable:
    """Parquet; with the attributes of :class:`TextTable`.

    Raises:
      UserError: when the extra ``data`` is missing or the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        require("data", "reading Parquet")
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.file = file
        self.unit = "row"
        try:
            self._parquet = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error
        self.names = list(self._parquet.schema_arrow.names)
        self.rows: int | None = self._parquet.metadata.num_rows

    def pieces(self, size: int) -> Iterator[Piece]:
        """The rows in turn, at most ``size`` at a time."""
        import pyarrow as pa

        start = 1
        try:
            for batch in self._parquet.iter_batches(size):
                yield Piece(batch.num_rows, batch, range(start, start + batch.num_rows))
                start += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.file}: damaged after row {start - 1}: {error}") from error

    def column(self, piece: Piece, name: str) -> list[Any]:
        """The cells of one column."""
        return list(piece.whole.column(name).to_pylist())

    @contextlib.contextmanager
    def writing(self, out: Path) -> Iterator[Write]:
        """What writes the table with its scores; the file appears when the block ends."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not out.name.endswith(".parquet"):
            raise UserError(
                f"--out {out}: {self.file} is Parquet, and so is what is written; name it .parquet"
            )
        schema = self._parquet.schema_arrow.append(pa.field(SCORE, pa.float32()))
        with atomic_path(out) as partial, pq.ParquetWriter(partial, schema) as writer:

            def write(piece: Piece, scores: np.ndarray) -> None:
                columns = [*piece.whole.columns, pa.array(scores, pa.float32())]
                writer.write_batch(pa.record_batch(columns, schema=schema))

            yield write


RequestTable = TextTable | ParquetTable
"""A table that can be read in pieces and written back with scores."""


def open_requests(file: Path) -> RequestTable:
    """A CSV, TSV or Parquet table, told by its first bytes; text may be compressed with gzip.

    Raises:
      UserError: when it is missing, empty or damaged, or has a column ``score`` or one twice.
    """
    try:
        with open_bytes(file) as stream:
            is_parquet = stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except (OSError, EOFError, zlib.error):
        is_parquet = False  # read as text, it tells what is wrong
    table = ParquetTable(file) if is_parquet else TextTable(file)
    for name in table.names:
        if table.names.count(name) > 1:
            raise UserError(f"{file} has two columns {name!r}")
    if SCORE in table.names:
        raise UserError(f"{file} has a column {SCORE!r} already; rename it, scores are to go there")
    return table


def find_column(table: RequestTable, name: str, why: str) -> str:
    """The column's name.

    Raises:
      UserError: when the table has none of that name.
    """
    if name not in table.names:
        raise UserError(
            f"{table.file} has no column {name!r} ({why}){suggestion(name, table.names)}; its "
            f"columns are {', '.join(column[:40] for column in table.names)}"
        )
    return name


def _delimiter(file: Path) -> str:
    return "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
