"""The dataset folder: its files, and opening it.

    DATA/meta.json                    format version, schema, counts, source files, split policy
    DATA/vocab/<feature>.txt          line k: the raw value of index k; line 0: unknown values
    DATA/{items,users}/<feature>/     values.npy, and offsets.npy when multi-valued
    DATA/popularity.npy               int64 [items], training events of each item
    DATA/groups.txt                   raw user ids
    DATA/events/{item,timestamp}/     values.npy, grouped by sequence, oldest first; so are event
                                      features
    DATA/events/offsets.npy           int64 [sequences + 1]
    DATA/examples/<split>/<column>/   values.npy, and offsets.npy when multi-valued; also features
                                      of requests and candidates
    DATA/statistics/<feature>/        counts of training events and vectors of values, see
                                      :mod:`dien_jax.data.statistics_files`

The history of an example is ``events[offsets[sequence] : history_end]``, so examples share their
histories. Lines of text files are escaped by :func:`dien_jax.data.metadata.escape`. If all arrays
together exceed ``IN_MEMORY`` bytes, they are memory-mapped, otherwise copied to memory. Opening
checks, in bounded memory, everything that would fail silently later: for example, a gather on an
accelerator clamps an id that is out of range.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from dien_jax.data import arrays, metadata, statistics_files
from dien_jax.data.arrays import Examples, FolderFiles, Splits, chunks
from dien_jax.data.kinds import KINDS, padded_columns
from dien_jax.data.metadata import SPLITS, Counts, check_lines, read_values
from dien_jax.data.schema import EXAMPLE_COLUMNS, UNKNOWN, Column, Feature, FeatureValues, Schema
from dien_jax.data.statistics_files import FACTORS, STATISTICS, Statistics
from dien_jax.data.tables import FeatureTables, ValueFactors
from dien_jax.errors import UserError
from dien_jax.utils.text_files import sha256

IN_MEMORY = 1 << 28  # total size, in bytes, up to which arrays are copied to memory
READERS = 8  # threads that open and check arrays
Content = TypeVar("Content")


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; its arrays are in memory or, if large, read-only memory maps.

    >>> from dien_jax.data import open_dataset
    >>> dataset = open_dataset("data")
    >>> sorted(dataset.splits)
    ['test', 'train', 'valid']
    >>> len(dataset.vocabulary("item")) == dataset.schema.num_items
    True

    Attributes:
      path: the folder.
      schema: the features.
      meta: ``meta.json`` as parsed.
      items: item features after the id; row k describes item k.
      users: user features after the id; row k describes user k.
      events: features of events; row k describes event k.
      event_item: int32 ``[events]``.
      event_timestamp: int64 ``[events]``, non-decreasing within a sequence.
      event_offsets: int64 ``[sequences + 1]``.
      popularity: int64 ``[items]``, training events of each item.
      splits: the examples of ``train``, ``valid`` and ``test``; a split can be empty.
      statistics: counts of training events.
      factors: factorization vectors of the training events, by feature.
      files: the files that are read later; its ``check`` refuses those that have changed.
    """

    path: Path
    schema: Schema
    meta: dict[str, Any]
    items: dict[str, Column]
    users: dict[str, Column]
    events: dict[str, Column]
    event_item: np.ndarray
    event_timestamp: np.ndarray
    event_offsets: np.ndarray
    popularity: np.ndarray
    splits: dict[str, Examples]
    statistics: Statistics = field(default_factory=lambda: Statistics({}, ()))
    factors: dict[str, ValueFactors] = field(default_factory=dict)
    files: FolderFiles = field(default_factory=FolderFiles)

    def __repr__(self) -> str:
        """Return the sizes; the arrays would fill the screen."""
        sizes = ", ".join(f"{len(part.label)} {name}" for name, part in self.splits.items())
        return f"Dataset({str(self.path)!r}, {self.schema.num_items - 1} items, examples: {sizes})"

    def vocabulary(self, feature: str) -> list[str]:
        """Return the raw values of a categorical or multi-valued feature, by index."""
        return self._read(f"vocab/{feature}.txt", read_values)

    def groups(self) -> list[str]:
        """Return the raw user ids, by group."""
        return self._read("groups.txt", read_values)

    def _read(self, name: str, read: Callable[[Path], Content]) -> Content:
        """Read a text file with a function; it must be the file of the opened folder."""
        content = read(self.path / name)
        self.files.check(self.path / name)
        return content

    def feature_tables(self, *, statistics: bool = False, folds: bool = False) -> FeatureTables:
        """Return all features except ids of all items and users, multi-valued ones padded.

        They are copies in memory, so later changes of files have no effect. With ``statistics``
        they include counts of training events and vectors of values: the first table, or with
        ``folds`` all tables, which training needs.
        """
        items = padded_columns(self.schema.item[1:], self.items, slice(None))
        users = padded_columns(self.schema.user[1:], self.users, slice(None))
        vectors = self.factors if statistics else {}
        if not folds:
            vectors = {
                name: ValueFactors(row, table[:1], scale[:1])
                for name, (row, table, scale) in vectors.items()
            }
        groups = items, users, self.statistics.values if statistics else {}, vectors
        copied: Any = [{k: jax.tree.map(np.array, v) for k, v in group.items()} for group in groups]
        jax.tree.map(arrays.release, groups)
        self.check_files()
        return FeatureTables(*copied)

    def check_files(self) -> None:
        """Raise a ``UserError`` if a file in use has changed since the folder was opened."""
        self.files.check()

    def batch_columns(
        self, split: str, rows: np.ndarray, events: np.ndarray
    ) -> dict[str, FeatureValues]:
        """Return the features of a batch that no table has.

        ``rows`` are examples of a split, integers ``[B]``; ``events`` are events of the dataset,
        integers ``[B, T]``, -1 for padding.
        """
        of_example = (*self.schema.request, *self.schema.candidate)
        columns = padded_columns(of_example, self.splits[split].columns, rows)
        return columns | padded_columns(self.schema.event, self.events, events)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset folder, and check all of it.

    >>> from dien_jax.data import open_dataset
    >>> open_dataset("data").path.name
    'data'

    Raises:
      UserError: when the folder is missing, is not a dataset folder or has another format version,
        or a file is missing, damaged or holds invalid values. The message names the file.
    """
    return open_folder(Path(path))


def open_folder(path: Path, *, is_counted: bool = True, in_memory: int = IN_MEMORY) -> Dataset:
    """Open a dataset folder, in memory if its arrays have at most ``in_memory`` bytes in total.

    Without ``is_counted`` the dataset has no statistics; see :func:`open_dataset`.
    """
    meta = metadata.read_meta(path)  # first: another folder, such as /, may hold millions of files
    files = FolderFiles(path)
    schema = metadata.schema_from_json(meta["schema"], f"{path / 'meta.json'}, schema")
    for feature in schema.features:
        if feature.size is not None:
            metadata.check_vocabulary(path / "vocab" / f"{feature.name}.txt", feature.size)
    counts, events = meta["counts"], path / "events"
    check_lines(path / "groups.txt", counts["groups"])
    offsets = arrays.read_offsets(events / "offsets.npy", counts["sequences"], counts["events"])
    file = path / "popularity.npy"
    popularity = arrays.read_array(file, np.int64, schema.num_items, arrays.COUNTS)
    with ThreadPoolExecutor(READERS) as pool:
        timestamp = pool.submit(_timestamp, events, counts["events"], offsets)
        file, rows = events / "item/values.npy", counts["events"]
        item = pool.submit(arrays.read_ids, file, np.int32, rows, schema.num_items)
        if is_counted:
            factors = pool.submit(statistics_files.read_factors, path / STATISTICS, schema)
        splits = {name: _examples(path, name, schema, counts, offsets, pool) for name in SPLITS}
        dataset = Dataset(
            path=path,
            schema=schema,
            meta=meta,
            items=read_columns(path / "items", schema.item[1:], schema.num_items),
            users=read_columns(path / "users", schema.user[1:], schema.num_users),
            events=read_columns(events, schema.event, counts["events"]),
            event_item=item.result(),
            event_timestamp=timestamp.result(),
            event_offsets=offsets,
            popularity=popularity,
            splits=Splits(splits),
            files=files,
        )
        if is_counted:
            counted = statistics_files.read_statistics(path / STATISTICS, schema, counts)
            dataset = replace(dataset, statistics=counted, factors=factors.result())
    if is_small := files.array_bytes() <= in_memory:
        dataset = replace(copy.deepcopy(dataset), files=files)
    files.check(opening=True)
    if is_small:
        files.forget_arrays()
    return dataset


def read_columns(folder: Path, features: tuple[Feature, ...], rows: int) -> dict[str, Column]:
    """Map the columns of features, and check them."""
    return {f.name: KINDS[f.kind].read(folder / f.name, f, rows) for f in features}


def _timestamp(events: Path, rows: int, offsets: np.ndarray) -> np.ndarray:
    """Map the timestamps, which must not decrease within a sequence."""
    file = events / "timestamp" / "values.npy"
    timestamp = arrays.read_array(file, np.int64, rows)
    for part in chunks(rows):
        times = timestamp[part.start : part.stop + 1]
        falls = part.start + 1 + np.flatnonzero(times[1:] < times[:-1])
        starts = offsets[np.searchsorted(offsets, falls)] == falls
        if not starts.all():
            row = int(falls[np.argmin(starts)])
            fall = f"{timestamp[row - 1]} then {timestamp[row]} at entry {row}"
            raise UserError(f"{file}: events of a sequence must be oldest first, found {fall}")
        arrays.release(timestamp)
    return timestamp


def _examples(
    path: Path,
    split: str,
    schema: Schema,
    counts: Counts,
    offsets: np.ndarray,
    pool: ThreadPoolExecutor,
) -> Examples:
    folder, rows = path / "examples" / split, counts[split]  # type: ignore[literal-required]
    ends = {
        "sequence": counts["sequences"],
        "history_end": counts["events"] + 1,
        "user": schema.num_users,
        "group": counts["groups"],
        "item": schema.num_items,
        "label": 2,
    }

    def read(name: str) -> np.ndarray:
        file = folder / name / "values.npy"
        return arrays.read_ids(file, EXAMPLE_COLUMNS[name], rows, ends[name])

    columns = dict(zip(EXAMPLE_COLUMNS, pool.map(read, EXAMPLE_COLUMNS), strict=True))
    sequence, end = columns["sequence"], columns["history_end"]

    def is_within(rows: slice) -> np.ndarray:
        own = sequence[rows]
        return (offsets[own] <= end[rows]) & (end[rows] <= offsets[own + 1])

    if (row := arrays.first_bad(rows, is_within, sequence, end, offsets)) is not None:
        own = sequence[row]
        expected = f"within its sequence, {offsets[own]} to {offsets[own + 1]}, found {end[row]}"
        raise UserError(f"{folder}/history_end/values.npy: entry {row} should be {expected}")
    given = read_columns(folder, (*schema.request, *schema.candidate), rows)
    return Examples(**columns, columns=given)


def vocabulary_digests(dataset: Dataset) -> dict[str, str]:
    """Return the sha256 of each vocabulary file by feature; vocabularies define ids."""
    features = [feature for feature in dataset.schema.features if feature.size is not None]
    return {f.name: dataset._read(f"vocab/{f.name}.txt", sha256) for f in features}


def table_digests(dataset: Dataset, *, statistics: bool = False) -> dict[str, str]:
    """Return the sha256 of each table that a model reads for items and users, besides ids.

    Keys are names in the folder, such as ``items/category`` and ``users/age``; with ``statistics``
    also ``statistics/item``, for counts of training events, and ``factors/item``.
    """
    tables: dict[str, Iterable[Any]] = {}
    for folder, columns in (("items", dataset.items), ("users", dataset.users)):
        tables |= {f"{folder}/{name}": column for name, column in columns.items()}
    for name, counts in dataset.statistics.values.items() if statistics else ():
        kinds = dict.fromkeys(sorted(vars(counts)), np.int32) | {"offsets": np.int64}
        tables[f"{STATISTICS}/{name}"] = [np.asarray(getattr(counts, f), kinds[f]) for f in kinds]
    for name, (row, vectors, _) in dataset.factors.items() if statistics else ():
        tables[f"{FACTORS}/{name}"] = row, vectors
    digests = {}
    for name, parts in tables.items():
        digest = hashlib.sha256()
        for array in (np.asarray(part) for part in parts if part is not None):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for rows in chunks(array.size):
                digest.update(np.ascontiguousarray(array.reshape(-1)[rows]).data)
        digests[name] = digest.hexdigest()
    return digests


def training_events(dataset: Dataset, items: np.ndarray) -> np.ndarray:
    """Return the training events of item rows ``[n]``: 0 of row 0, which counts all rare items."""
    return np.where(items == UNKNOWN, 0, np.asarray(dataset.popularity)[items])


def data_digest(dataset: Dataset) -> str:
    """Return the sha256 of a folder's ``meta.json``, which identifies its content."""
    return dataset._read("meta.json", sha256)
