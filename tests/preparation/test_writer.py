"""Writing a dataset folder: misuse, full disks and crashes leave nothing behind."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from support import small_dataset
from support.small_dataset import SCHEMA, contents, ints, leftovers

from dien_jax.data.schema import Column
from dien_jax.errors import UserError
from dien_jax.preparation.writer import DatasetWriter

pytestmark = pytest.mark.fast
write = small_dataset.write.__wrapped__  # writes in the test itself, and copies nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": ints(1, 0, 1, 2)}, "not a dataset: .*entry 3 should be"),
        ({"label": ints(1, 0, 1)}, "sequence: expected 3 rows, got 4"),
        ({"user": ints(1, 1, 2, 2**32)}, "4294967296 does not fit int32"),
        ({"user": np.zeros(4)}, r"expected int32, got \(4,\) float64"),
        ({"offsets": ints(0, 3, 2, 5)}, "offsets must not fall"),
        ({"timestamp": ints(9, 8, 7, 6, 5)}, "oldest first"),
        ({"timestamp": ints(1)}, "timestamp: expected 5 rows, got 1"),
        ({"columns": {}}, "feature 'device' is missing"),
        ({"columns": {"colour": Column(ints(), None)}}, "no such feature here: 'colour'"),
        ({"columns": {"device": Column(ints(0, 0, 0, 0), ints(0, 1, 2, 3, 4))}}, "offsets are for"),
    ],
)
def test_misuse_of_the_writer_is_refused_and_leaves_nothing(tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "data", **change)
    assert leftovers(tmp_path) == []


def test_an_empty_piece_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_reference.py` has folders that are written in pieces."""
    before = contents(write(tmp_path / "one"))

    def begin_with(name: str, empty: Callable[..., tuple[Any, ...]]) -> None:
        own = getattr(DatasetWriter, name)

        def write_both(*given: Any, **named: Any) -> None:
            own(given[0], *empty(*given[1:], **named))
            own(*given, **named)

        monkeypatch.setattr(DatasetWriter, name, write_both)

    begin_with("groups", lambda ids: ([],))
    begin_with("events", lambda item, timestamp, offsets: (ints(), ints(), offsets[:1]))
    begin_with("examples", lambda split, rows: (split, rows.take(ints())))
    assert contents(write(tmp_path / "two")) == before


def in_two_pieces(writer: DatasetWriter) -> None:
    writer.events(ints(1, 1), ints(1, 2), ints(0, 2))
    writer.events(ints(1), ints(1), ints(0, 1))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda writer: writer.items("price", np.array([0.0, np.inf, 1e39, 0.0])),
         r"items/price/values.npy: 1e\+39 does not fit float32"),
        (in_two_pieces, "expected offsets from 2 on"),
        (lambda writer: writer.events(ints(), ints(), ints(0)), "the dataset lacks its groups"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_lacking_is_refused_and_leaves_nothing(tmp_path, action, message) -> None:
    writer = DatasetWriter(tmp_path / "data", schema=SCHEMA, source={}, split={})
    with pytest.raises(ValueError, match=message), writer:
        action(writer)
    assert leftovers(tmp_path) == []


def test_what_a_process_left_that_was_killed_at_its_end_is_removed_by_the_next(tmp_path) -> None:
    write(tmp_path / "data")
    for name in (".data.partial-7", ".data.partial-work-7"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="data exists already"):
        write(tmp_path / "data")
    assert leftovers(tmp_path) == ["data"]


def test_too_many_open_files_are_no_fault_of_what_is_written(tmp_path: Path, monkeypatch) -> None:
    refused = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
    monkeypatch.setattr(np.lib.format, "open_memmap", refused)
    with pytest.raises(UserError, match=r"\.npy cannot be read: Too many open files"):
        write(tmp_path / "data")
    assert leftovers(tmp_path) == []
