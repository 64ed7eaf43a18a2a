"""Folders that extend another: ids keep their rows, and what must be alike is demanded."""

from functools import partial

import pytest
from support import tiny_logs
from support.small_dataset import write as write_other
from support.tiny_logs import write

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources import interactions

pytestmark = pytest.mark.long

HEADER = "user,item,timestamp,category,tags,price\n"
ITEMS = {"i1": "c1,a|b,1", "i2": "c2,b,2", "i3": "c1,,3", "i8": "c2,d,9", "i9": "c9,z|b|a,7"}
OLD = [("ann", "i1 i2 i3 i1 i2 i8"), ("bob", "i2 i3 i1 i2 i8"), ("dan", "i1 i2 i3 i1")]
NEW = [("eve", "i9 i2 i3 i9 i2 i3"), ("bob", "i2 i3 i9 i2 i3"), ("ann", "i2 i3 i9 i9")]
FEATURES = ("category", "tags:multivalued", "price:numeric")
options = partial(tiny_logs.options, item_features=FEATURES)


def lines(events: list[tuple[str, str]], start: int) -> str:
    rows = [
        f"{user},{item},{start + time},{ITEMS[item]}\n"
        for user, items in events
        for time, item in enumerate(items.split())
    ]
    return HEADER + "".join(rows)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Dataset, Dataset, list[str]]:
    """A folder, the one that extends it, and what preparing that said."""
    folder = tmp_path_factory.mktemp("extend")
    interactions.prepare(options(write(folder, lines(OLD, 0), "old.csv"), out=folder / "old"))
    log = write(folder, lines(NEW, 100), "new.csv")
    said = interactions.prepare(options(log, out=folder / "new", extend=folder / "old"))
    return open_dataset(folder / "old"), open_dataset(folder / "new"), said


def test_the_summary_counts_old_and_new_ids_and_the_folder_says_what_it_extends(folders):
    old, new, said = folders
    assert "3 items and 3 users keep their rows of" in " ".join(said)
    assert "1 and 1 of them without an event here" in " ".join(said)  # i1, dan
    assert "1 items and 1 users are new in training" in " ".join(said)
    assert f"warning: the log begins after the last event of {old.path}" in " ".join(said)
    extends = new.meta["source"]["extends"]
    assert extends["folder"] == str(old.path)
    assert len(extends["meta"]) == 64


def test_a_folder_of_another_source_is_not_extended(tmp_path):
    """Options that must be those of the folder are in ``tests/faults/test_flags.py``."""
    log, other = write(tmp_path, lines(NEW, 100)), write_other(tmp_path / "other")
    expected = "expected a folder made by prepare interactions, found one made by 'test'"
    with pytest.raises(UserError, match=expected):
        interactions.prepare(options(log, out=tmp_path / "new", extend=other))
