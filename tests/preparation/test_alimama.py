"""Ali_Display_Ad_Click: three files become impressions with features."""

from pathlib import Path

import pytest
from support.source_samples import ADS, ALIMAMA, DAY
from support.source_samples import MAY_6 as FIRST
from support.tiny_logs import opened, values_of

from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources.alimama import AlimamaOptions, prepare

pytestmark = pytest.mark.long

FILES = ALIMAMA.files


def write(folder: Path, **changes: str | None) -> Path:
    for name, text in {**FILES, **{f"{key}.csv": text for key, text in changes.items()}}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def make(folder: Path, **changes) -> tuple[Dataset, list[str]]:
    return opened(prepare, AlimamaOptions(source=folder, out=folder / "data", **changes))


def test_impressions_carry_the_features_of_ads_users_and_places(tmp_path):
    dataset, summary = make(write(tmp_path))
    assert values_of(dataset, "items", "brand") == {
        "10": "95471",
        "11": "",
        "12": "95471",
        "20": "",
    }
    assert values_of(dataset, "items", "cate_id")["12"] == "7"
    price = dataset.items["price"].values
    rows = {raw: row for row, raw in enumerate(dataset.vocabulary("item"))}
    assert price[rows["10"]] > price[rows["12"]] > price[rows["11"]]
    assert price[rows["20"]] == 0.0, "missing"
    assert values_of(dataset, "users", "new_user_class_level") == {"1": "3", "2": "", "3": ""}
    assert values_of(dataset, "users", "pvalue_level")["2"] == "2"
    assert "1 items of the impressions are not in ad_feature.csv" in summary
    assert "1 users of the impressions are not in user_profile.csv" in summary
    train, places, items = dataset.splits["train"], *map(dataset.vocabulary, ("pid", "item"))
    shown = zip(train.item, train.context["pid"].values, strict=True)
    assert {(items[item], places[place]) for item, place in shown} == {
        ("10", "4300"),
        ("11", "4301"),
        ("12", "4300"),
        ("20", "4300"),
    }


def test_labels_are_clicks_and_the_last_days_are_held_out(tmp_path):
    dataset, _ = make(write(tmp_path))
    sizes = {name: len(examples.label) for name, examples in dataset.splits.items()}
    assert sizes == {"train": 36, "valid": 6, "test": 6}
    assert all(examples.label.mean() == 0.5 for examples in dataset.splits.values())
    test = dataset.splits["test"]
    assert (test.history_end - dataset.event_offsets[test.sequence] == 7).all()
    assert dataset.meta["split"]["test_from"] == FIRST + 7 * DAY
    assert dataset.meta["source"]["name"] == "alimama"
    assert sorted(dataset.meta["source"]["files"]) == sorted(FILES)


def test_another_split_needs_no_times(tmp_path):
    dataset, _ = make(write(tmp_path), split="last-event")
    assert dataset.meta["split"]["policy"] == "last-event"


def test_an_ad_that_is_described_twice_is_shown_once(tmp_path):
    dataset, _ = make(write(tmp_path, ad_feature=ADS + "10,9,9,9,9,9.0\n"))
    assert sum(len(examples.label) for examples in dataset.splits.values()) == 48
    assert values_of(dataset, "items", "cate_id")["10"] == "6406"


def test_an_archive_is_to_be_unpacked(tmp_path):
    write(tmp_path, ad_feature=None)
    (tmp_path / "ad_feature.csv.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"unpack ad_feature\.csv\.tar\.gz first"):
        make(tmp_path)
