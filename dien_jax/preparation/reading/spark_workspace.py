"""The engine for logs larger than one machine: Spark 4, by Spark Connect or a classic session.

Spark writes results as Parquet into a folder that this process can also access, and this process
reads them batch by batch: no table passes through the memory of Spark's driver. Sorting puts rows
into ranges. Rows are numbered within their range, and a small table has the start of each range.
"""

import contextlib
import gc
import itertools
import re
import signal
import socket
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ibis
import ibis.expr.datatypes as dt
import numpy as np
import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from ibis.expr.operations import Node
from ibis.expr.types import IntegerValue, StringValue, Table, Value
from pyarrow.dataset import ParquetFileFragment, dataset

from dien_jax.data.value_text import NUMBER
from dien_jax.errors import UserError, failing, reason
from dien_jax.preparation.options import LogForm
from dien_jax.preparation.reading.log import BATCH_ROWS, Log
from dien_jax.preparation.reading.workspace import POSITION, Workspace

PORT = 15002  # default port of Spark Connect
SECONDS_TO_ANSWER = 10
OLDEST = 4  # first major version with all functions used here
SETTINGS = {"spark.sql.session.timeZone": "UTC", "spark.sql.caseSensitive": "true"}
PLACE_BITS = 33  # low bits of a place, the row in its range; the higher bits are the range
PLACE = "_place"  # int64 column that increases in the order of the rows
OPEN_AT_A_TIME = 16  # footers that are read concurrently: object stores answer slowly
SPACE = r"[ \t\n\x0b\f\r]*"
# A time with a zone but without seconds, which Spark does not parse
MINUTES = r"^([^:]*:[0-9]{1,2})( UTC|Z|[+-].*)\z"


@ibis.udf.scalar.builtin(signature=((dt.Timestamp("UTC"),), dt.int64))
def unix_millis(moment: Value) -> IntegerValue:
    """Milliseconds since 1970; declares Spark's function to Ibis."""


@contextlib.contextmanager
def spark_workspace(
    local: Workspace, url: str | None, shared: str | None
) -> Iterator["SparkWorkspace"]:
    """Open a Spark session at ``url``, or that of the environment.

    ``local`` is a workspace of this process, and ``shared`` the folder for files that Spark can
    access too; by default it is the folder of ``local``.
    """
    where = str(local.folder.absolute()) if shared is None else shared
    with _session(url) as session:
        tables = SharedFolder(where)
        workspace = SparkWorkspace(local, session, tables)
        try:
            _check_shared(workspace, where)
            yield workspace
        finally:
            with contextlib.suppress(Exception):  # the session may be lost
                workspace.drop_views()
            with contextlib.suppress(OSError, pa.ArrowException):
                tables.remove()


def _check_shared(workspace: "SparkWorkspace", where: str) -> None:
    """Refuse a folder that Spark or this process cannot access."""
    hint = "give a --spark-folder that both see, such as s3://BUCKET/FOLDER"
    problem = f"--engine spark: Spark and this process must both see {where}"
    try:
        rows = workspace.store("seen", pa.table({"seen": [1]}))
        seen = sum(batch.num_rows for batch in workspace.batches(rows))
    except Exception as error:
        if not _is_spark_error(error) and not isinstance(error, OSError | pa.ArrowException):
            raise
        raise UserError(f"{problem} ({_spark_reason(error)}); {hint}") from error
    if seen != 1:
        raise UserError(f"{problem}; {hint}")


class SparkWorkspace(Workspace):
    """Views of Parquet files that Spark writes; ``local`` reads files that Spark does not."""

    def __init__(self, local: Workspace, session: Any, shared: "SharedFolder") -> None:
        assert ibis.pyspark  # registers settings that SQL generation reads
        self.local, self.folder = local, local.folder
        self.session, self._shared = session, shared
        self._names = (f"t{number}" for number in itertools.count(1))  # of tables
        self._views: list[str] = []
        self._ordered: dict[Node, str] = {}  # files of the tables of store_ordered

    def read_columns(self, file: Path, form: LogForm) -> Log:
        from dien_jax.preparation.reading.spark_files import read_spark

        return read_spark(self, file, form)

    def limit(self, memory: int) -> None:
        self.local.limit(memory)

    def store(self, name: str, table: Table | pa.Table) -> Table:
        if isinstance(table, pa.Table):
            return self.append(name, table.to_batches(), table.schema)
        return self.store_frame(self.frame(table), table.schema())

    def store_ordered(self, name: str, table: Table, by: Sequence[str]) -> Table:
        file, kind = self._write_placed(table.order_by(*by))
        stored = self._view(file, kind, ibis.schema({**table.schema(), PLACE: "int64"}))
        numbered = self._numbered(stored, file).select(*table.columns, POSITION)
        self._ordered[numbered.op()] = file
        return numbered

    def _numbered(self, stored: Table, file: str) -> Table:
        """Add the position of each row of a table, computed from its place."""
        rows: dict[int, int] = {}
        for part in self._shared.files(file):
            range_ = _first_place(part) >> PLACE_BITS
            rows[range_] = rows.get(range_, 0) + part.metadata.num_rows
        own = stored[PLACE] & ((1 << PLACE_BITS) - 1)
        if len(rows) <= 1:
            return stored.mutate(own.name(POSITION))
        sizes = np.array(list(rows.values()))
        starts = pa.table({"range": list(rows), "start": np.cumsum(sizes) - sizes})
        range_ = (stored[PLACE] >> PLACE_BITS).name("range")
        placed = stored.mutate(range_, own=own).join(self.store("starts", starts), "range")
        return placed.mutate((placed.own + placed.start).name(POSITION))

    def append(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Table:
        file = next(self._names)
        self._shared.write(file, batches, schema)
        kind = self.session.read.parquet(self._shared.address_of(file)).schema
        return self._view(file, kind, ibis.Schema.from_pyarrow(schema))

    def store_frame(self, frame: Any, schema: Any) -> Table:
        """Compute a Spark DataFrame once and store it."""
        return self._view(self._write(frame), frame.schema, schema)

    def batches(self, table: Table, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        chosen = list(columns or table.columns)
        ordered = self._ordered.get(table.op())
        if ordered is not None and POSITION not in chosen:
            yield from self._shared.read(ordered, chosen)
            return
        if ordered is not None:
            table = table.order_by(POSITION)
        file, _ = self._write_placed(table.select(*chosen))
        try:
            yield from self._shared.read(file, chosen)
        finally:
            self._shared.remove(file)

    def count(self, table: Table) -> int:
        if (file := self._ordered.get(table.op())) is not None:
            return sum(part.metadata.num_rows for part in self._shared.files(file))
        return super().count(table)

    def numbers(self, table: Table) -> dict[str, int]:
        (row,) = self.frame(table).collect()
        return {name: int(row[name] or 0) for name in table.columns}

    def number(self, text: StringValue) -> Value:
        return text.re_extract(rf"^{SPACE}({NUMBER}){SPACE}\z", 1).nullif("").try_cast("float64")

    def milliseconds(self, date: StringValue) -> Value:
        before, zone = (date.re_extract(MINUTES, group) for group in (1, 2))
        full = (zone == "").ifelse(date, before + ":00" + zone)
        return unix_millis(full.try_cast(dt.Timestamp("UTC")))

    def pieces(self, cells: Table, separator: str) -> Table:
        parts = cells.select(POSITION, raw=cells.raw.split(re.escape(separator)))
        pieces = parts.unnest("raw", offset="rank")
        pieces = pieces.select(POSITION, "rank", raw=pieces.raw.strip())
        return pieces.filter(pieces.raw != "")

    def frame(self, table: Table) -> Any:
        """Return an Ibis table as a Spark DataFrame."""
        return self.session.sql(str(ibis.to_sql(table, dialect="pyspark")))

    def drop_views(self) -> None:
        """Remove the views of all tables from the session."""
        while self._views:
            self.session.catalog.dropTempView(self._views.pop())

    def _write(self, frame: Any) -> str:
        file = next(self._names)
        frame.write.parquet(self._shared.address_of(file))
        return file

    def _write_placed(self, table: Table) -> tuple[str, Any]:
        """Write a table with the place of each row; return its file and Spark's schema."""
        from pyspark.sql import functions

        frame = self.frame(table).withColumn(PLACE, functions.monotonically_increasing_id())
        return self._write(frame), frame.schema

    def _view(self, file: str, kind: Any, schema: Any) -> Table:
        name = f"{self._shared.address.rpartition('/')[2]}_{file}".replace("-", "_")
        frame = self.session.read.schema(kind).parquet(self._shared.address_of(file))
        frame.createOrReplaceTempView(name)
        self._views.append(name)
        return ibis.table(schema, name=name)


class SharedFolder:
    """A new folder in a path or an address such as ``s3://bucket``, removed by :meth:`remove`."""

    def __init__(self, address: str) -> None:
        name = f"dien-jax-{uuid.uuid4().hex[:12]}"
        self.address = f"{address.rstrip('/')}/{name}"
        with failing(f"{address} cannot be written"):
            if ":/" in address:
                uri = self.address.replace("s3a://", "s3://", 1)
                self._files, self._path = pa_fs.FileSystem.from_uri(uri)
            else:
                self._files, self._path = pa_fs.LocalFileSystem(), self.address
            self._files.create_dir(self._path)

    def address_of(self, table: str) -> str:
        """Return the address of a table, for the engine."""
        return f"{self.address}/{table}"

    def write(self, table: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
        """Write a table from this process."""
        self._files.create_dir(f"{self._path}/{table}")
        file = f"{self._path}/{table}/part-0.parquet"
        with pq.ParquetWriter(file, schema, filesystem=self._files) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def read(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of a table that the engine wrote, in the order of its places."""
        for file in self.files(table):
            where: Any = {"filesystem": self._files, "pre_buffer": False}
            with pq.ParquetFile(file.path, **where) as parquet:
                yield from parquet.iter_batches(BATCH_ROWS, columns=list(columns))

    def files(self, table: str) -> list[ParquetFileFragment]:
        """Return the files of a table that have rows, sorted by their first place."""
        how: Any = {"format": "parquet", "exclude_invalid_files": False}
        folder = dataset(f"{self._path}/{table}", filesystem=self._files, **how)
        files = list(folder.get_fragments())
        with ThreadPoolExecutor(OPEN_AT_A_TIME) as pool:
            list(pool.map(ParquetFileFragment.ensure_complete_metadata, files))
        return sorted((file for file in files if file.metadata.num_rows), key=_first_place)

    def remove(self, table: str = "") -> None:
        """Remove a table, or the whole folder."""
        self._files.delete_dir(f"{self._path}/{table}".rstrip("/"))


def _first_place(file: ParquetFileFragment) -> int:
    return min(group.statistics[PLACE]["min"] for group in file.row_groups)


@contextlib.contextmanager
def _session(url: str | None) -> Iterator[Any]:
    """Open a session with the settings that results depend on, and restore them at the end.

    With the address ``sc://HOST:PORT`` of Spark Connect, the session is new, and stopped at the
    end. Without ``url`` it is that of the environment, as ``SparkSession.builder`` finds it. Spark
    errors in the block are raised as ``UserError``.
    """
    if url is not None:
        _check_address(url)
    session = _open_session(url)
    before = {}
    try:
        major = int(str(session.version).split(".")[0])
        if major < OLDEST:
            raise UserError(f"--engine spark needs Spark {OLDEST} or later, got {session.version}")
        for name, value in SETTINGS.items():
            before[name] = session.conf.get(name, None)
            session.conf.set(name, value)
        yield session
    except Exception as error:
        if not _is_spark_error(error):
            raise
        raise UserError(f"Spark: {_spark_reason(error)}") from error
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            cancel = getattr(session, "interruptAll", None)  # of Spark Connect
            (cancel or session.sparkContext.cancelAllJobs)()
        raise
    finally:
        with contextlib.suppress(Exception):  # an interrupted or lost session has no settings
            for name, value in before.items():
                session.conf.unset(name) if value is None else session.conf.set(name, value)
        if url is not None:
            # The client waits for its threads under a lock that finalizing an unread result takes
            # too. Collect such results here, so that none of these threads has to.
            gc.collect()
            with contextlib.suppress(Exception):
                session.stop()


def _is_spark_error(error: Exception) -> bool:
    """Return whether an error comes from Spark or its client libraries."""
    names = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(names & {"pyspark", "py4j", "grpc"})


def _spark_reason(error: Exception) -> str:
    """Return an error of Spark on one line: a Java error's first line says little."""
    details = getattr(error, "details", None)  # of a gRPC error
    text = str(details() if callable(details) else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("An error occurred while calling"):
        lines = lines[1:]
    return reason(Exception(lines[0] if lines else type(error).__name__))


def _check_address(url: str) -> None:
    """Refuse an address where no server answers: Spark itself would retry for minutes."""
    where = f"--spark-url {url}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORT
    except ValueError as error:
        raise UserError(f"{where}: expected sc://HOST:PORT, got {error}") from error
    if parts.scheme != "sc" or not host:
        raise UserError(f"{where}: expected sc://HOST:PORT")
    with failing(f"{where}: nothing answers at {host}:{port}"):
        socket.create_connection((host, port), SECONDS_TO_ANSWER).close()


def _open_session(url: str | None) -> Any:
    from pyspark.sql import SparkSession

    interrupt = signal.getsignal(signal.SIGINT)
    try:
        if url is None:
            session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
        else:
            session = SparkSession.builder.remote(url).create()
        session.version  # noqa: B018 - the first answer
        if signal.getsignal(signal.SIGINT) is not interrupt:
            # Spark's handler would call Java while a response of Java is being read.
            signal.signal(signal.SIGINT, interrupt)
    except Exception as error:
        where = "--engine spark" if url is None else f"--spark-url {url}"
        hint = "give --spark-url sc://HOST:PORT, or set SPARK_REMOTE or SPARK_HOME"
        raise UserError(f"{where}: no Spark session ({_spark_reason(error)}); {hint}") from error
    return session
