"""A log whose events are sorted by item is named as one: models would learn the order."""

import numpy as np
import pytest

from tests.support import tiny_logs

EVENTS, ITEMS = 12, 30


@pytest.mark.parametrize(
    ("at_a_time", "is_sorted", "users", "expected"),
    [
        (3, True, 150, "the events of a user at one time seem sorted"),
        (EVENTS, True, 150, "the events of a user at one time seem sorted"),
        (1, True, 150, "the events of a user seem sorted"),
        (3, False, 150, None),
        (1, False, 150, None),
        (3, True, 2, None),  # too few pairs to tell
    ],
)
def test_events_that_are_sorted_by_item(tmp_path, at_a_time, is_sorted, users, expected) -> None:
    rng = np.random.default_rng(0)
    lines = ["user,item,timestamp"]
    for user in range(users):
        items = rng.permutation(ITEMS)[:EVENTS]
        if is_sorted and at_a_time == 1:
            items = np.sort(items)
        elif is_sorted:
            items = np.sort(items.reshape(-1, at_a_time), axis=1).ravel()
        lines += [f"u{user},i{item:02d},{place // at_a_time}" for place, item in enumerate(items)]
    file = tiny_logs.write(tmp_path, "\n".join(lines) + "\n")
    _, report = tiny_logs.make(file, item_features=())
    found = [line for line in report if "sorted by item" in line]
    assert len(found) == (expected is not None)
    assert all(expected in line and ", 0 did in both orders" in line for line in found)
    assert all("log.sample(frac=1" in line for line in found if at_a_time > 1)


@pytest.mark.parametrize(("copied", "warned"), [(60, True), (40, False)])
def test_events_that_are_there_twice(tmp_path, copied, warned) -> None:
    """A copy may follow other events of its time; the same item at other times is no copy."""
    rows = [f"u{event // 50},i{event % 7},{event % 50 // 4}" for event in range(1000)]
    rows = sorted({*rows})
    report = tiny_logs.make(
        tiny_logs.write(tmp_path, "\n".join(["user,item,timestamp", *rows, *rows[:copied]]) + "\n"),
        item_features=(),
    )[1]
    found = [line for line in report if line.startswith(f"warning: {copied} of {1000 + copied:,}")]
    assert len(found) == warned
