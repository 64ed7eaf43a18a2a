"""Impression logs: whose clicks a row sees, and which split it falls into."""

from pathlib import Path

import numpy as np
import pytest
from support.source_samples import SHOWN as LOG
from support.tiny_logs import events_of, opened, write

from dien_jax.errors import UserError
from dien_jax.preparation.sources.impressions import ImpressionsOptions, prepare

pytestmark = pytest.mark.long

HEADER = "user,item,label,slot,timestamp\n"


def options(file: Path, **changes) -> ImpressionsOptions:
    return ImpressionsOptions(**{"file": file, "out": file.parent / "data", **changes})


def make(file: Path, **changes):
    return opened(prepare, options(file, **changes))


def rows(dataset, split: str) -> list[tuple[str, str, int, list[int]]]:
    """User, item, label and the times of the history of every example."""
    examples, items, groups = dataset.splits[split], dataset.vocabulary("item"), dataset.groups()
    return [
        (
            groups[examples.group[row]],
            items[examples.item[row]],
            int(examples.label[row]),
            dataset.event_timestamp[
                dataset.event_offsets[examples.sequence[row]] : examples.history_end[row]
            ].tolist(),
        )
        for row in range(len(examples.label))
    ]


def test_a_row_sees_the_clicks_of_strictly_smaller_times(tmp_path):
    dataset, summary = make(write(tmp_path, LOG), valid_from="3", test_from="4")
    ann = [row for row in rows(dataset, "train") if row[0] == "ann"]
    assert [row[3] for row in ann] == [[]] * 3 + [[0]] * 3 + [[0, 1]] * 3
    assert [row[2] for row in ann] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert [row[3] for row in rows(dataset, "test")] == [[0, 1, 2, 3]] * 9
    assert events_of(dataset)["ann"][:3] == ["i0", "i4", "i0"]
    assert dataset.popularity.sum() == 9, "clicks of training rows"
    assert any(line.startswith("train: 27 examples of 3 users, 9 positive") for line in summary)
    assert any("9 empty" in line for line in summary)


def test_a_users_first_click_has_an_empty_history_and_users_without_clicks_stay(tmp_path):
    file = write(tmp_path, HEADER + "a,x,1,s,1\nb,x,0,s,1\nb,y,0,s,5\na,y,0,s,5\n")
    dataset, _ = make(file, valid_from="2", test_from="2")
    assert np.diff(dataset.event_offsets).tolist() == [1, 0]
    assert rows(dataset, "train") == [("a", "x", 1, []), ("b", "x", 0, [])]
    assert rows(dataset, "test") == [("a", "", 0, [1]), ("b", "", 0, [])]


def test_last_event_holds_out_whole_requests(tmp_path):
    dataset, _ = make(write(tmp_path, LOG), split="last-event")
    sizes = {name: len(examples.label) for name, examples in dataset.splits.items()}
    assert sizes == {"train": 27, "valid": 9, "test": 9}
    assert all(len(row[3]) == 4 for row in rows(dataset, "test"))


def test_by_user_holds_out_all_rows_of_a_user(tmp_path):
    dataset, _ = make(write(tmp_path, LOG), split="by-user", valid_share=0.3, test_share=0.3)
    users = [{row[0] for row in rows(dataset, name)} for name in ("train", "valid", "test")]
    assert [len(group) for group in users] == [1, 1, 1]
    assert len(set.union(*users)) == 3
    assert dataset.vocabulary("user") == ["", *users[0]]


def test_context_features_follow_their_rows(tmp_path):
    header = "user,item,label,slot,price,tags,timestamp\n"
    lines = ["a,x,0,top,10,p|q,1", "a,y,1,low,30,,1", "b,x,0,top,,q,2", "b,y,0,new,70,z|q,9"]
    dataset, _ = make(
        write(tmp_path, header + "\n".join(lines)),
        context_features=("slot", "price:numeric", "tags:multivalued"),
        valid_from="5",
        test_from="8",
    )
    assert dataset.vocabulary("slot") == ["", "top", "low"]
    assert dataset.vocabulary("tags") == ["", "q", "p"]
    train, test = dataset.splits["train"].context, dataset.splits["test"].context
    assert train["slot"].values.tolist() == [1, 2, 1]
    assert train["price"].values.tolist() == [-1.0, 1.0, 0.0]
    assert train["tags"].values.tolist() == [2, 1, 1]
    assert train["tags"].offsets.tolist() == [0, 2, 2, 3]
    assert test["slot"].values.tolist() == [0]
    assert test["price"].values.tolist() == [5.0]
    assert test["tags"].values.tolist() == [0, 1]
    price = dataset.schema.context[1]
    assert (price.mean, price.deviation) == (20.0, 10.0)


def test_min_count_counts_training_rows(tmp_path):
    lines = "a,x,0,s,1\na,x,0,s,2\na,y,1,s,3\nb,z,1,s,4\n"
    dataset, _ = make(write(tmp_path, HEADER + lines), min_count=2, valid_from="5", test_from="5")
    assert dataset.vocabulary("item") == ["", "x"]
    assert dataset.vocabulary("user") == ["", "a"]
    assert dataset.popularity.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label": "click"}, r"no column 'click' \(--label\)"),
        ({"context_features": ("hour",)}, r"no column 'hour' \(--context-features\)"),
        ({"valid_from": "0", "test_from": "1"}, "no training examples: --split by-time leaves"),
    ],
)
def test_what_cannot_be_prepared_is_told(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        prepare(options(write(tmp_path, LOG), **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("name", ["label", "sequence"])
def test_a_context_feature_cannot_take_the_name_of_a_column(tmp_path, name):
    with pytest.raises(UserError, match="that name is taken by a column of every example"):
        options(tmp_path / "log.csv", context_features=(name,))


def test_a_column_is_found_by_its_exact_case(tmp_path):
    header, *lines = LOG.splitlines()
    others = [f"User,{header},ITEM", *(f"other,{line},other" for line in lines)]
    dataset, _ = make(write(tmp_path, "\n".join(others)), valid_from="3", test_from="4")
    assert sorted(dataset.groups()) == ["ann", "bob", "cat"]
    assert "other" not in dataset.vocabulary("item")
