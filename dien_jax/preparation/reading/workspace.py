"""The database of large logs: DuckDB, on disk, within a memory limit.

Ibis only writes the SQL, so nothing depends on which releases of the Python interfaces of Ibis and
DuckDB work together. Importing this module needs the extra ``data``: sources import it in their
``prepare``, after ``require("data", ...)`` of :mod:`dien_jax.utils.extras`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.writer import check_target
from dien_jax.errors import UserError, reason, writing
from dien_jax.preparation.reading.array_files import ArrayFile, ArrayWriter
from dien_jax.utils.files import check_utf8, partial_folder


@contextlib.contextmanager
def open_workspace(out: Path, memory_limit: str) -> Iterator["Workspace"]:
    """Open a database in a hidden folder next to ``out``, the folder to create, and remove it.

    Tables beyond the memory limit, such as ``1GB``, spill to that disk. Errors of the engine that a
    user can act on leave the block as ``UserError``.
    """
    check_target(out)
    check_utf8(out, "--out")
    try:
        with (
            writing(out, "dataset folder"),
            partial_folder(out, "work-") as folder,
            _connect(folder, memory_limit) as connection,
        ):
            yield Workspace(folder, connection)
    except duckdb.OutOfMemoryException as error:
        problem = f"the database ran out of memory within {memory_limit}; raise --memory-limit"
        raise UserError(f"{problem}: {reason(error)}") from error
    except (duckdb.InterruptException, RuntimeError) as error:
        if isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted":
            raise KeyboardInterrupt from error  # how the engine reports Ctrl-C
        raise
    except (duckdb.OperationalError, duckdb.FatalException) as error:
        raise UserError(f"dataset folder {out} cannot be written: {reason(error)}") from error


def _connect(folder: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    config: dict[str, Any] = {
        "memory_limit": memory_limit,
        "temp_directory": str(folder / "spill"),
        "autoinstall_known_extensions": False,
        "TimeZone": "UTC",
    }
    try:
        connection = duckdb.connect(folder / "work.duckdb", config=config)
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # it is never opened again
        connection.execute("SET enable_progress_bar = false")  # it writes to standard output
    except duckdb.IOException as error:
        raise UserError(f"{folder} cannot be written: {reason(error)}") from error
    except duckdb.Error as error:
        got = f"{memory_limit!r}: {error}"
        raise UserError(f"--memory-limit must be a size such as 1GB, got {got}") from error
    return connection


class Workspace:
    """Tables in the database."""

    def __init__(self, folder: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.folder = folder  # for temporary files
        self._connection = connection

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that Ibis cannot express."""
        self._connection.execute(statement, parameters)

    def store(self, name: str, table: Table | pa.Table) -> Table:
        """Compute a table once and store it under a name, rows in order."""
        if isinstance(table, pa.Table):
            self._connection.register("arrow table", table)
            query, schema = 'SELECT * FROM "arrow table"', ibis.Schema.from_pyarrow(table.schema)
        else:
            query, schema = _query(table), table.schema()
        self.sql(f"CREATE OR REPLACE TABLE {quoted(name)} AS {query}")
        return ibis.table(schema, name=name)

    def append(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Table:
        """Store a new table batch by batch, rows in order."""
        table = self.store(name, schema.empty_table())
        for batch in batches:
            self._connection.register("arrow batch", batch)
            self.sql(f'INSERT INTO {quoted(name)} SELECT * FROM "arrow batch"')
        return table

    def batches(self, table: Table) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table, in order, a batch at a time."""
        yield from pa.RecordBatchReader.from_stream(self._connection.sql(_query(table)))

    def numbers(self, table: Table) -> dict[str, int]:
        """Return the one row of a table of whole numbers; NULL becomes 0."""
        (values,) = self._connection.sql(_query(table)).fetchall()
        return {name: int(value or 0) for name, value in zip(table.columns, values, strict=True)}

    def count(self, table: Table) -> int:
        """Return the number of rows of a table."""
        return self.numbers(table.aggregate(rows=table.count()))["rows"]

    def arrays(
        self, table: Table, rows: int, dtypes: Mapping[str, type[np.generic]]
    ) -> dict[str, np.ndarray]:
        """Return columns of a table of ``rows`` rows; NULL is -1 in integers, NaN in floats."""
        arrays = {name: np.empty(rows, dtype) for name, dtype in dtypes.items()}
        start = 0
        for batch in self.batches(table.select(*dtypes)):
            stop = start + batch.num_rows
            for name, array in arrays.items():
                array[start:stop] = _numbers(batch.column(name), dtypes[name])
            start = stop
        assert start == rows
        return arrays

    def array_files(
        self, name: str, table: Table, dtypes: Mapping[str, type[np.generic]]
    ) -> dict[str, ArrayFile]:
        """Write columns of a table to files, rows in order; NULL is -1 in integers, NaN in floats.

        ``name`` is that of the files.
        """
        with contextlib.ExitStack() as stack:
            writers = {
                column: stack.enter_context(ArrayWriter(self.folder / f"{name} {column}", dtype))
                for column, dtype in dtypes.items()
            }
            for batch in self.batches(table.select(*dtypes)):
                for column, writer in writers.items():
                    writer.append(_numbers(batch.column(column), dtypes[column]))
        return {column: writer.file for column, writer in writers.items()}

    def strings(self, table: Table, column: str) -> Iterator[str]:
        """Yield one text column of a table, row by row."""
        for batch in self.batches(table.select(column)):
            yield from batch.column(column).to_pylist()


def _numbers(column: pa.Array, dtype: type[np.generic]) -> np.ndarray:
    if issubclass(dtype, np.integer) and column.null_count:
        column = column.fill_null(-1)
    return column.to_numpy(zero_copy_only=False)


def quoted(name: str) -> str:
    """Quote the name of a table or column for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _query(table: Table) -> str:
    return str(ibis.to_sql(table, dialect="duckdb"))
