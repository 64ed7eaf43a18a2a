"""The default engine: DuckDB in this process, on disk, within a memory limit."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
from ibis.expr.types import IntegerValue, StringValue, Table, Value

from dien_jax.errors import UserError, reason
from dien_jax.preparation.reading.workspace import POSITION, Workspace
from dien_jax.utils.machine import trim_memory


@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.int64))
def epoch_ms(moment: Value) -> IntegerValue:
    """Milliseconds since 1970; declares DuckDB's function to Ibis."""


@contextlib.contextmanager
def duckdb_workspace(out: Path, folder: Path, memory_limit: str) -> Iterator["DuckDBWorkspace"]:
    """Open a database in ``folder``, to prepare the dataset folder ``out``."""
    try:
        with _connect(folder, memory_limit) as connection:
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


def _connect(folder: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
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
        # The share of a query is known to what draws a bar, which a notebook without ipywidgets
        # refuses. Our own progress shows it.
        with contextlib.suppress(duckdb.InvalidInputException):
            connection.execute("SET enable_progress_bar_print = false")
            connection.execute("SET enable_progress_bar = true")
    except duckdb.IOException as error:
        raise UserError(f"{folder} cannot be written: {reason(error)}") from error
    except duckdb.Error as error:
        raise UserError(f"--memory gives the database {memory_limit}: {error}") from error
    return connection


class DuckDBWorkspace(Workspace):
    """Tables in a database of DuckDB, which keeps their rows in order."""

    def __init__(self, folder: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.folder = folder
        self._connection = connection

    def limit(self, memory: int) -> None:
        self.sql(f"SET memory_limit = '{memory}B'")
        self._give_back()

    def _give_back(self) -> None:
        """Give back freed memory: a thread of DuckDB keeps much of it until the thread ends."""
        self.sql("SET threads = 1")
        self.sql("RESET threads")
        trim_memory()

    def share(self) -> float | None:
        with contextlib.suppress(duckdb.Error):  # the database was closed meanwhile
            percent = self._connection.query_progress()
            return percent / 100 if percent >= 0 else None
        return None

    def sql(self, statement: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that Ibis cannot express."""
        self._connection.execute(statement, parameters)

    def store(self, name: str, table: Table | pa.Table) -> Table:
        self._give_back()
        if isinstance(table, pa.Table):
            self._connection.register("arrow table", table)
            query, schema = 'SELECT * FROM "arrow table"', ibis.Schema.from_pyarrow(table.schema)
        else:
            query, schema = _query(table), table.schema()
        self.sql(f"CREATE OR REPLACE TABLE {quoted(name)} AS {query}")
        return ibis.table(schema, name=name)

    def add(self, name: str, table: Table) -> None:
        """Add rows of the same columns, in any order, to a stored table."""
        self.sql(f"INSERT INTO {quoted(name)} BY NAME {_query(table)}")

    def store_ordered(self, name: str, table: Table, by: Sequence[str]) -> Table:
        stored = self.store(name, table.order_by(*by))
        return stored.mutate(stored.rowid().name(POSITION))

    def append(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Table:
        table = self.store(name, schema.empty_table())
        for batch in batches:
            self._connection.register("arrow batch", batch)
            self.sql(f'INSERT INTO {quoted(name)} SELECT * FROM "arrow batch"')
        return table

    def batches(self, table: Table, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        # Rows of a stored table come in its order: preserve_insertion_order is set.
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
