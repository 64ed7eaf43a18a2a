"""Writing a dataset folder: all of it or nothing."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dien_jax.data.dataset import Column, chunks, open_dataset
from dien_jax.data.metadata import (
    EXAMPLE_COLUMNS,
    FORMAT_VERSION,
    PROBABILITY,
    SPLITS,
    check_names,
    escape,
    schema_to_json,
)
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError


class DatasetWriter:
    """Writes the folder that :func:`dien_jax.data.dataset.open_dataset` opens.

    A context manager. Files go into a hidden sibling of ``path``, which is checked as on opening
    and renamed to ``path`` when the block ends, or removed when it raises. Arrays may be memory
    maps: they are converted and written some rows at a time. Splits that were not written are
    empty.

    Example:
      >>> import tempfile
      >>> from dien_jax.data.dataset import open_dataset
      >>> schema = Schema(
      ...     item=(Feature("item", "categorical", size=3),),
      ...     user=(Feature("user", "categorical", size=2),),
      ... )
      >>> path = Path(tempfile.mkdtemp()) / "data"
      >>> with DatasetWriter(path, schema=schema, source={"name": "toy"}, split={}) as writer:
      ...     writer.vocabulary("item", ["", "pear", "fig"])
      ...     writer.vocabulary("user", ["", "Ann"])
      ...     writer.groups(["Ann"])
      ...     writer.events(item=[1, 1, 2], timestamp=[10, 20, 20], offsets=[0, 3])
      ...     writer.popularity([0, 2, 1])
      ...     writer.examples("train", sequence=[0, 0], history_end=[2, 2], user=[1, 1],
      ...                     group=[0, 0], item=[2, 1], label=[1, 0])
      >>> open_dataset(path).splits["train"].item.tolist()
      [2, 1]

    Args:
      path: the folder to make; must not exist. Missing parents are made.
      schema: the features.
      source: what the data came from: ``name`` and ``files`` (name to sha256), and what else a
        reader of ``meta.json`` may want to know.
      split: how the splits were made: ``policy``, ``seed`` and the like.

    Raises:
      UserError: when ``path`` exists or cannot be written, the disk being full among the reasons.
      ValueError: on misuse: a feature that the schema lacks, arrays of unequal lengths, values
        outside their type, or a folder that would not open.
    """

    def __init__(
        self, path: str | Path, *, schema: Schema, source: dict[str, Any], split: dict[str, Any]
    ) -> None:
        check_names(schema)
        self.path = Path(path)
        self._schema = schema
        self._meta = {"source": source, "split": split}
        self._counts: dict[str, int] = {}
        check_target(self.path)
        name = self.path.absolute().name
        self._partial = self.path.absolute().with_name(f".{name}.partial-{os.getpid()}")

    def __enter__(self) -> "DatasetWriter":
        with _writing(self.path):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.path.absolute())
            self._partial.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def vocabulary(self, feature: str, values: Iterable[str]) -> None:
        """Raw values of a categorical or multi-valued feature, that of the unknown row first."""
        known = (*self._schema.item, *self._schema.user, *self._schema.context)
        expected = _find(feature, known).size
        if expected is None:
            raise ValueError(f"numeric feature {feature!r} has no vocabulary")
        written = self._lines(f"vocab/{feature}.txt", values)
        _require_rows(f"vocabulary of {feature!r}", written, expected)

    def groups(self, raw_ids: Iterable[str]) -> None:
        """Raw user ids, by group."""
        self._counts["groups"] = self._lines("groups.txt", raw_ids)

    def items(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """One item feature over all items, the unknown item first; see :class:`Column`."""
        found = _find(feature, self._schema.item[1:])
        self._column("items", found, Column(values, offsets), self._schema.num_items)

    def users(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """One user feature over all users, the unknown user first; see :class:`Column`."""
        found = _find(feature, self._schema.user[1:])
        self._column("users", found, Column(values, offsets), self._schema.num_users)

    def events(
        self, item: Any, timestamp: Any, offsets: Any, negatives: Column | None = None
    ) -> None:
        """Events grouped by sequence, oldest first.

        Args:
          item: integers ``[events]``.
          timestamp: integers ``[events]``, never falling within a sequence.
          offsets: integers ``[sequences + 1]``.
          negatives: items that were shown at each event and not clicked, if the log tells.
        """
        self._counts["events"] = self._array("events/item/values.npy", item, np.int32)
        timestamps = self._array("events/timestamp/values.npy", timestamp, np.int64)
        _require_rows("timestamp", timestamps, self._counts["events"])
        self._counts["sequences"] = self._array("events/offsets.npy", offsets, np.int64) - 1
        if negatives is not None:
            self._array("events/negatives/values.npy", negatives.values, np.int32)
            written = self._array("events/negatives/offsets.npy", negatives.offsets, np.int64) - 1
            _require_rows("negatives", written, self._counts["events"])

    def popularity(self, counts: Any) -> None:
        """Training events of each item, integers ``[items]``."""
        written = self._array("popularity.npy", counts, np.int64)
        _require_rows("popularity", written, self._schema.num_items)

    def examples(
        self,
        split: str,
        *,
        sequence: Any,
        history_end: Any,
        user: Any,
        group: Any,
        item: Any,
        label: Any,
        context: dict[str, Column] | None = None,
        probability: Any | None = None,
    ) -> None:
        """The examples of one split; see :class:`dien_jax.data.dataset.Examples`."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        columns = {
            "sequence": sequence,
            "history_end": history_end,
            "user": user,
            "group": group,
            "item": item,
            "label": label,
        }
        folder = f"examples/{split}"
        rows = len(label)
        for name, values in columns.items():
            written = self._array(f"{folder}/{name}/values.npy", values, EXAMPLE_COLUMNS[name])
            _require_rows(name, written, rows)
        context = context or {}
        for name in context:
            _find(name, self._schema.context)
        for feature in self._schema.context:
            if feature.name not in context:
                raise ValueError(f"context feature {feature.name!r} is missing")
            self._column(folder, feature, context[feature.name], rows)
        if probability is not None:
            name = f"{folder}/{PROBABILITY}/values.npy"
            _require_rows(PROBABILITY, self._array(name, probability, np.float32), rows)
        self._counts[split] = rows

    def note(self, **entries: Any) -> None:
        """Adds entries to ``meta.json``."""
        self._meta.update(entries)

    def _finish(self) -> None:
        for split in SPLITS:
            if split not in self._counts:
                self._empty_split(split)
        meta = {
            "format_version": FORMAT_VERSION,
            "schema": schema_to_json(self._schema),
            "counts": self._counts,
            **self._meta,
        }
        with _writing(self.path):
            text = json.dumps(meta, indent=2, allow_nan=False)
            (self._partial / "meta.json").write_text(text + "\n", encoding="utf-8")
        try:
            open_dataset(self._partial)
        except UserError as error:
            raise ValueError(f"what was written is not a dataset: {error}") from error
        with _writing(self.path):
            self._partial.rename(self.path.absolute())

    def _empty_split(self, split: str) -> None:
        context = {
            feature.name: Column(
                np.zeros(0, np.float32 if feature.kind == "numeric" else np.int32),
                np.zeros(1, np.int64) if feature.kind == "multivalued" else None,
            )
            for feature in self._schema.context
        }
        empty: dict[str, Any] = dict.fromkeys(EXAMPLE_COLUMNS, ())
        self.examples(split, **empty, context=context)

    def _column(self, folder: str, feature: Feature, column: Column, rows: int) -> None:
        name = f"{folder}/{feature.name}"
        dtype = np.float32 if feature.kind == "numeric" else np.int32
        written = self._array(f"{name}/values.npy", column.values, dtype)
        if (column.offsets is not None) != (feature.kind == "multivalued"):
            raise ValueError(
                f"{feature.kind} feature {feature.name!r}: offsets are for multivalued"
            )
        if column.offsets is not None:
            written = self._array(f"{name}/offsets.npy", column.offsets, np.int64) - 1
        _require_rows(f"feature {feature.name!r}", written, rows)

    def _lines(self, name: str, values: Iterable[str]) -> int:
        written = 0
        with self._file(name) as stream:
            for value in values:
                stream.write(escape(value).encode("utf-8") + b"\n")
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
        with _writing(self.path):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as stream:
                yield stream


def check_target(path: Path) -> None:
    """Refuses a target that exists: sources call it before long work.

    Raises:
      UserError: when ``path`` exists.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already; choose another folder or remove it")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write dataset folder {path}: {error.strerror or error}") from error


def _remove_leftovers(path: Path) -> None:
    """Removes what processes that were killed have left of earlier attempts at ``path``."""
    for leftover in path.parent.glob(f".{path.name}.partial-*"):
        process = leftover.name.rpartition("-")[2]
        if process.isdecimal() and not _is_running(int(process)):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _find(name: str, features: tuple[Feature, ...]) -> Feature:
    for feature in features:
        if feature.name == name:
            return feature
    raise ValueError(f"the schema has no such feature here: {name!r}")


def _require_rows(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{what}: expected {expected} rows, got {found}")
