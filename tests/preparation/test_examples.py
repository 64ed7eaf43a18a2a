"""Which events of a log of interactions are training examples."""

import pytest
from support.interaction_logs import HEADER, LOG, make, positives, refused
from support.tiny_logs import write

SHARES = {"by-user": {"valid_share": 0.25, "test_share": 0.25}}


def lengths(dataset, split: str) -> dict[str, list[int]]:
    """Lengths of the histories of each user's positives."""
    found: dict[str, list[int]] = {}
    for user, _, length in positives(dataset, split):
        found.setdefault(user, []).append(length)
    return {user: sorted(values) for user, values in found.items()}


def test_by_user_trains_on_every_event_and_holds_out_last_events(tmp_path):
    dataset, summary = make(write(tmp_path, LOG), split="by-user", **SHARES["by-user"])
    assert list(lengths(dataset, "train").values()) == [[1, 2, 3, 4, 5]] * 2
    for split in ("valid", "test"):
        assert list(lengths(dataset, split).values()) == [[5]]
    assert "10 training examples of 12 events of 2 users (every event)" in summary


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("by-user", {1: [5], 2: [4, 5], 9: [1, 2, 3, 4, 5]}),
        ("last-event", {1: [3], 2: [2, 3], 9: [1, 2, 3]}),
        ("by-time", {1: [3], 2: [2, 3], 9: [1, 2, 3]}),
    ],
)
def test_max_examples_keeps_the_latest_training_events_of_each_user(tmp_path, split, expected):
    file = write(tmp_path, LOG)
    flags = {"split": split, **SHARES.get(split, {})}
    if split == "by-time":
        flags |= {"valid_from": "104", "test_from": "105"}
    every, _ = make(file, out=tmp_path / "every", **flags)
    for most, kept in expected.items():
        dataset, summary = make(file, out=tmp_path / str(most), max_examples=most, **flags)
        found = lengths(dataset, "train")
        assert list(found.values()) == [kept] * len(found)
        assert dataset.popularity.tolist() == every.popularity.tolist()
        for held_out in ("valid", "test"):
            assert positives(dataset, held_out) == positives(every, held_out)
        assert dataset.meta["split"]["max_examples"] == most
        (line,) = [line for line in summary if "training examples" in line]
        assert line.endswith(f"users (the latest {most} events of each user)")


def test_the_summary_counts_the_events_that_training_sees(tmp_path):
    lines = "a,x,c,1\na,y,c,2\na,z,c,3\na,x,c,4\nb,x,c,1\nb,y,c,2\n"
    _, summary = make(write(tmp_path, HEADER + lines))
    assert "1 training examples of 2 events of 1 users (every event)" in summary


def test_a_cap_below_one_is_refused(tmp_path):
    file = write(tmp_path, LOG)
    refused(file, "--max-examples must be at least 1, got 0", max_examples=0)
