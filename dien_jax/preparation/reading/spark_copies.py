"""Copies of files with the place of every row, for engines that do not tell it.

Spark names the file and the block of each row, and reads a block in order. Sail does neither: its
tasks take pieces of a file as they get ready. So this process, which has to see the files, reads
their rows in order, and numbers them.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dien_jax.errors import UserError, reading
from dien_jax.utils.parquet_files import parquet_batches
from dien_jax.utils.text_files import open_bytes

FILE, BLOCK, PLACE, TEXT = "_file", "_block", "_line_place", "value"
"""Columns: the file of a row, a block of it that is in order, its place there, and a line."""
PLACES = [(FILE, pa.string()), (BLOCK, pa.int64()), (PLACE, pa.int64())]
ROWS, BYTES = 1 << 18, 1 << 24
"""Rows of Parquet, and bytes of text, of a batch."""


class Copy(NamedTuple):
    """Rows of all files, with the columns of ``PLACES``."""

    batches: Iterator[pa.RecordBatch]
    schema: pa.Schema


def copy_lines(files: Sequence[str]) -> Copy:
    """Return the lines of text files, plain or gzip, as column ``TEXT``."""
    lines = ((file, _lines(file)) for file in _local(files))
    schema = pa.schema([(TEXT, pa.string()), *PLACES])
    return Copy(_placed(lines, schema), schema)


def copy_rows(files: Sequence[str], columns: Sequence[str]) -> Copy:
    """Return columns of Parquet files, with the types of the first one."""
    paths = _local(files)
    first = pq.read_schema(paths[0])
    own = pa.schema([(name, first.field(name).type) for name in columns])
    rows = ((file, _rows(file, own, paths[0])) for file in paths)
    schema = pa.schema([*own, *PLACES])
    return Copy(_placed(rows, schema), schema)


def path_of(file: str) -> str:
    """Return a file as this program names it: a path without ``file://``."""
    return re.sub(r"^file:/+", "/", file)


def _local(files: Sequence[str]) -> list[Path]:
    """Return files; one that this process does not see is a ``UserError``."""
    paths = [Path(path_of(file)) for file in files]
    for path in paths:
        if not path.is_file():
            problem = "does not tell the places of rows, so it reads files of this machine alone"
            raise UserError(f"{path}: this engine {problem}; use Spark itself")
    return paths


def _placed(
    files: Iterable[tuple[Path, Iterator[pa.RecordBatch]]], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Add the columns of ``PLACES``."""
    for file, batches in files:
        place = 0
        for batch in batches:
            places = pa.array(np.arange(place, place + batch.num_rows))
            place += batch.num_rows
            names, blocks = [str(file)] * batch.num_rows, np.zeros(batch.num_rows, np.int64)
            columns = [*batch.columns, pa.array(names, pa.string()), pa.array(blocks), places]
            yield pa.record_batch(columns, schema=schema)


def _lines(file: Path) -> Iterator[pa.RecordBatch]:
    try:
        with reading(file), open_bytes(file) as stream:
            number, left = 1, b""
            while block := stream.read(BYTES):
                *whole, left = (left + block).split(b"\n")
                yield _texts(file, whole, number)
                number += len(whole)
            yield _texts(file, [left] if left else [], number)
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file}: damaged gzip: {error}") from error


def _texts(file: Path, lines: list[bytes], number: int) -> pa.RecordBatch:
    try:
        return pa.record_batch([pa.array(lines, pa.binary()).cast(pa.string())], [TEXT])
    except pa.ArrowInvalid as error:
        is_text = [line.decode(errors="replace").encode() == line for line in lines]
        where = f"{file}:{number + is_text.index(False)}"
        raise UserError(f"{where}: not UTF-8, which this engine does not read") from error


def _rows(file: Path, schema: pa.Schema, first: Path) -> Iterator[pa.RecordBatch]:
    try:
        for batch in parquet_batches(file, ROWS, schema.names):
            columns = [batch.column(field.name).cast(field.type) for field in schema]
            yield pa.record_batch(columns, schema=schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{file}: damaged, or other columns than {first}: {error}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: damaged, or not a Parquet file: {error}") from error
