"""Files of a dataset folder that is being written: lines of text, arrays and columns."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data import metadata
from dien_jax.data.arrays import chunks
from dien_jax.data.columns import Column
from dien_jax.data.schema import Feature
from dien_jax.errors import writing


class FolderFiles:
    """Writer of the files of one folder, by their names in it.

    Args:
      folder: where they are written; missing folders are created.
      shown: path in the messages of errors.
    """

    def __init__(self, folder: Path, shown: Path) -> None:
        self.folder, self.shown = folder, shown

    def lines(self, name: str, values: Iterable[str]) -> int:
        """Write values in lines, and return their number."""
        written = 0
        with self.file(name) as stream:
            for lines, count in metadata.encoded_lines(values):
                stream.write(lines)
                written += count
        return written

    def array(self, name: str, values: Any, dtype: type[np.generic]) -> int:
        """Write an array of one dimension as ``dtype``, and return its size."""
        array = np.asarray(values)
        if array.size == 0:
            array = array.astype(dtype)
        if array.ndim != 1 or array.dtype.kind not in ("f" if dtype is np.float32 else "biu"):
            raise ValueError(f"{name}: expected {dtype.__name__}, got {array.shape} {array.dtype}")
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": array.shape}
        with self.file(name) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for part in chunks(len(array)):
                converted = array[part].astype(dtype)
                if dtype is not np.float32 and not np.array_equal(converted, array[part]):
                    raise ValueError(f"{name}: values do not fit {dtype.__name__}")
                stream.write(converted.data)
        return len(array)

    def column(self, folder: str, feature: Feature, column: Column, rows: int) -> None:
        """Write the values of a feature over some rows, as the schema has it."""
        name = f"{folder}/{feature.name}"
        dtype = np.float32 if feature.kind == "numeric" else np.int32
        written = self.array(f"{name}/values.npy", column.values, dtype)
        if (column.offsets is not None) != (feature.kind == "multivalued"):
            where = f"{feature.kind} feature {feature.name!r}"
            raise ValueError(f"{where}: offsets are for multivalued")
        if column.offsets is not None:
            written = self.array(f"{name}/offsets.npy", column.offsets, np.int64) - 1
        require_rows(f"feature {feature.name!r}", written, rows)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Any]:
        """Open a new file."""
        file = self.folder / name
        with writing(self.shown, "dataset folder"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                yield stream


def find_feature(name: str, features: tuple[Feature, ...]) -> Feature:
    """Return a feature by its name; ``ValueError`` without one."""
    for feature in features:
        if feature.name == name:
            return feature
    raise ValueError(f"the schema has no such feature here: {name!r}")


def require_rows(name: str, rows: int, expected: int) -> None:
    """Refuse another number of rows than expected."""
    if rows != expected:
        raise ValueError(f"{name}: expected {expected} rows, got {rows}")
