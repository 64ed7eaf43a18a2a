"""Which events of a log of interactions are training examples, and which items their negatives."""

import numpy as np
import pytest
from support.tiny_logs import HEADER, LOG, make, noise, write


def test_the_summary_says_which_events_are_examples_and_what_their_negatives_are(tmp_path):
    settings = {"split": "by-user", "valid_share": 0.25, "test_share": 0.25}
    _, summary = make(write(tmp_path, LOG), **settings)
    seen = "training sees 12 events of 2 users; its examples are every event with a history"
    assert seen in summary
    assert "negatives of each positive: 1, drawn by popularity" in "".join(summary)
    _, summary = make(write(tmp_path, LOG), out=tmp_path / "latest", max_examples=2, **settings)
    assert "are the latest 2 events of each user with a history" in "".join(summary)


def test_the_summary_counts_the_events_that_training_sees(tmp_path):
    lines = "a,x,c,1\na,y,c,2\na,z,c,3\na,x,c,4\nb,x,c,1\nb,y,c,2\n"
    _, summary = make(write(tmp_path, HEADER + lines))
    assert any(line.startswith("training sees 2 events of 1 users;") for line in summary)


# Negatives as of the time of their positive


def log_of(rows: list[tuple[int, int, int]]) -> str:
    return HEADER + "".join(f"u{user},i{item},c{item},{time}\n" for user, item, time in rows)


def negatives(dataset, split: str) -> list[tuple[int, int, int]]:
    """Row, event of the positive and raw item number (-1 for an unknown one) of each negative."""
    examples, items = dataset.splits[split], dataset.vocabulary("item")
    return [
        (row, int(examples.history_end[row]), int(items[examples.item[row]][1:] or -1))
        for row in np.flatnonzero(examples.label == 0)
    ]


@pytest.mark.long
def test_own_earlier_items_may_be_negatives_when_that_is_asked_for(tmp_path):
    file = write(tmp_path, log_of(noise(users=30, items=12, events=8, seed=4)))
    for allow in (False, True):
        dataset, _ = make(file, out=tmp_path / str(allow), allow_own_negatives=allow)
        examples, names = dataset.splits["train"], dataset.vocabulary("item")
        own = 0
        for row, event, negative in negatives(dataset, "train"):
            start = dataset.event_offsets[examples.sequence[row]]
            own += f"i{negative}" in [names[k] for k in dataset.event_item[start:event]]
            assert f"i{negative}" != names[dataset.event_item[event]]
        assert (own > 10) == allow


@pytest.mark.long
def test_items_unknown_in_training_are_among_the_negatives_of_held_out_examples(tmp_path):
    early = [(user, user * 7 % 10 + k, k) for user in range(40) for k in range(4)]
    late = [(user, 50 + (user + k) % 9, 10 + k) for user in range(40) for k in range(3)]
    times = {"valid_from": "10", "test_from": "11"}
    dataset, _ = make(write(tmp_path, log_of(early + late)), split="by-time", **times)
    assert (dataset.splits["train"].item > 0).all()
    test = dataset.splits["test"]
    assert (test.item[test.label == 1] == 0).all(), "all items of the test are new"
    unknown = (test.item[test.label == 0] == 0).mean()
    assert 0.3 < unknown < 0.6, "80 to 120 of the 240 to 280 events up to then"


@pytest.mark.long
def test_a_training_negative_has_a_training_example_when_training_starts_late(tmp_path):
    old = [(user, 100 + user % 5, 0) for user in range(20)]
    new = [(user, (user * 3 + k) % 7, 10 + k) for user in range(20, 60) for k in range(6)]
    times = {"train_from": "11", "valid_from": "14", "test_from": "15"}
    dataset, _ = make(write(tmp_path, log_of(old + new)), split="by-time", **times)
    assert (dataset.splits["train"].item > 0).all()
    assert "i100" not in dataset.vocabulary("item")


@pytest.mark.long
def test_rare_items_that_share_the_unknown_row_may_be_negatives(tmp_path):
    rows = [(user, (user + k) % 6 if k else 100 + user, k) for user in range(40) for k in range(6)]
    dataset, _ = make(write(tmp_path, log_of(rows)), min_count=5)
    train = dataset.splits["train"]
    assert (train.item[train.label == 0] == 0).any()
