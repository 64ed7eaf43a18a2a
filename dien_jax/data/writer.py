"""Writing a dataset folder: all of it or nothing."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data import metadata
from dien_jax.data.arrays import chunks
from dien_jax.data.dataset import Column, Examples, open_dataset
from dien_jax.data.metadata import EXAMPLE_COLUMNS, PROBABILITY, SPLITS
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.statistics import STATISTICS, write_factors, write_statistics
from dien_jax.errors import UserError, writing
from dien_jax.utils.files import partial_folder


class DatasetWriter:
    """Writer of the folder that :func:`dien_jax.data.open_dataset` opens.

    A context manager. Files are written to a hidden sibling of ``path``. When the block ends, the
    sibling is checked as on opening and renamed to ``path``; when the block raises, it is removed.
    Arrays may be memory maps: they are written a chunk at a time. Missing splits are empty.

    >>> import tempfile
    >>> from dien_jax.data import DatasetWriter, Examples, Feature, Schema, open_dataset
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

    Args:
      path: the folder to create; must not exist. Missing parents are created.
      schema: the features.
      source: origin of the data for ``meta.json``: ``name``, ``files`` (name to sha256) and more.
      split: description of the splits for ``meta.json``: ``policy``, ``seed`` and the like.

    Raises:
      UserError: when ``path`` exists or cannot be written, for example because the disk is full.
      ValueError: on misuse: a feature that the schema lacks, arrays of unequal lengths, values
        outside their type, or content that :func:`open_dataset` would refuse.
    """

    def __init__(
        self, path: str | Path, *, schema: Schema, source: dict[str, Any], split: dict[str, Any]
    ) -> None:
        metadata.check_names(schema)
        self.path = Path(path)
        self._schema = schema
        self._meta = {"source": source, "split": split}
        self._counts: dict[str, int] = {}
        check_target(self.path)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "DatasetWriter":
        with writing(self.path, "dataset folder"):
            self._partial = self._cleanup.enter_context(partial_folder(self.path))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._cleanup:
            if kind is None:
                self._finish()

    def vocabulary(self, feature: str, values: Iterable[str]) -> None:
        """Write the raw values of a categorical or multi-valued feature, the unknown one first."""
        expected = _find_feature(feature, self._schema.features).size
        if expected is None:
            raise ValueError(f"numeric feature {feature!r} has no vocabulary")
        written = self._lines(f"vocab/{feature}.txt", values)
        _require_rows(f"vocabulary of {feature!r}", written, expected)

    def groups(self, raw_ids: Iterable[str]) -> None:
        """Write the raw user ids, by group."""
        self._counts["groups"] = self._lines("groups.txt", raw_ids)

    def items(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """Write an item feature over all items, the unknown one first; see :class:`Column`."""
        entry = _find_feature(feature, self._schema.item[1:])
        self._column("items", entry, Column(values, offsets), self._schema.num_items)

    def users(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """Write a user feature over all users, the unknown one first; see :class:`Column`."""
        entry = _find_feature(feature, self._schema.user[1:])
        self._column("users", entry, Column(values, offsets), self._schema.num_users)

    def events(
        self, item: Any, timestamp: Any, offsets: Any, negatives: Column | None = None
    ) -> None:
        """Write the events, by sequence, oldest first, and the items shown and not clicked."""
        self._counts["events"] = self._array("events/item/values.npy", item, np.int32)
        timestamps = self._array("events/timestamp/values.npy", timestamp, np.int64)
        _require_rows("timestamp", timestamps, self._counts["events"])
        self._counts["sequences"] = self._array("events/offsets.npy", offsets, np.int64) - 1
        if negatives is not None:
            self._array("events/negatives/values.npy", negatives.values, np.int32)
            written = self._array("events/negatives/offsets.npy", negatives.offsets, np.int64) - 1
            _require_rows("negatives", written, self._counts["events"])

    def popularity(self, counts: Any) -> None:
        """Write the training events of each item, integers ``[items]``."""
        written = self._array("popularity.npy", counts, np.int64)
        _require_rows("popularity", written, self._schema.num_items)

    def examples(self, split: str, examples: Examples) -> None:
        """Write the examples of one split; columns may be any sequences of numbers."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        folder = f"examples/{split}"
        rows = len(examples.label)
        for name, dtype in EXAMPLE_COLUMNS.items():
            written = self._array(f"{folder}/{name}/values.npy", getattr(examples, name), dtype)
            _require_rows(name, written, rows)
        for name in examples.context:
            _find_feature(name, self._schema.context)
        for feature in self._schema.context:
            if feature.name not in examples.context:
                raise ValueError(f"context feature {feature.name!r} is missing")
            self._column(folder, feature, examples.context[feature.name], rows)
        if examples.probability is not None:
            name = f"{folder}/{PROBABILITY}/values.npy"
            written = self._array(name, examples.probability, np.float32)
            _require_rows(PROBABILITY, written, rows)
        self._counts[split] = rows

    def note(self, **entries: Any) -> None:
        """Add entries to ``meta.json``."""
        self._meta.update(entries)

    def _finish(self) -> None:
        none, no_offsets = np.zeros(0), {"multivalued": np.zeros(1, np.int64)}
        context = {f.name: Column(none, no_offsets.get(f.kind)) for f in self._schema.context}
        for split in SPLITS:
            if split not in self._counts:
                empty = Examples(**dict.fromkeys(EXAMPLE_COLUMNS, none), context=context)
                self.examples(split, empty)
        meta = {
            "format_version": metadata.FORMAT_VERSION,
            "schema": metadata.schema_to_json(self._schema),
            "counts": self._counts,
            **self._meta,
        }
        with writing(self.path, "dataset folder"):
            text = json.dumps(meta, indent=2, allow_nan=False)
            (self._partial / "meta.json").write_text(text + "\n", encoding="utf-8")
        try:
            dataset = open_dataset(self._partial)
        except UserError as error:
            raise ValueError(f"the written folder is not a dataset: {error}") from error
        with writing(self.path, "dataset folder"):
            write_statistics(self._partial / STATISTICS, dataset.statistics)
            write_factors(self._partial / STATISTICS, dataset.factors)
            self._partial.rename(self.path.absolute())

    def _column(self, folder: str, feature: Feature, column: Column, rows: int) -> None:
        name = f"{folder}/{feature.name}"
        dtype = np.float32 if feature.kind == "numeric" else np.int32
        written = self._array(f"{name}/values.npy", column.values, dtype)
        if (column.offsets is not None) != (feature.kind == "multivalued"):
            where = f"{feature.kind} feature {feature.name!r}"
            raise ValueError(f"{where}: offsets are for multivalued")
        if column.offsets is not None:
            written = self._array(f"{name}/offsets.npy", column.offsets, np.int64) - 1
        _require_rows(f"feature {feature.name!r}", written, rows)

    def _lines(self, name: str, values: Iterable[str]) -> int:
        written = 0
        with self._file(name) as stream:
            for value in values:
                stream.write(metadata.escape(value).encode("utf-8") + b"\n")
                written += 1
        return written

    def _array(self, name: str, values: Any, dtype: type[np.generic]) -> int:
        array = np.asarray(values)
        if array.size == 0:
            array = array.astype(dtype)
        if array.ndim != 1 or array.dtype.kind not in ("f" if dtype is np.float32 else "biu"):
            raise ValueError(f"{name}: expected {dtype.__name__}, got {array.shape} {array.dtype}")
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": array.shape}
        with self._file(name) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for part in chunks(len(array)):
                converted = array[part].astype(dtype)
                if dtype is not np.float32 and not np.array_equal(converted, array[part]):
                    raise ValueError(f"{name}: values do not fit {dtype.__name__}")
                stream.write(converted.data)
        return len(array)

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[Any]:
        file = self._partial / name
        with writing(self.path, "dataset folder"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                yield stream


def check_target(path: Path) -> None:
    """Refuse a target that exists; sources call this before long work."""
    with writing(path, "dataset folder"):
        is_there = path.is_symlink() or path.exists()
    if is_there:
        raise UserError(f"{path} exists already; choose another folder or remove it")


def _find_feature(name: str, features: tuple[Feature, ...]) -> Feature:
    for feature in features:
        if feature.name == name:
            return feature
    raise ValueError(f"the schema has no such feature here: {name!r}")


def _require_rows(name: str, rows: int, expected: int) -> None:
    if rows != expected:
        raise ValueError(f"{name}: expected {expected} rows, got {rows}")
