"""Folders that extend another: ids keep their rows, and what must be alike is demanded."""

from functools import partial

import pytest
from support import tiny_logs
from support.small_dataset import write as write_other
from support.tiny_logs import write

from dien_jax.data.dataset import open_dataset
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


def test_the_summary_counts_old_and_new_ids_and_the_folder_says_what_it_extends(tmp_path):
    old = tmp_path / "old"
    interactions.prepare(options(write(tmp_path, lines(OLD, 0), "old.csv"), out=old))
    log = write(tmp_path, lines(NEW, 100), "new.csv")
    said = " ".join(interactions.prepare(options(log, out=tmp_path / "new", extend=old)))
    assert "3 items and 3 users keep their rows of" in said
    assert "1 and 1 of them without an event here" in said  # i1, dan
    assert "1 items and 1 users are new in training" in said
    assert f"warning: the log begins after the last event of {old}" in said
    extends = open_dataset(tmp_path / "new").meta["source"]["extends"]
    assert extends["folder"] == str(old)
    assert len(extends["meta"]) == 64


def test_a_folder_of_another_source_is_not_extended(tmp_path):
    """Options that must be those of the folder are in ``tests/faults/test_flags.py``."""
    log, other = write(tmp_path, lines(NEW, 100)), write_other(tmp_path / "other")
    expected = "expected a folder made by prepare interactions, found one made by 'test'"
    with pytest.raises(UserError, match=expected):
        interactions.prepare(options(log, out=tmp_path / "new", extend=other))
