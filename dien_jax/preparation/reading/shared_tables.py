"""Tables in Parquet that two programs see: those of an engine, read and written by this process.

An engine writes each range of a sorted table into one or several files. They are read a batch at a
time, in the order of a column that numbers the rows.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq

from dien_jax.errors import UserError, reason

PLACE = "_place"
"""Column that rises in the order of the rows, int64."""
BATCH_ROWS = 1 << 16
OPEN_AT_A_TIME = 16
"""Files whose ends are read at a time: a request to a store of objects takes long."""


class SharedFolder:
    """A folder that this process and an engine see, removed by :meth:`remove`.

    Args:
      address: a path, or an address such as ``s3://bucket/folder``; a new folder is made in it.
    """

    def __init__(self, address: str) -> None:
        name = f"dien-jax-{uuid.uuid4().hex[:12]}"
        self.address = f"{address.rstrip('/')}/{name}"
        try:
            if ":/" in address:
                uri = self.address.replace("s3a://", "s3://", 1)
                self._files, self._path = pa_fs.FileSystem.from_uri(uri)
            else:
                self._files, self._path = pa_fs.LocalFileSystem(), self.address
            self._files.create_dir(self._path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{address} cannot be written: {reason(error)}") from error
        self._tables = 0

    def new_table(self) -> str:
        """Return the name of a table that nobody has written yet."""
        self._tables += 1
        return f"t{self._tables}"

    def address_of(self, table: str) -> str:
        """Return the address of a table for the engine."""
        return f"{self.address}/{table}"

    def write(self, table: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
        """Write a table from this process."""
        self._files.create_dir(f"{self._path}/{table}")
        with (
            self._files.open_output_stream(f"{self._path}/{table}/part-0.parquet") as stream,
            pq.ParquetWriter(stream, schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)

    def read(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of a table that the engine wrote, in the order of its places."""
        for file in self.files(table):
            with self._files.open_input_file(file.path) as stream:
                parquet = pq.ParquetFile(stream, pre_buffer=False)
                yield from parquet.iter_batches(BATCH_ROWS, columns=list(columns))

    def files(self, table: str) -> list["TableFile"]:
        """Return the files of a table that have rows, by their first place."""
        with ThreadPoolExecutor(OPEN_AT_A_TIME) as pool:
            files = [file for file in pool.map(self._open, self._list(table)) if file is not None]
        return sorted(files, key=lambda file: file.first)

    def remove_table(self, table: str) -> None:
        """Remove a table."""
        self._files.delete_dir(f"{self._path}/{table}")

    def remove(self) -> None:
        """Remove the folder."""
        self._files.delete_dir(self._path)

    def _list(self, table: str) -> list[str]:
        selector = pa_fs.FileSelector(f"{self._path}/{table}", allow_not_found=True, recursive=True)
        infos = self._files.get_file_info(selector)
        names = [info.path for info in infos if info.type == pa_fs.FileType.File]
        return sorted(name for name in names if not Path(name).name.startswith(("_", ".")))

    def _open(self, path: str) -> "TableFile | None":
        """Return a file with the places that it spans, None for one without rows."""
        with self._files.open_input_file(path) as stream:
            metadata = pq.ParquetFile(stream).metadata
        if not metadata.num_rows:
            return None
        place = metadata.schema.names.index(PLACE)
        columns = [metadata.row_group(k).column(place) for k in range(metadata.num_row_groups)]
        statistics = [column.statistics for column in columns]
        first, last = min(s.min for s in statistics), max(s.max for s in statistics)
        return TableFile(path, first, last, metadata.num_rows)


@dataclass(frozen=True)
class TableFile:
    """A file of a table, with the first and the last of its places, and its number of rows."""

    path: str
    first: int
    last: int
    rows: int
