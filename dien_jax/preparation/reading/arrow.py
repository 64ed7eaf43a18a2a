"""Columns of Arrow as the text columns of a log: those of Parquet files, and of tables in memory.

A table in memory is a DataFrame of pandas, or anything that gives a stream of Arrow, such as a
DataFrame of Polars. It is converted some rows at a time. Neither library is imported.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dien_jax.data.value_text import check_type, column_text, joined
from dien_jax.errors import UserError, reason
from dien_jax.preparation.options import LogColumn
from dien_jax.preparation.reading.log import Log, Wanted, column_places
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines

ROWS = 1 << 18  # rows converted at a time


def text_schema(wanted: Wanted) -> pa.Schema:
    """Return the schema of :func:`text_batches`."""
    return pa.schema([("line", pa.int64()), *((alias, pa.string()) for alias in wanted)])


def text_batches(
    name: Path, batches: Iterable[pa.RecordBatch], wanted: Wanted, separator: str, first: int
) -> Iterator[pa.RecordBatch]:
    """Yield batches as line numbers, the first of which is given, and text; empty text is null."""
    for batch in batches:
        columns = [pa.array(np.arange(first, first + batch.num_rows))]
        first += batch.num_rows
        for column in wanted.values():
            where, values = column.where(name), batch.column(column.name)
            texts = column_text(where, values, column.kind)
            if pa.types.is_large_list(texts.type):
                texts = joined(where, texts, separator)
            columns.append(pc.if_else(pc.equal(texts, ""), None, texts).cast(pa.string()))
        yield pa.record_batch(columns, schema=text_schema(wanted))


def read_table(
    workspace: Workspace, name: Path, table: Any, wanted: Wanted, separator: str
) -> tuple[Log, str]:
    """Read columns of a table in memory.

    Args:
      workspace: the engine.
      name: what messages call the table; its rows count from 0.
      table: the table.
      wanted: the columns by their name in ``rows``.
      separator: joins the values of a list.

    Returns:
      The log, and a digest of the columns that does not depend on the library.
    """
    digests = [hashlib.sha256() for _ in wanted]

    def texts() -> Iterator[pa.RecordBatch]:
        for batch in text_batches(name, _slices(name, table, wanted), wanted, separator, first=0):
            for digest, column in zip(digests, batch.columns[1:], strict=True):
                digest.update(_lines(column))
                digest.update(b"\n")
            yield batch

    with stage(f"reading {name}"):
        rows = workspace.append("rows", texts(), text_schema(wanted))
    whole = hashlib.sha256(b"".join(digest.digest() for digest in digests))
    return Log(name, rows, BadLines("row")), whole.hexdigest()


def _lines(texts: pa.StringArray) -> pa.Buffer:
    """Return the bytes of texts with line ends between them; null is empty."""
    ends = pa.array([0, len(texts)], pa.int64())
    whole = pa.LargeListArray.from_arrays(ends, texts.fill_null("").cast(pa.large_string()))
    return pc.binary_join(whole, pa.scalar("\n", pa.large_string()))[0].as_buffer()


def _slices(name: Path, table: Any, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Yield the wanted columns of a table in memory, ``ROWS`` rows at a time."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(table, pandas.DataFrame):
        places = column_places(name, wanted, list(map(str, table.columns)))
        columns = {alias: table.iloc[:, place] for alias, place in places.items()}
        chosen = {c.name: _of_pandas(name, c, columns[alias]) for alias, c in wanted.items()}
        reader = pa.table(chosen).to_reader()
    else:
        try:
            reader = pa.RecordBatchReader.from_stream(table)
        except (pa.ArrowException, TypeError, ValueError) as error:
            expected = "a DataFrame of pandas or Polars, an Arrow table or the path of a log"
            raise UserError(f"{name} must be {expected}, got {type(table).__name__}") from error
        column_places(name, wanted, reader.schema.names)
    for column in wanted.values():
        check_type(column.where(name), reader.schema.field(column.name).type, column.kind)
    for batch in reader:
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)


def _of_pandas(name: Path, column: LogColumn, series: Any) -> Any:
    """Return a column of pandas in Arrow; missing values are null."""
    try:
        return pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kinds: dict[type, str] = {}
        for row, (present, value) in enumerate(zip(series.notna(), series, strict=True)):
            if present and len(kinds) < 2:
                kinds.setdefault(type(value), f"{value!r:.40} in row {row}")
        problem = f"has values of several types, {' and '.join(kinds.values())}"
        if len(kinds) < 2:
            problem = f"cannot be read: {reason(error)}"
        raise UserError(f"{column.where(name)} {problem}; convert it to one type") from error
