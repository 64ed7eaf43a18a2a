"""Parquet files, read in batches that fit the memory whatever their pages hold.

A page is compressed, and one value of its dictionary may stand for millions of rows: 3 kB can hold
a terabyte of text. Both are bounded as other compressed content is, see
:mod:`dien_jax.utils.text_files`, by what the file claims and by what is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dien_jax.utils.text_files import largest_content, too_large

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_BYTES = 1 << 28
"""Decoded bytes of a batch, unless a single row has more."""
READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time."""
SHARED_PREFIXES = "DELTA_BYTE_ARRAY"
"""Encoding in which a value may repeat all of the one before it."""
CONVERT = "convert it to CSV"
LONGEST_IN_LIST = 1024
"""Bytes of a value that a list may repeat at will."""


def parquet_batches(
    file: Path, rows: int, columns: Sequence[str] | None = None, *, shown: Path | None = None
) -> Iterator["pa.RecordBatch"]:
    """Yield the rows of a Parquet file in batches.

    Args:
      file: the file.
      rows: most rows of a batch; it has fewer where values are long.
      columns: names of the columns to read; all by default.
      shown: the file in messages.

    Raises:
      UserError: when the content is more than 256 MiB and more than 100 times the size of the file.
      pyarrow.ArrowException, OSError: for a damaged file.
    """
    import pyarrow.parquet as pq

    shown = file if shown is None else shown
    left = limit = largest_content(file.stat().st_size)
    # By default Arrow keeps what it has read of the file.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as parquet:
        metadata = parquet.metadata
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > limit:
            raise too_large(shown, CONVERT)
        bounds = _repeatable(parquet, columns)
        longest: dict[str, int] = {}
        paths = [path for path, bound in bounds.items() if not bound]
        for name, value, repeated in _dictionary_values(file, paths, columns):
            if repeated * value > limit and value > LONGEST_IN_LIST:
                raise too_large(shown, CONVERT)
            longest[name] = max(value, longest.get(name, 0))
        row = sum(bounds.values()) + sum(longest.values())
        size = max(1, min(rows, BATCH_BYTES // max(row, 1)))
        for batch in parquet.iter_batches(size, columns=columns):
            left -= batch.nbytes
            if left < 0:
                raise too_large(shown, CONVERT)
            yield batch


def _repeatable(parquet: "pq.ParquetFile", columns: Sequence[str] | None) -> dict[str, int]:
    """Return a bound of a value that may stand for several rows, by the path of its column.

    It is 0 where only dictionaries repeat values, which :func:`_dictionary_values` reads.
    """
    bounds: dict[str, int] = {}
    encodings: dict[str, set[str]] = {}
    metadata = parquet.metadata
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for place, column in enumerate(map(group.column, range(metadata.num_columns))):
            path, fixed = column.path_in_schema, parquet.schema.column(place).length
            if columns is not None and not any(f"{path}.".startswith(f"{c}.") for c in columns):
                continue
            if fixed > 0 or column.physical_type == "BYTE_ARRAY":
                size = fixed if fixed > 0 else column.total_uncompressed_size
                bounds[path] = max(size, bounds.get(path, 0))
                encodings.setdefault(path, set()).update(column.encodings)
                if fixed > 0:
                    encodings[path].add(SHARED_PREFIXES)
    for path, used in encodings.items():
        has_dictionary = any("DICTIONARY" in name for name in used)
        has_others = any(name.startswith("DELTA") for name in used)
        if not has_dictionary and SHARED_PREFIXES not in used:
            del bounds[path]
        elif not has_others:  # Arrow reads no dictionary of a column that has others too
            bounds[path] = 0
    return bounds


def _dictionary_values(
    file: Path, paths: list[str], columns: Sequence[str] | None
) -> Iterator[tuple[str, int, int]]:
    """Yield the longest value of each dictionary: column, bytes, and how often lists repeat it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, read_dictionary=paths, pre_buffer=False) as parquet:
        metadata = parquet.metadata
        for number in range(metadata.num_row_groups if paths else 0):
            group = metadata.row_group(number)
            values = max(group.column(place).num_values for place in range(metadata.num_columns))
            # The first row of a group comes with the whole dictionary of its pages.
            for first in parquet.iter_batches(1, row_groups=[number], columns=columns):
                for name, column in zip(first.schema.names, first.columns, strict=True):
                    repeated = values if pa.types.is_nested(column.type) else 0
                    yield name, _longest(column), repeated
                break


def _longest(values: "pa.Array") -> int:
    """Return the bytes of the longest value in a dictionary, also of lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    while not pa.types.is_dictionary(values.type):
        if not hasattr(values, "values"):
            return 0
        values = values.values
    if not pa.types.is_string(values.type.value_type):
        return 0
    return int(pc.max(pc.binary_length(values.dictionary)).as_py() or 0)
