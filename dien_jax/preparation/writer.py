"""Writing a dataset folder: all of it or nothing."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data import metadata
from dien_jax.data.columns import Column, Examples
from dien_jax.data.dataset import open_folder
from dien_jax.data.metadata import Counts
from dien_jax.data.part_writer import FolderFiles, PartWriter, find_feature, require_rows
from dien_jax.data.schema import Schema
from dien_jax.data.statistics_files import STATISTICS, write_counts, write_factors
from dien_jax.errors import UserError, writing
from dien_jax.statistics.features import count_features, factorise_training_events
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

    A data set that is larger than memory is written in several parts, of consecutive sequences and
    groups, with the examples of the sequences: :meth:`next_part` begins the next one. Its event
    offsets begin at the last one of the part before, and ``sequence``, ``history_end`` and
    ``group`` count on; offsets of multi-valued columns begin at 0 again. What is read from the
    folder does not depend on the parts.

    Args:
      path: the folder to create; must not exist. Missing parents are created.
      schema: the features.
      source: origin of the data for ``meta.json``: ``name``, ``files`` (name to sha256) and more.
      split: description of the splits for ``meta.json``: ``policy``, ``seed`` and the like.
      progress: called with what the end of the block works at, which takes long for a long log, and
        with the share of that which is done, if it is known.

    Raises:
      UserError: when ``path`` exists or cannot be written, for example because the disk is full.
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
        progress: Callable[[str, float | None], None] = lambda *_: None,
    ) -> None:
        metadata.check_names(schema)
        self.path = Path(path)
        self._schema, self._progress = schema, progress
        self._meta = {"source": source, "split": split}
        self._parts: list[Counts] = []
        self._current: PartWriter | None = None
        check_target(self.path)

    def __enter__(self) -> "DatasetWriter":
        with writing(self.path, "dataset folder"), contextlib.ExitStack() as stack:
            self._partial = stack.enter_context(partial_folder(self.path))
            self._cleanup = stack.pop_all()
        self._files = FolderFiles(self._partial, self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._cleanup:
            if kind is None:
                self._finish()

    def vocabulary(self, feature: str, values: Iterable[str]) -> None:
        """Write the raw values of a categorical or multi-valued feature, the unknown one first."""
        expected = find_feature(feature, self._schema.features).size
        if expected is None:
            raise ValueError(f"numeric feature {feature!r} has no vocabulary")
        written = self._files.lines(f"vocab/{feature}.txt", values)
        require_rows(f"vocabulary of {feature!r}", written, expected)

    def items(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """Write an item feature over all items, the unknown one first; see :class:`Column`."""
        entry = find_feature(feature, self._schema.item[1:])
        self._files.column("items", entry, Column(values, offsets), self._schema.num_items)

    def users(self, feature: str, values: Any, offsets: Any | None = None) -> None:
        """Write a user feature over all users, the unknown one first; see :class:`Column`."""
        entry = find_feature(feature, self._schema.user[1:])
        self._files.column("users", entry, Column(values, offsets), self._schema.num_users)

    def popularity(self, counts: Any) -> None:
        """Write the training events of each item, integers ``[items]``."""
        written = self._files.array("popularity.npy", counts, np.int64)
        require_rows("popularity", written, self._schema.num_items)

    def groups(self, raw_ids: Iterable[str]) -> None:
        """Write the raw user ids of the part, by group."""
        self._part().groups(raw_ids)

    def events(
        self, item: Any, timestamp: Any, offsets: Any, negatives: Column | None = None
    ) -> None:
        """Write the events of the part, by sequence, oldest first.

        ``negatives`` are the items that were shown with each event and not clicked.
        """
        self._part().events(item, timestamp, offsets, negatives)

    def examples(self, split: str, examples: Examples) -> None:
        """Write the examples of one split of the part; columns may be any sequences of numbers."""
        self._part().examples(split, examples)

    def next_part(self) -> None:
        """End the part that ``groups``, ``events`` and ``examples`` write, and begin the next."""
        self._parts.append(self._part().finish())
        self._current = None

    def part_folder(self, number: int) -> Path:
        """Return the folder of a part, for :class:`dien_jax.data.PartWriter`."""
        return self._partial / metadata.part_name(number)

    def add_part(self, counts: Counts) -> None:
        """Add the next part, which is in its folder already.

        ``counts`` are those that :meth:`dien_jax.data.PartWriter.finish` returned.
        """
        if self._current is not None:
            raise ValueError("another part is being written; end it with next_part()")
        self._parts.append(counts)

    def note(self, **entries: Any) -> None:
        """Add entries to ``meta.json``."""
        self._meta.update(entries)

    def _part(self) -> PartWriter:
        if self._current is None:
            folder = self.part_folder(len(self._parts))
            self._current = PartWriter(folder, self._schema, self.path)
        return self._current

    def _finish(self) -> None:
        if self._current is not None or not self._parts:
            self.next_part()
        names = Counts.__annotations__
        totals = {name: sum(part[name] for part in self._parts) for name in names}  # type: ignore[literal-required]
        meta = {
            "format_version": metadata.FORMAT_VERSION,
            "schema": metadata.schema_to_json(self._schema),
            "counts": totals,
            "parts": self._parts,
            **self._meta,
        }
        with writing(self.path, "dataset folder"):
            text = json.dumps(meta, indent=2, allow_nan=False)
            (self._partial / "meta.json").write_text(text + "\n", encoding="utf-8")
        trim_memory()
        self._progress("checking the folder", None)
        try:
            dataset = open_folder(self._partial, is_counted=False)
        except UserError as error:
            if isinstance(error.__cause__, OSError):  # what is written is not at fault
                raise
            raise ValueError(f"the written folder is not a dataset: {error}") from error
        with writing(self.path, "dataset folder"):
            folders = metadata.part_folders(self._partial, meta)
            progress = functools.partial(self._progress, "counting training events")
            progress(0.0)
            counted = count_features(dataset, self._partial, progress)
            interactions = write_counts(self._partial / STATISTICS, folders, counted)
            trim_memory()
            progress = functools.partial(self._progress, "finding similar items")
            progress(0.0)
            factors = factorise_training_events(dataset, interactions, progress)
            write_factors(self._partial / STATISTICS, factors)
            self._partial.rename(self.path.absolute())


def check_target(path: Path) -> None:
    """Refuse a target that exists; sources call this before long work.

    What a process left that was killed just after it had made the target is removed.
    """
    with writing(path, "dataset folder"):
        is_there = path.is_symlink() or path.exists()
    if is_there:
        with contextlib.suppress(UserError):  # another process is at work on it
            remove_left_partials(path.absolute())
        raise UserError(f"{path} exists already; choose another folder or remove it")
