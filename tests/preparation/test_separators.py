"""Lists that are read as one value are recognised, and lists that are cut are told."""

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


def warnings(tmp_path, capsys, values: list[str], **changes) -> list[str]:
    make(write(tmp_path, log(values)), item_features=("attributes",), **changes)
    out, err = capsys.readouterr()
    assert "warning" not in out
    return [line for line in err.splitlines() if line.startswith("warning: ")]


def test_the_column_an_example_and_the_flag_are_named(tmp_path, capsys):
    (line,) = warnings(tmp_path, capsys, ["7", "274|164|163", "164|163", "8"])
    assert line == (
        "warning: --item-features attributes: 2 of 4 different values hold '|', for example "
        "'274|164|163', and each is one category; if they are lists, give "
        "--item-features attributes:multivalued"
    )


def test_the_separator_that_was_given_is_not_repeated(tmp_path, capsys):
    (line,) = warnings(tmp_path, capsys, ["a;b", "b;c", "c", "a"], separator=";")
    assert line.endswith("give --item-features attributes:multivalued")


@pytest.mark.parametrize(
    "values",
    [
        ["Video Games", "Grocery & Gourmet Food", "Toys", "Musical Instruments", "Books"],
        ["Tools, Home", "Pet Supplies, Cats", "Office", "Patio, Garden"],
        ["plain"] * 6,
        ["a|b", *(f"value {k}" for k in range(9))],
        [""] * 5,
    ],
    ids=["names", "names with commas", "one value", "a rare sign", "no values"],
)
def test_names_are_no_lists(tmp_path, capsys, values):
    assert warnings(tmp_path, capsys, values) == []


def test_lists_of_another_separator_are_recognised(tmp_path, capsys):
    log_file = write(tmp_path, log(["a;b", "b;c", "c", "a;d"]))
    make(log_file, item_features=("attributes:multivalued",))
    warning = (
        "warning: --item-features attributes: 3 of 4 different values hold ';', for example 'a;b', "
        "and each is one value, as the separator is '|'; if they are lists, give --separator ';'"
    )
    assert warning in capsys.readouterr().err.splitlines()


def test_lists_that_were_named_so_are_quiet(tmp_path, capsys):
    make(write(tmp_path, log(["a|b", "b|c"] * 3)), item_features=("attributes:multivalued",))
    assert "warning" not in capsys.readouterr().err


def test_columns_of_published_sets_are_not_questioned(tmp_path, capsys):
    first = taobao.FIRST_SECOND
    lines = [f"{user},{k},a|b{k % 3},pv,{first + k}" for user in range(3) for k in range(9)]
    file = write(tmp_path, "\n".join(lines) + "\n")
    taobao.prepare(taobao.TaobaoOptions(source=file, out=tmp_path / "data"))
    assert "warning" not in capsys.readouterr().err


def test_cut_lists_are_counted_after_their_repeats_are_gone(tmp_path):
    values = ["a|b|c|d", "a|b|a|b|a|b", "c|c|c|a|d|b", "a", ""]
    dataset, summary = make(
        write(tmp_path, log(values)), item_features=("attributes:multivalued",), max_values=2
    )
    line = "attributes: 2 of 4 cells hold more than 2 values and keep the first ones (--max-values)"
    assert line in summary
    words, column = dataset.vocabulary("attributes"), dataset.items["attributes"]
    kept = {
        name: [words[k] for k in column.values[column.offsets[row] : column.offsets[row + 1]]]
        for row, name in enumerate(dataset.vocabulary("item"))
    }
    assert (kept["i0"], kept["i1"], kept["i2"]) == (["a", "b"], ["a", "b"], ["c", "a"])
    _, summary = make(
        write(tmp_path, log(values)),
        item_features=("attributes:multivalued",),
        out=tmp_path / "whole",
    )
    assert not any("--max-values" in line for line in summary)
