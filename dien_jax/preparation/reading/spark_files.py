"""CSV and Parquet files in Spark, read by Spark's own readers.

Text is read by lines, which Spark numbers: a value in quotes ends on its line, and every malformed
line is counted and reported by its file and number. Columns of Parquet become the text that
:mod:`dien_jax.data.value_text` gives them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
import pyarrow.types as of
from ibis.expr.types import ArrayValue, BooleanValue, StringValue, Table, Value

from dien_jax.data.value_text import Use
from dien_jax.errors import UserError
from dien_jax.preparation.options import LogColumn, LogForm
from dien_jax.preparation.reading import log
from dien_jax.preparation.reading.log import FileStart, Log
from dien_jax.preparation.reading.spark_workspace import SparkWorkspace
from dien_jax.utils.console import stage
from dien_jax.utils.text_files import BadLines

PARQUET = (".parquet", ".pq")
LONGEST_HEADER = 80
FILE, BLOCK, PLACE, TEXT = "_file", "_block", "_line_place", "value"
"""Columns: the file of a row, the block of it that one task read, its place there, and a line."""
INSIDE = "\x1f"
"""Separator of the values of a list until it is known that none holds the one that is asked for."""
LARGEST_WHOLE = 2.0**63


@ibis.udf.scalar.builtin(signature=((dt.string, dt.string, dt.int32), dt.Array(dt.string)))
def regexp_extract_all(text: Value, pattern: str, group: int) -> ArrayValue:
    """All matches of a pattern; declares Spark's function to Ibis."""


@ibis.udf.scalar.builtin(signature=((dt.Array(dt.string), dt.int32), dt.string))
def try_element_at(texts: Value, number: int) -> StringValue:
    """Value of an array, from 1, NULL beyond; declares Spark's function to Ibis."""


@ibis.udf.scalar.builtin(signature=((dt.string,), dt.boolean))
def is_valid_utf8(text: Value) -> BooleanValue:
    """Check that a text is UTF-8; declares Spark's function to Ibis."""


def read_spark(workspace: SparkWorkspace, file: Path, form: LogForm) -> Log:
    """Read columns of a file, or of all files of a folder, which may be an address.

    Files named ``.parquet`` or ``.pq`` are Parquet, all others text.
    """
    address = log.address_of(file)
    if address is None and not file.exists():
        hint = "an address such as hdfs://HOST/FOLDER names what Spark alone sees"
        raise UserError(f"{file} does not exist; {hint}")
    with stage(f"reading {address or file}"):
        reader = workspace.session.read
        local = [] if address else [str(part.absolute()) for part in log.files_of(file)]
        address = address or str(file)
        reader = reader.option("recursiveFileLookup", "true")
        names = local or [unquote(name) for name in reader.text(address).inputFiles()]
        kinds = {name.endswith(PARQUET) for name in names}
        if len(kinds) != 1:
            raise UserError(f"{address}: expected Parquet or text files, found both or none")
        read = _read_parquet if kinds == {True} else _read_text
        return read(workspace, Path(address), reader, local or [address], form)


def _read_text(
    workspace: SparkWorkspace, file: Path, reader: Any, paths: list[str], form: LogForm
) -> Log:
    frame = _placed(reader.option("lineSep", "\n").text(paths), [TEXT])
    lines, starts = _numbered(workspace, frame, {TEXT: "string"})
    delimiter = "\t" if starts[0].file.removesuffix(".gz").endswith(".tsv") else ","
    is_first = lines.number == 1
    text = lines[TEXT]
    text = (is_first & text.startswith("\ufeff")).ifelse(text.substr(1), text)
    text = text.endswith("\r").ifelse(text.substr(0, text.length() - 1), text)
    lines = lines.mutate(text.name(TEXT))
    header = form.columns or _header(workspace, lines, starts, delimiter)
    places = log.column_places(file, form, header, form.hint)
    records = lines.filter(lines[TEXT] != "")
    if not form.columns:
        records = records.filter(records.number > 1)
    stored = workspace.store("parsed", _parsed(records, delimiter, len(header), places))
    rows = stored.filter(stored.reason.isnull()).drop("reason")
    read = Log(file, rows, BadLines(), starts=starts)
    read.refuse(workspace, stored.filter(stored.reason.notnull()))
    return read


def _header(
    workspace: SparkWorkspace, lines: Table, starts: tuple[FileStart, ...], delimiter: str
) -> list[str]:
    """Return the names in the first line of every file; refuse files that differ in it."""
    first = lines.filter(lines.number == 1)
    texts = workspace.strings(first.order_by("line"), TEXT)
    line = next(texts)
    for start, text in zip(starts[1:], texts, strict=True):
        if text != line:
            expected = f"expected the header of {starts[0].file}, {line[:LONGEST_HEADER]!r}"
            raise UserError(f"{start.file}:1: {expected}, found {text[:LONGEST_HEADER]!r}")
    return log.header_names(Path(starts[0].file), line, delimiter)


def _parsed(records: Table, delimiter: str, width: int, places: Mapping[str, int]) -> Table:
    """Return the columns of lines of CSV, with ``reason``: why a line is malformed, or NULL."""
    sign = re.escape(delimiter)
    field = f'(?:"[^"]*(?:""[^"]*)*"|[^{sign}"][^{sign}]*|)'
    text = records[TEXT]
    plain = ~text.contains('"')
    quoted = regexp_extract_all(ibis.literal(delimiter) + text, f"{sign}({field})", 1)
    is_well = plain | text.re_search(rf"^{field}(?:{sign}{field})*\z")
    is_open = text.re_search(rf'^(?:{field}{sign})*"[^"]*(?:""[^"]*)*\z')
    is_text = is_valid_utf8(text)
    split = records.select(
        "line", TEXT, plain=plain, fields=plain.ifelse(text.split(sign), quoted),
        is_well=is_well, is_open=is_open, is_text=is_text,
    )  # fmt: skip
    count = split.fields.length()
    found = ibis.literal(f"expected {width} columns, found ") + count.cast("string")
    reason = ibis.cases(
        (~split.is_text, "not UTF-8"),
        (split[TEXT].contains("\0"), "holds a NUL byte"),
        (~split.is_well & split.is_open, "a quote is not closed"),
        (~split.is_well, f"wrong quotes: {delimiter!r} expected after '\"'"),
        (count != width, found),
        else_=ibis.null("string"),
    )
    values = {}
    for name, place in places.items():
        value = try_element_at(split.fields, place + 1)
        inner = value.substr(1, value.length() - 2).replace('""', '"')
        is_quoted = ~split.plain & value.startswith('"')
        values[name] = is_quoted.ifelse(inner, value).nullif("")
    return split.select("line", **values, reason=reason)


def _read_parquet(
    workspace: SparkWorkspace, file: Path, reader: Any, paths: list[str], form: LogForm
) -> Log:
    from pyspark.sql.pandas.types import to_arrow_schema

    frame = reader.parquet(*paths)
    schema = to_arrow_schema(frame.schema)
    log.check_columns(file, form, schema)
    kinds = {column: schema.field(column.name).type for column in form.wanted.values()}
    columns = [_column_text(column, kinds[column]).alias(a) for a, column in form.wanted.items()]
    placed = _placed(frame, columns)
    rows, starts = _numbered(workspace, placed, dict.fromkeys(form.wanted, "string"))
    for alias, column in form.wanted.items():
        if of.is_list(kinds[column]):
            _check_separator(workspace, column.where(file), rows, alias, form.separator)
            clean = rows[alias].replace(INSIDE, form.separator)
            rows = rows.mutate(clean.name(alias))
    return Log(file, rows.drop("number"), BadLines(), starts=starts)


def _column_text(column: LogColumn, kind: pa.DataType) -> Any:
    """Return a column of Spark as the text of :mod:`dien_jax.data.value_text`, NULL where missing.

    Lists are joined by ``INSIDE``.
    """
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
            fits = (number == functions.floor(number)) & (functions.abs(number) < LARGEST_WHOLE)
            whole = functions.when(fits, number).cast("long").cast("string")
            return functions.coalesce(whole, number.cast("string"))
    return values.cast("string")


def _placed(frame: Any, columns: list[Any]) -> Any:
    """Return columns of files with the file, the block of it and the place of every row."""
    from pyspark.sql import functions

    place = functions.monotonically_increasing_id().alias(PLACE)
    file, block = (functions.col(f"_metadata.{n}") for n in ("file_path", "file_block_start"))
    return frame.select(*columns, file.alias(FILE), block.alias(BLOCK), place)


def _numbered(
    workspace: SparkWorkspace, frame: Any, columns: dict[str, str]
) -> tuple[Table, tuple[FileStart, ...]]:
    """Store rows with their ``line`` in the log and ``number`` in their file, both from 1.

    Also returns where each file begins.
    """
    schema = ibis.schema(columns | {FILE: "string", BLOCK: "int64", PLACE: "int64"})
    rows = workspace.store_frame(frame, schema)
    sizes = rows.group_by(FILE, BLOCK).aggregate(place=rows[PLACE].min(), rows=rows.count())
    blocks = [block for batch in workspace.batches(sizes) for block in batch.to_pylist()]
    if not blocks:
        raise UserError("the files of the log hold no rows")
    line, starts, shifts = 0, dict[str, int](), []
    for block in sorted(blocks, key=lambda block: (unquote(block[FILE]), block[BLOCK])):
        start = starts.setdefault(unquote(block[FILE]), line)
        shift = line + 1 - block["place"]
        shifts.append({"file": block[FILE], "block": block[BLOCK], "shift": shift, "start": start})
        line += block["rows"]
    stored = workspace.store("blocks", pa.Table.from_pylist(shifts))
    joined = rows.join(stored, [rows[FILE] == stored.file, rows[BLOCK] == stored.block])
    joined = joined.mutate(line=joined[PLACE] + joined["shift"])
    lines = joined.select(*columns, "line", number=joined.line - joined.start)
    return lines, tuple(
        FileStart(line, re.sub(r"^file:/+", "/", file)) for file, line in starts.items()
    )


def _check_separator(
    workspace: SparkWorkspace, where: str, rows: Table, alias: str, separator: str
) -> None:
    """Refuse a list with a value that holds the separator."""
    holding = rows.filter(rows[alias].contains(separator)).order_by("line").limit(1)
    for text in workspace.strings(holding, alias):
        value = next(value for value in text.split(INSIDE) if separator in value)
        shown = f"{value!r:.60}, which holds the separator {separator!r}"
        raise UserError(f"{where}: a list has the value {shown}; choose another --separator")
