"""Taobao UserBehavior and Ali_Display_Ad_Click: which lines count, and features of three files."""

import zipfile

import pytest
from support.source_samples import ALIMAMA, DAY, MAY_6, TAOBAO, VIEWS
from support.tiny_logs import events_of, values_of

from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources.taobao import END, FIRST_SECOND, TaobaoOptions, prepare

pytestmark = pytest.mark.long


def test_views_are_events_and_what_is_not_is_counted(tmp_path):
    dataset, summary = TAOBAO.make(tmp_path)
    assert len(dataset.event_item) == 4 * 5
    assert "no events, by --behaviours: 4 cart, 4 fav, 4 buy" in summary
    assert dataset.meta["split"]["policy"] == "by-time"
    source = dataset.meta["source"]
    assert (source["name"], source["behaviours"]) == ("taobao", ["pv"])
    for item, category in values_of(dataset, "items", "category").items():
        assert category == str(int(item) % 3)


def test_chosen_behaviours_are_events(tmp_path):
    changes = {"behaviours": ("buy", "fav", "cart"), "split": "by-user", "test_share": 0.0}
    dataset, summary = TAOBAO.make(tmp_path, **changes)
    assert events_of(dataset)["0"][:1] == ["1"]
    assert [len(items) for items in events_of(dataset).values()] == [3] * 4
    assert "no events, by --behaviours: 20 pv" in summary


def test_the_first_and_the_last_second_of_the_nine_days_are_inside(tmp_path):
    lines = [f"1,2,0,pv,{FIRST_SECOND}", f"1,3,0,pv,{END - 1}"]
    dataset, _ = TAOBAO.make(tmp_path, {"log.csv": lines}, max_bad_share=0.0)
    assert len(dataset.event_item) == 4 * 5 + 2


def test_a_zip_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "log.csv.zip", "w") as packed:
        packed.writestr("UserBehavior.csv", VIEWS)
    with pytest.raises(UserError, match=r"log\.csv\.zip is a zip archive; unpack it"):
        prepare(TaobaoOptions(source=tmp_path / "log.csv.zip", out=tmp_path / "data"))


# Ali_Display_Ad_Click


@pytest.fixture(scope="module")
def alimama(tmp_path_factory) -> tuple[Dataset, list[str]]:
    """The sample and its summary; ad 10 is described twice."""
    twice = {"ad_feature.csv": ["10,9,9,9,9,9.0"]}
    return ALIMAMA.make(tmp_path_factory.mktemp("alimama"), twice)


def test_impressions_carry_the_features_of_ads_users_and_places(alimama):
    dataset, summary = alimama
    assert values_of(dataset, "items", "brand") == {
        "10": "95471",
        "11": "",
        "12": "95471",
        "20": "",
    }
    category = values_of(dataset, "items", "cate_id")
    assert (category["10"], category["12"]) == ("6406", "7")
    price = dataset.items["price"].values
    rows = {raw: row for row, raw in enumerate(dataset.vocabulary("item"))}
    assert price[rows["10"]] > price[rows["12"]] > price[rows["11"]]
    assert price[rows["20"]] == 0.0, "missing"
    assert values_of(dataset, "users", "new_user_class_level") == {"1": "3", "2": "", "3": ""}
    assert values_of(dataset, "users", "pvalue_level")["2"] == "2"
    assert "1 items of the impressions are not in ad_feature.csv" in summary
    assert "1 users of the impressions are not in user_profile.csv" in summary
    train, places, items = dataset.splits["train"], *map(dataset.vocabulary, ("pid", "item"))
    shown = zip(train.item, train.columns["pid"].values, strict=True)
    assert {(items[item], places[place]) for item, place in shown} == {
        ("10", "4300"),
        ("11", "4301"),
        ("12", "4300"),
        ("20", "4300"),
    }


def test_labels_are_clicks_and_the_last_days_are_held_out(alimama):
    dataset, _ = alimama
    sizes = {name: len(examples.label) for name, examples in dataset.splits.items()}
    assert sizes == {"train": 36, "valid": 6, "test": 6}
    assert all(examples.label.mean() == 0.5 for examples in dataset.splits.values())
    test = dataset.splits["test"]
    assert (test.history_end - dataset.event_offsets[test.sequence] == 7).all()
    assert dataset.meta["split"]["test_from"] == MAY_6 + 7 * DAY


def test_another_split_needs_no_times(tmp_path):
    dataset, _ = ALIMAMA.make(tmp_path, split="last-event")
    assert dataset.meta["split"]["policy"] == "last-event"


def test_an_archive_is_to_be_unpacked(tmp_path):
    ALIMAMA.write(tmp_path / "log")
    (tmp_path / "log" / "ad_feature.csv").rename(tmp_path / "log" / "ad_feature.csv.tar.gz")
    with pytest.raises(UserError, match=r"unpack ad_feature\.csv\.tar\.gz first"):
        ALIMAMA.prepare(ALIMAMA.options(tmp_path / "log", out=tmp_path / "data"))
