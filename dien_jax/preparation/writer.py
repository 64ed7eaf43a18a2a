"""Atomic writing of a dataset folder: all of it or nothing."""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data import metadata
from dien_jax.data.arrays import Examples, chunks
from dien_jax.data.dataset import open_folder
from dien_jax.data.kinds import KINDS
from dien_jax.data.metadata import SPLITS, Counts
from dien_jax.data.schema import EXAMPLE_COLUMNS, Column, Feature, Schema
from dien_jax.data.statistics_files import STATISTICS, write_counts, write_factors
from dien_jax.errors import UserError, writing
from dien_jax.statistics.counting import count_features
from dien_jax.statistics.factors import factorise_features
from dien_jax.utils.files import partial_folder, remove_left_partials
from dien_jax.utils.machine import trim_memory


class DatasetWriter:
    """Writer of the folder that :func:`dien_jax.data.open_dataset` opens.

    A context manager. Files are written to a hidden sibling of ``path``. When the block ends, the
    sibling is checked as on opening and renamed to ``path``; when the block raises, it is removed.
    Arrays may be memory maps: they are written a chunk at a time. Missing splits are empty.

    >>> import tempfile
    >>> from dien_jax import DatasetWriter, Feature, Schema, open_dataset
    >>> from dien_jax.data import Examples
    >>> item, user = Feature("item", "categorical", size=3), Feature("user", "categorical", size=2)
    >>> path = Path(tempfile.mkdtemp()) / "data"
    >>> schema = Schema(item=(item,), user=(user,))
    >>> with DatasetWriter(path, schema=schema, source={"name": "toy"}, split={}) as writer:
    ...     writer.vocabulary("item", ["", "pear", "fig"])
    ...     writer.vocabulary("user", ["", "Ann"])
    ...     writer.groups(["Ann"])
    ...     writer.events(item=[1, 1, 2], timestamp=[10, 20, 20], offsets=[0, 3])
    ...     writer.popularity([0, 2, 1])
    ...     writer.examples("train", Examples(sequence=[0, 0], history_end=[2, 2], user=[1, 1],
    ...                                       group=[0, 0], item=[2, 1], label=[1, 0]))
    >>> open_dataset(path).splits["train"].item.tolist()
    [2, 1]

    A data set that is larger than memory is written piece by piece: :meth:`groups`, :meth:`events`
    and :meth:`examples` append to what earlier calls wrote. Event offsets start at the last offset
    of the previous call, and ``sequence``, ``history_end`` and ``group`` refer to all calls;
    offsets of multi-valued columns start at 0 in each call.

    Args:
      path: the folder to create; must not exist. Missing parents are created.
      schema: the features.
      source: origin of the data for ``meta.json``: ``name``, ``files`` (name to sha256) and more.
      split: description of the splits for ``meta.json``: ``policy``, ``seed`` and the like.
      progress: called with names of the steps at the end of the block, which may take long.

    Raises:
      UserError: if ``path`` exists or cannot be written, for example because the disk is full.
      ValueError: on misuse: a feature that the schema lacks, arrays of unequal lengths, values
        outside their type, or content that :func:`open_dataset` would refuse.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        schema: Schema,
        source: dict[str, Any],
        split: dict[str, Any],
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = Path(path)
        self._schema, self._progress = schema, progress
        self._meta = {"source": source, "split": split}
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()  # entries of each array
        self._ends: dict[str, int] = {}  # last of the offsets in a file
        check_target(self.path)

    def __enter__(self) -> "DatasetWriter":
        with writing(self.path, "dataset folder"), contextlib.ExitStack() as stack:
            self._partial = stack.enter_context(partial_folder(self.path))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._cleanup:
            if kind is None:
                self._finish()

    def vocabulary(self, feature: str, values: Iterable[str]) -> None:
        """Write the raw values of a categorical or multi-valued feature, the unknown one first."""
        expected = _find_feature(feature, self._schema.features).size
        if expected is None:
            raise ValueError(f"feature {feature!r} has no vocabulary, as it has no ids")
        written = self._lines(f"vocab/{feature}.txt", values)
        _require_rows(f"vocabulary of {feature!r}", written, expected)

    def items(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """Write an item feature over all items, the unknown one first; see :class:`Column`."""
        entry = _find_feature(feature, self._schema.item[1:])
        self._column("items", entry, Column(values, offsets), self._schema.num_items)

    def users(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """Write a user feature over all users, the unknown one first; see :class:`Column`."""
        entry = _find_feature(feature, self._schema.user[1:])
        self._column("users", entry, Column(values, offsets), self._schema.num_users)

    def popularity(self, counts: Any) -> None:
        """Write the number of training events of each item, integers ``[items]``."""
        written = self._array("popularity.npy", counts, np.int64)
        _require_rows("popularity", written, self._schema.num_items)

    def groups(self, raw_ids: Iterable[str]) -> None:
        """Write raw user ids, by group."""
        self._counts["groups"] += self._lines("groups.txt", raw_ids)

    def events(
        self,
        item: Any,
        timestamp: Any,
        offsets: Any,
        columns: Mapping[str, Column] = {},
    ) -> None:
        """Write events, by sequence, oldest first, with the columns of their features."""
        write = self._array
        rows = write("events/item/values.npy", item, np.int32)
        _require_rows("timestamp", write("events/timestamp/values.npy", timestamp, np.int64), rows)
        self._columns("events", self._schema.event, columns, rows)
        self._counts["sequences"] += self._offsets("events/offsets.npy", offsets)
        self._counts["events"] += rows

    def examples(self, split: str, examples: Examples) -> None:
        """Write examples of one split; columns may be any sequences of numbers."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        folder = f"examples/{split}"
        rows = len(examples.label)
        for name, dtype in EXAMPLE_COLUMNS.items():
            file = f"{folder}/{name}/values.npy"
            _require_rows(name, self._array(file, getattr(examples, name), dtype), rows)
        self._columns(folder, self._of_examples, examples.columns, rows)
        self._counts[split] += rows

    def note(self, **entries: Any) -> None:
        """Add entries to ``meta.json``."""
        self._meta.update(entries)

    def _finish(self) -> None:
        none, no_offsets = np.zeros(0), np.zeros(1, np.int64)
        columns = {
            feature.name: Column(none, no_offsets if KINDS[feature.kind].has_offsets else None)
            for feature in self._of_examples
        }
        for split in SPLITS:
            if split not in self._counts:
                empty = Examples(**dict.fromkeys(EXAMPLE_COLUMNS, none), columns=columns)
                self.examples(split, empty)
        missing = [name for name in Counts.__annotations__ if name not in self._counts]
        if missing:
            raise ValueError(f"the dataset lacks its {' and '.join(missing)}")
        meta = {
            "format_version": metadata.FORMAT_VERSION,
            "schema": metadata.schema_to_json(self._schema),
            "counts": {name: self._counts[name] for name in Counts.__annotations__},
            **self._meta,
        }
        with writing(self.path, "dataset folder"):
            text = json.dumps(meta, indent=2, allow_nan=False)
            (self._partial / "meta.json").write_text(text + "\n", encoding="utf-8")
        trim_memory()
        self._progress("checking the folder")
        try:
            dataset = open_folder(self._partial, is_counted=False)
        except UserError as error:
            if isinstance(error.__cause__, OSError):  # not the fault of the content
                raise
            raise ValueError(f"the written folder is not a dataset: {error}") from error
        with writing(self.path, "dataset folder"):
            self._progress("counting training events")
            interactions = write_counts(self._partial / STATISTICS, count_features(dataset))
            trim_memory()
            self._progress("finding similar items")
            factors = factorise_features(dataset, interactions)
            write_factors(self._partial / STATISTICS, factors)
            self._partial.rename(self.path.absolute())

    def _lines(self, name: str, values: Iterable[str]) -> int:
        """Write values in lines, and return their number."""
        written = 0
        with self._open(name) as stream:
            for lines, count in metadata.encoded_lines(values):
                stream.write(lines)
                written += count
        return written

    def _array(self, name: str, values: Any, dtype: type[np.generic]) -> int:
        """Write an array of one dimension as ``dtype``, and return its size."""
        array = np.asarray(values)
        if array.size == 0:
            array = array.astype(dtype)
        if array.ndim != 1 or array.dtype.kind not in ("f" if dtype is np.float32 else "biu"):
            raise ValueError(f"{name}: expected {dtype.__name__}, got {array.shape} {array.dtype}")
        self._sizes[name] += len(array)
        header = {"descr": np.dtype(dtype).str, "fortran_order": False}
        with self._open(name) as stream:
            stream.seek(0)  # NumPy leaves room in a header for any number of entries
            np.lib.format.write_array_header_1_0(stream, header | {"shape": (self._sizes[name],)})
            stream.seek(0, os.SEEK_END)
            for part in chunks(len(array)):
                given = array[part]
                with np.errstate(over="ignore"):
                    converted = given.astype(dtype)
                same = np.isfinite if dtype is np.float32 else np.asarray
                if len(lost := np.flatnonzero(same(converted) != same(given))):
                    raise ValueError(f"{name}: {given[lost[0]]} does not fit {dtype.__name__}")
                stream.write(converted.data)
        return len(array)

    def _offsets(self, name: str, offsets: Any) -> int:
        """Write offsets, and return their number of rows."""
        array = np.asarray(offsets)
        if name in self._ends:
            if array[:1].tolist() != [end := self._ends[name]]:
                raise ValueError(f"{name}: expected offsets from {end} on, got {array}")
            array = array[1:]
        rows = self._array(name, array, np.int64) - (name not in self._ends)
        self._ends[name] = int(array[-1]) if len(array) else self._ends.get(name, 0)
        return rows

    @property
    def _of_examples(self) -> tuple[Feature, ...]:
        return (*self._schema.request, *self._schema.candidate)

    def _columns(
        self, folder: str, features: tuple[Feature, ...], columns: Mapping[str, Column], rows: int
    ) -> None:
        """Write the values of all features of a folder over some rows."""
        for name in columns:
            _find_feature(name, features)
        for feature in features:
            if feature.name not in columns:
                raise ValueError(f"feature {feature.name!r} is missing")
            self._column(folder, feature, Column(*columns[feature.name]), rows)

    def _column(self, folder: str, feature: Feature, column: Column, rows: int) -> None:
        """Write the values of a feature of the schema over some rows."""
        kind, where = KINDS[feature.kind], f"{feature.kind} feature {feature.name!r}"
        if (column.offsets is not None) != kind.has_offsets:
            raise ValueError(f"{where}: offsets are for multivalued")
        values, shape = np.asarray(column.values), kind.shape(feature)
        if values.size and values.shape[1:] != shape:
            raise ValueError(f"{where}: expected rows of shape {shape}, got {values.shape[1:]}")
        name = f"{folder}/{feature.name}"
        before = self._sizes[f"{name}/values.npy"]
        written = self._array(f"{name}/values.npy", values.reshape(-1), kind.dtype)
        written //= math.prod(shape)
        if column.offsets is not None:
            written = self._offsets(f"{name}/offsets.npy", np.asarray(column.offsets) + before)
        _require_rows(f"feature {feature.name!r}", written, rows)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """Open a file for writing, positioned at its end."""
        file = self._partial / name
        with writing(self.path, "dataset folder"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("r+b" if file.exists() else "w+b") as stream:
                stream.seek(0, os.SEEK_END)
                yield stream


def _find_feature(name: str, features: tuple[Feature, ...]) -> Feature:
    """Return a feature by its name; raise ``ValueError`` if there is none."""
    for feature in features:
        if feature.name == name:
            return feature
    raise ValueError(f"the schema has no such feature here: {name!r}")


def _require_rows(name: str, rows: int, expected: int) -> None:
    """Raise ``ValueError`` unless the number of rows is as expected."""
    if rows != expected:
        raise ValueError(f"{name}: expected {expected} rows, got {rows}")


def check_target(path: Path) -> None:
    """Refuse a target that exists; sources call this before long work.

    If a process was killed just after it had created the target, remove its partial folders.
    """
    with writing(path, "dataset folder"):
        is_there = path.is_symlink() or path.exists()
    if is_there:
        with contextlib.suppress(UserError):  # another process is writing it
            remove_left_partials(path.absolute())
        raise UserError(f"{path} exists already; choose another folder or remove it")
