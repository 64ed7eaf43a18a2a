"""Files of a dataset folder that change while they are mapped."""

import mmap
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from support.small_dataset import write

from dien_jax.config.settings import TrainConfig
from dien_jax.data.dataset import open_folder
from dien_jax.data.loader import Loader
from dien_jax.errors import UserError

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 4)


def touch_all(file: Path) -> None:
    """Write the same bytes in place, at a later time."""
    time = file.stat().st_mtime_ns + 10**9
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(time, time))


def replace_file(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(b"other")
    other.replace(file)


@pytest.mark.parametrize(
    ("change", "refused"),
    [(cut, True), (touch_all, True), (replace_file, False), (Path.unlink, False)],
)
def test_batches_of_files_that_change_in_place_are_refused(folder, change, refused) -> None:
    """A file that is removed or replaced stays as it was for those who have mapped it."""
    loader = Loader(open_folder(folder, in_memory=0), "train", TrainConfig())
    file = folder / "events" / "item" / "values.npy"
    change(file)
    if not refused:
        assert loader.batch(0, 0).item.any()
        return
    with pytest.raises(UserError, match=f"^{file} changed while it was in use: "):
        loader.batch(0, 0)


def test_a_batch_is_refused_whose_file_changed_while_it_was_read(folder, monkeypatch) -> None:
    data = open_folder(folder, in_memory=0)
    file = folder / "events" / "item" / "values.npy"
    read = data.batch_columns

    def change_and_read(*rows):
        touch_all(file)
        return read(*rows)

    monkeypatch.setattr(type(data), "batch_columns", lambda _, *rows: change_and_read(*rows))
    with pytest.raises(UserError, match=f"^{file} changed while it was in use: "):
        Loader(data, "train", TrainConfig()).batch(0, 0)


def test_tables_do_not_follow_their_files(folder: Path) -> None:
    data = open_folder(folder, in_memory=0)
    tables = data.feature_tables(statistics=True, folds=True)
    for leaf in jax.tree.leaves(tables):
        base = leaf
        while isinstance(base, np.ndarray):
            base = base.base
        assert not isinstance(base, mmap.mmap)
    file = next((folder / "items").rglob("*.npy"))
    touch_all(file)
    with pytest.raises(UserError, match=f"^{file} changed while it was in use: "):
        data.feature_tables()
