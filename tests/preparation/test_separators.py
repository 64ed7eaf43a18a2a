"""Lists that are read as one value are recognised, and lists that are cut are reported."""

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
