"""Taobao UserBehavior: which lines are events, and which are malformed."""

import zipfile
from pathlib import Path

import pytest
from support.source_samples import VIEWS as LOG
from support.tiny_logs import events_of, opened, values_of, write

from dien_jax.errors import UserError
from dien_jax.preparation.sources.taobao import END, FIRST_SECOND, TaobaoOptions, prepare

pytestmark = pytest.mark.long


def make(file: Path, **changes):
    return opened(prepare, TaobaoOptions(source=file, out=file.parent / "data", **changes))


def test_views_are_events_and_what_is_not_is_counted(tmp_path):
    dataset, summary = make(write(tmp_path, LOG))
    assert len(dataset.event_item) == 4 * 5
    assert "no events, by --behaviours: 4 cart, 4 fav, 4 buy" in summary
    assert dataset.meta["split"]["policy"] == "by-time"
    source = dataset.meta["source"]
    assert (source["name"], source["behaviours"]) == ("taobao", ["pv"])
    for item, category in values_of(dataset, "items", "category").items():
        assert category == str(int(item) % 3)


def test_chosen_behaviours_are_events(tmp_path):
    dataset, summary = make(
        write(tmp_path, LOG), behaviours=("buy", "fav", "cart"), split="by-user", test_share=0.0
    )
    assert events_of(dataset)["0"][:1] == ["1"]
    assert [len(items) for items in events_of(dataset).values()] == [3] * 4
    assert "no events, by --behaviours: 20 pv" in summary


def test_no_behaviour_is_refused(tmp_path):
    with pytest.raises(UserError, match="--behaviours must name at least one of pv, cart"):
        TaobaoOptions(source=tmp_path, out=tmp_path, behaviours=())


def test_the_first_and_the_last_second_of_the_nine_days_are_inside(tmp_path):
    lines = f"1,2,0,pv,{FIRST_SECOND}\n1,3,0,pv,{END - 1}\n"
    dataset, _ = make(write(tmp_path, LOG + lines), max_bad_share=0.0)
    assert len(dataset.event_item) == 4 * 5 + 2


def test_a_zip_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "log.csv.zip", "w") as packed:
        packed.writestr("UserBehavior.csv", LOG)
    with pytest.raises(UserError, match=r"log\.csv\.zip is a zip archive; unpack it"):
        make(tmp_path / "log.csv.zip")
