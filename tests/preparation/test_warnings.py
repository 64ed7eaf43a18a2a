"""What a summary warns of: lists read as one value or cut, events sorted by item or doubled."""

import numpy as np
import pytest
from support.tiny_logs import make, write

from dien_jax.preparation.sources import taobao

pytestmark = pytest.mark.long

HEADER = "user,item,attributes,timestamp\n"


def log(values: list[str]) -> str:
    """A log in which item k has the value k."""
    return HEADER + "".join(
        f'u{user},i{k},"{value}",{k}\n' for user in range(3) for k, value in enumerate(values)
    )


def warnings(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("values", "kind", "lists", "example"),
    [
        (["7", "274|164|163", "164|163", "8"], "", 2, "274|164|163"),
        (["a;b", "b;c", "c", "a;d"], ":multivalued", 3, "a;b"),
        (["['a', 'b']", "['b']", "c", "[d"], ":multivalued", 2, "['a', 'b']"),
        (["a|b", "b|c"] * 3, ":multivalued", 0, ""),
        (["Video Games", "Grocery & Gourmet Food", "Toys", "Books"], "", 0, ""),
        (["Tools, Home", "Pet Supplies, Cats", "Office", "Patio, Garden"], "", 0, ""),
        (["a|b", *(f"value {k}" for k in range(9))], "", 0, ""),
        ([""] * 5, "", 0, ""),
    ],
    ids=["lists", "another separator", "texts", "known lists", "names", "commas", "rare", "empty"],
)
def test_values_that_look_like_lists_are_reported(tmp_path, capsys, values, kind, lists, example):
    make(write(tmp_path, log(values)), item_features=(f"attributes{kind}",))
    expected = (
        f"warning: --item-features attributes: {lists} of 4 different values look like lists, for "
        f"example {example!r}, and each is one value; lists need --item-features "
        "attributes:multivalued and their --separator"
    )
    assert warnings(capsys) == [expected] * bool(lists)


def test_columns_of_published_sets_are_not_questioned(tmp_path, capsys):
    first = taobao.FIRST_SECOND
    lines = [f"{user},{k},a|b{k % 3},pv,{first + k}" for user in range(3) for k in range(9)]
    file = write(tmp_path, "\n".join(lines) + "\n")
    taobao.prepare(taobao.TaobaoOptions(source=file, out=tmp_path / "data"))
    assert warnings(capsys) == []


def test_cut_lists_are_counted_after_their_repeats_are_gone(tmp_path):
    values = ["a|b|c|d", "a|b|a|b|a|b", "c|c|c|a|d|b", "a", ""]
    _, summary = make(
        write(tmp_path, log(values)), item_features=("attributes:multivalued",), max_values=2
    )
    line = "attributes: 2 of 4 cells hold more than 2 values and keep the first ones (--max-values)"
    assert line in summary
    settings = {"item_features": ("attributes:multivalued",), "out": tmp_path / "whole"}
    assert "--max-values" not in "".join(make(tmp_path / "log.csv", **settings)[1])


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
    file = write(tmp_path, "\n".join(lines) + "\n")
    _, report = make(file, item_features=())
    found = [line for line in report if "sorted by item" in line]
    assert len(found) == (expected is not None)
    assert all(expected in line and ", 0 did in both orders" in line for line in found)
    assert all("log.sample(frac=1" in line for line in found if at_a_time > 1)


@pytest.mark.parametrize(("copied", "warned"), [(60, True), (40, False)])
def test_events_that_are_there_twice(tmp_path, copied, warned) -> None:
    """A copy may follow other events of its time; the same item at other times is no copy."""
    rows = [f"u{event // 50},i{event % 7},{event % 50 // 4}" for event in range(1000)]
    rows = sorted({*rows})
    report = make(
        write(tmp_path, "\n".join(["user,item,timestamp", *rows, *rows[:copied]]) + "\n"),
        item_features=(),
    )[1]
    found = [line for line in report if line.startswith(f"warning: {copied} of {1000 + copied:,}")]
    assert len(found) == warned
