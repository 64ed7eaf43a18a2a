"""Taobao UserBehavior: which lines are events, and which are malformed."""

import gzip
import zipfile
from pathlib import Path

import pytest
from support.tiny_logs import events_of, real_data, write

from dien_jax.data.dataset import open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources.taobao import END, FIRST_SECOND, TaobaoOptions, prepare

pytestmark = pytest.mark.long

LOG = "".join(
    f"{user},{user + time},{(user + time) % 3},{behaviour},{FIRST_SECOND + 60 * time}\n"
    for user in range(4)
    for time, behaviour in enumerate(["pv", "cart", "pv", "pv", "fav", "buy", "pv", "pv"])
)


def make(file: Path, **changes):
    options = TaobaoOptions(**{"source": file, "out": file.parent / "data", **changes})
    summary = prepare(options)
    return open_dataset(options.out), summary


def test_views_are_events_and_what_is_not_is_counted(tmp_path):
    dataset, summary = make(write(tmp_path, LOG))
    assert len(dataset.event_item) == 4 * 5
    assert "no events, by --behaviours: 4 cart, 4 fav, 4 buy" in summary
    assert dataset.meta["split"]["policy"] == "by-time"
    source = dataset.meta["source"]
    assert (source["name"], source["behaviours"]) == ("taobao", ["pv"])
    categories = dataset.vocabulary("category")
    for row, item in enumerate(dataset.vocabulary("item")):
        if item:
            assert categories[dataset.items["category"].values[row]] == str(int(item) % 3)


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


MALFORMED = {
    f"1,2,0,pv,{FIRST_SECOND - 1}": f"timestamp {FIRST_SECOND - 1} is outside the nine days",
    f"1,2,0,pv,{END}": f"timestamp {END} is outside the nine days",
    "1,2,0,pv,18": "user 1, item 2: the timestamp 18 is outside the nine days",
    f"1,2,0,look,{FIRST_SECOND}": "user 1, item 2: the behaviour is 'look'",
    f"1,2,0,,{FIRST_SECOND}": "user 1, item 2: the behaviour is ''",
}


def test_lines_of_another_time_or_behaviour_are_malformed(tmp_path):
    file = write(tmp_path, LOG + "".join(f"{line}\n" for line in MALFORMED))
    dataset, summary = make(file, max_bad_share=0.2)
    assert len(dataset.event_item) == 4 * 5
    assert "5 of 37 lines are malformed and were left out:" in summary
    for reason in MALFORMED.values():
        assert any(reason in text and str(file) in text for text in summary), reason
    with pytest.raises(UserError, match="5 of 37 lines are malformed, more than the allowed"):
        make(file, out=tmp_path / "other")


def test_lines_that_make_no_sense_are_told_by_number(tmp_path):
    file = write(tmp_path, "1,2,0,pv\n" + LOG + "1,2,0,pv,-15\n")
    _, summary = make(file, max_bad_share=0.2)
    assert any(f"{file}:1: expected 5 columns, found 4" in text for text in summary)
    assert any(f"{file}:34: timestamp '-15' is negative" in text for text in summary)


def test_the_first_and_the_last_second_of_the_nine_days_are_inside(tmp_path):
    lines = f"1,2,0,pv,{FIRST_SECOND}\n1,3,0,pv,{END - 1}\n"
    dataset, _ = make(write(tmp_path, LOG + lines), max_bad_share=0.0)
    assert len(dataset.event_item) == 4 * 5 + 2


def test_gzip_is_read_and_a_zip_archive_told(tmp_path):
    dataset, _ = make(write(tmp_path, gzip.compress(LOG.encode()), "log.csv.gz"))
    assert len(dataset.groups()) == 4
    with zipfile.ZipFile(tmp_path / "log.csv.zip", "w") as packed:
        packed.writestr("UserBehavior.csv", LOG)
    with pytest.raises(UserError, match=r"log\.csv\.zip is a zip archive; unpack it"):
        make(tmp_path / "log.csv.zip", out=tmp_path / "other")


@pytest.mark.slow
def test_the_two_hours_prepare(tmp_path):
    dataset, summary = make(real_data("taobao", "UserBehavior_2h.csv.gz"), out=tmp_path / "data")
    assert len(dataset.event_item) == 85_773
    assert any("1 of 96169 lines are malformed" in line for line in summary)
