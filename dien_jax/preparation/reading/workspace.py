"""The interface of engines for large logs: tables on disk, computed by Ibis expressions.

Ibis only generates the SQL, so its release need not support the release of an engine's client.
Expressions are limited to those that give equal results on all engines; operations that differ
between engines are methods of :class:`Workspace`. Importing this module needs the extra ``data``.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from ibis.expr.types import StringValue, Table, Value

from dien_jax.data.arrays import ArrayFile
from dien_jax.preparation.options import LogForm

if TYPE_CHECKING:
    from dien_jax.preparation.reading.log import Log

POSITION = "position"  # column of an ordered table: the row's number, int64 from 0


@runtime_checkable
class Workspace(Protocol):
    """Tables in an engine."""

    folder: Path  # for temporary files of this process

    def limit(self, memory: int) -> None:
        """Limit the memory that the engine uses in this process, in bytes."""

    def read_columns(self, file: Path, form: LogForm) -> "Log":
        """Read columns of a CSV or Parquet file, or of a folder of such files.

        Files named ``.tsv`` or ``.inter`` (RecBole) are tab-separated, others comma-separated.
        """

    def store(self, name: str, table: Table | pa.Table) -> Table:
        """Compute a table once and store it; a later one of the same name may replace it."""

    def store_ordered(self, name: str, table: Table, by: Sequence[str]) -> Table:
        """Store a table with its rows sorted by some columns, and numbered in ``position``.

        No two rows may have equal values in all of these columns.
        """

    def append(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Table:
        """Store a new table batch by batch."""

    def batches(self, table: Table, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table batch by batch: all columns, or the given ones.

        The rows are in the order that ``order_by`` or :meth:`store_ordered` gave the table.
        """

    def numbers(self, table: Table) -> dict[str, int]:
        """Return the single row of a table of integers; NULL becomes 0."""

    def number(self, text: StringValue) -> Value:
        """Parse numbers as ranking does, float64; NULL for other text."""

    def milliseconds(self, date: StringValue) -> Value:
        """Parse dates in the form of ``ISO_DATE``, int64 since 1970; NULL for other text."""

    def pieces(self, cells: Table, separator: str) -> Table:
        """Split text at a separator; drop pieces of white space only.

        ``cells`` has ``position`` and ``raw``, which is never NULL. The result has ``position``,
        ``rank``, the number of the piece in its cell, and ``raw``, the piece.
        """

    def count(self, table: Table) -> int:
        """Return the number of rows of a table."""
        return self.numbers(table.aggregate(rows=table.count()))["rows"]

    def array_file(self, dtype: type[np.generic]) -> ArrayFile:
        """Return an empty array in a new file."""
        return ArrayFile(self.folder / uuid.uuid4().hex, dtype)

    def array_files(
        self, table: Table, dtypes: Mapping[str, type[np.generic]]
    ) -> dict[str, ArrayFile]:
        """Write columns to files, rows in order; NULL is -1 in integers, NaN in floats."""
        files = {column: self.array_file(dtype) for column, dtype in dtypes.items()}
        for batch in self.batches(table, list(dtypes)):
            for column, file in files.items():
                values = batch.column(column)
                if values.null_count and issubclass(dtypes[column], np.integer):
                    values = values.fill_null(-1)
                file.append(values.to_numpy(zero_copy_only=False))
        return files

    def strings(self, table: Table, column: str) -> Iterator[str]:
        """Yield one text column of a table, row by row."""
        for batch in self.batches(table, [column]):
            yield from batch.column(column).to_pylist()
