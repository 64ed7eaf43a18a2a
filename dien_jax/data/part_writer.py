"""Writing the folder of one part of a dataset."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data import metadata
from dien_jax.data.arrays import chunks
from dien_jax.data.columns import Column, Examples
from dien_jax.data.dataset import NEGATIVES
from dien_jax.data.metadata import EXAMPLE_COLUMNS, PROBABILITY, SPLITS, Counts
from dien_jax.data.schema import Feature, Schema
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


class PartWriter:
    """Writer of one part: consecutive sequences and groups, and the examples of the sequences.

    Offsets of events, and ``sequence``, ``history_end`` and ``group`` of examples, count from the
    start of the data set. Arrays may be memory maps: they are written a chunk at a time. The part
    is checked when the dataset is complete.

    Another process may write a part, for :meth:`dien_jax.DatasetWriter.add_part`:

    >>> import tempfile
    >>> from dien_jax.data import Feature, Schema
    >>> item, user = Feature("item", "categorical", size=3), Feature("user", "categorical", size=2)
    >>> part = PartWriter(Path(tempfile.mkdtemp()), Schema(item=(item,), user=(user,)))
    >>> part.groups(["Ann"])
    >>> part.events(item=[1, 2], timestamp=[10, 20], offsets=[0, 2])
    >>> part.finish()
    {'groups': 1, 'events': 2, 'sequences': 1, 'train': 0, 'valid': 0, 'test': 0}

    Args:
      folder: the folder of the part, which is created with the first file.
      schema: the features.
      shown: path in the messages of errors; the folder by default.

    Raises:
      UserError: when a file cannot be written.
      ValueError: on misuse, see :class:`dien_jax.DatasetWriter`.
    """

    def __init__(self, folder: Path, schema: Schema, shown: Path | None = None) -> None:
        self._files, self._schema = FolderFiles(folder, shown or folder), schema
        self._counts: dict[str, int] = {}

    def groups(self, raw_ids: Iterable[str]) -> None:
        """Write the raw user ids, by group."""
        self._counts["groups"] = self._files.lines("groups.txt", raw_ids)

    def events(
        self, item: Any, timestamp: Any, offsets: Any, negatives: Column | None = None
    ) -> None:
        """Write the events, by sequence, oldest first, and the items shown and not clicked."""
        write = self._files.array
        self._counts["events"] = rows = write("events/item/values.npy", item, np.int32)
        require_rows("timestamp", write("events/timestamp/values.npy", timestamp, np.int64), rows)
        self._counts["sequences"] = write("events/offsets.npy", offsets, np.int64) - 1
        if negatives is not None:
            write(f"{NEGATIVES}/values.npy", negatives.values, np.int32)
            written = write(f"{NEGATIVES}/offsets.npy", negatives.offsets, np.int64) - 1
            require_rows("negatives", written, rows)

    def examples(self, split: str, examples: Examples) -> None:
        """Write the examples of one split; columns may be any sequences of numbers."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        folder = f"examples/{split}"
        rows = len(examples.label)
        for name, dtype in EXAMPLE_COLUMNS.items():
            file = f"{folder}/{name}/values.npy"
            require_rows(name, self._files.array(file, getattr(examples, name), dtype), rows)
        for name in examples.context:
            find_feature(name, self._schema.context)
        for feature in self._schema.context:
            if feature.name not in examples.context:
                raise ValueError(f"context feature {feature.name!r} is missing")
            self._files.column(folder, feature, examples.context[feature.name], rows)
        if examples.probability is not None:
            name = f"{folder}/{PROBABILITY}/values.npy"
            written = self._files.array(name, examples.probability, np.float32)
            require_rows(PROBABILITY, written, rows)
        self._counts[split] = rows

    def finish(self) -> Counts:
        """Write missing splits as empty ones, and return the counts of the part."""
        none, no_offsets = np.zeros(0), {"multivalued": np.zeros(1, np.int64)}
        context = {f.name: Column(none, no_offsets.get(f.kind)) for f in self._schema.context}
        for split in SPLITS:
            if split not in self._counts:
                empty = Examples(**dict.fromkeys(EXAMPLE_COLUMNS, none), context=context)
                self.examples(split, empty)
        missing = [name for name in Counts.__annotations__ if name not in self._counts]
        if missing:
            raise ValueError(f"the part lacks its {' and '.join(missing)}")
        return Counts(**self._counts)  # type: ignore[typeddict-item]
