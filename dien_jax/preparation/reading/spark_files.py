"""Parquet files, read by Spark, and local text files, which DuckDB reads for Spark."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ibis
import pyarrow as pa
import pyarrow.types as of
from ibis.expr.types import Table

from dien_jax.data.value_text import INTEGERS_OF_FLOATS, Use, holds_separator
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogColumn, LogForm
from dien_jax.preparation.reading import log
from dien_jax.preparation.reading.log import FileStart, Log
from dien_jax.preparation.reading.spark_workspace import SparkWorkspace
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines

PARQUET = (".parquet", ".pq")
FILE, BLOCK, PLACE = "_file", "_block", "_line_place"
"""Columns: a row's file, the block of the file that one task read, and the row's place there."""
INSIDE = "\x1f"
"""Temporary separator of list values, until they are checked for the requested separator."""


def read_spark(workspace: SparkWorkspace, file: Path, form: LogForm) -> Log:
    """Read columns of a file, or of all files of a folder, which may be an address.

    Spark reads files named ``.parquet`` or ``.pq``; files at an address must have such a name. If a
    local file has another name, DuckDB reads all files, and their rows are passed to Spark.
    """
    address = log.address_of(file)
    if address is None and not file.exists():
        hint = "an address such as hdfs://HOST/FOLDER names what Spark alone sees"
        raise UserError(f"{file} does not exist; {hint}")
    reader = workspace.session.read.option("recursiveFileLookup", "true")
    if address is None:
        paths = [str(part.absolute()) for part in log.files_of(file)]
        if not all(path.endswith(PARQUET) for path in paths):
            read, schema = workspace.local.read_columns(file, form), log.text_schema(form.wanted)
            batches = workspace.local.batches(read.rows, schema.names)
            rows = workspace.append("rows", (batch.cast(schema) for batch in batches), schema)
            return read._replace(rows=rows)
    else:
        paths = [address]
        for name in reader.text(address).inputFiles():
            if not unquote(name).endswith(PARQUET):
                problem = f"expected Parquet files, named .parquet or .pq, found {unquote(name)}"
                hint = "spark.read.csv(FROM, header=True).write.parquet(TO) makes them of CSV"
                raise UserError(f"{address}: {problem}; {hint}")
    with stage(f"reading {address or file}"):
        return _read_parquet(workspace, Path(address or file), reader.parquet(*paths), form)


def _read_parquet(workspace: SparkWorkspace, file: Path, frame: Any, form: LogForm) -> Log:
    from pyspark.sql.pandas.types import to_arrow_schema

    schema = to_arrow_schema(frame.schema)
    log.check_columns(file, form, schema)
    kinds = {column: schema.field(column.name).type for column in form.wanted.values()}
    columns = [_column_text(column, kinds[column]).alias(a) for a, column in form.wanted.items()]
    rows, starts = _numbered(workspace, frame, columns, list(form.wanted))
    for alias, column in form.wanted.items():
        if of.is_list(kinds[column]):
            holding = rows.filter(rows[alias].contains(form.separator)).order_by("line").limit(1)
            for text in workspace.strings(holding, alias):
                value = next(value for value in text.split(INSIDE) if form.separator in value)
                raise holds_separator(column.where(file), value, form.separator)
            clean = rows[alias].replace(INSIDE, form.separator)
            rows = rows.mutate(clean.name(alias))
    return Log(file, rows, BadLines(), starts=starts)


def _column_text(column: LogColumn, kind: pa.DataType) -> Any:
    """Return a column as text, NULL if missing; lists are joined by ``INSIDE``."""
    from pyspark.sql import functions

    values = functions.col("`" + column.name.replace("`", "``") + "`")
    if of.is_list(kind):
        texts = functions.transform(values, lambda v: _text(v, kind.value_type, "categorical"))
        full = functions.transform(texts, lambda v: functions.coalesce(v, functions.lit("")))
        text = functions.array_join(full, INSIDE)
    else:
        text = _text(values, kind, column.kind)
    return functions.when(text != "", text)


def _text(values: Any, kind: pa.DataType, use: Use) -> Any:
    from pyspark.sql import functions

    if of.is_boolean(kind):
        values = values.cast("int")
    elif of.is_floating(kind):
        values = functions.when(~functions.isnan(values), values)
        if use == "time":
            number = values.cast("double")
            is_whole = number == functions.floor(number)
            fits = is_whole & (functions.abs(number) < INTEGERS_OF_FLOATS)
            whole = functions.when(fits, number).cast("long").cast("string")
            return functions.coalesce(whole, number.cast("string"))
    return values.cast("string")


def _numbered(
    workspace: SparkWorkspace, frame: Any, columns: list[Any], names: list[str]
) -> tuple[Table, tuple[FileStart, ...]]:
    """Store columns of files with ``line``, the number of every row in the log, from 1.

    ``names`` are the names of the columns. Also return the start of each file.
    """
    from pyspark.sql import functions

    place = functions.monotonically_increasing_id().alias(PLACE)
    file, block = (functions.col(f"_metadata.{n}") for n in ("file_path", "file_block_start"))
    placed = frame.select(*columns, file.alias(FILE), block.alias(BLOCK), place)
    kinds = {FILE: "string", BLOCK: "int64", PLACE: "int64"}
    rows = workspace.store_frame(placed, ibis.schema(dict.fromkeys(names, "string") | kinds))
    sizes = rows.group_by(FILE, BLOCK).aggregate(place=rows[PLACE].min(), rows=rows.count())
    blocks = [block for batch in workspace.batches(sizes) for block in batch.to_pylist()]
    if not blocks:
        raise UserError("the files of the log hold no rows")
    line, starts, shifts = 0, dict[str, int](), []
    for block in sorted(blocks, key=lambda block: (unquote(block[FILE]), block[BLOCK])):
        starts.setdefault(unquote(block[FILE]), line)
        shift = line + 1 - block["place"]
        shifts.append({"file": block[FILE], "block": block[BLOCK], "shift": shift})
        line += block["rows"]
    stored = workspace.store("blocks", pa.Table.from_pylist(shifts))
    joined = rows.join(stored, [rows[FILE] == stored.file, rows[BLOCK] == stored.block])
    lines = joined.select(*names, line=joined[PLACE] + joined["shift"])
    places = ((line, re.sub(r"^file:/+", "/", file)) for file, line in starts.items())
    return lines, tuple(FileStart(*place) for place in places)
