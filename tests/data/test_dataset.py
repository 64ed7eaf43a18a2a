"""The dataset folder: what is written is read back, and damage is refused with its place."""

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import tiny_run
from support.json_files import edit_json
from support.small_dataset import ITEMS, SCHEMA, ints, write

from dien_jax import preparation
from dien_jax.data import arrays, metadata, tables, value_text
from dien_jax.data.arrays import Examples
from dien_jax.data.dataset import Dataset, open_dataset, open_folder
from dien_jax.data.metadata import encoded_lines, escape, unescape
from dien_jax.data.schema import EXAMPLE_COLUMNS, MultiValued
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError
from dien_jax.preparation import memory
from dien_jax.preparation.pipeline import target_negatives
from dien_jax.preparation.reading import log

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data")


def rewrite(file: Path, change: Callable[[np.ndarray], Any]) -> None:
    np.save(file, change(np.load(file)))


def test_what_is_written_is_read_back(folder: Path) -> None:
    data = open_dataset(str(folder))
    assert isinstance(data, Dataset)
    assert data.schema == SCHEMA
    assert data.meta["source"]["name"] == "test"
    assert data.meta["split"] == {"policy": "by-user"}
    assert data.meta["extra"] == [1, 2]
    events = (data.event_item, data.event_timestamp, data.event_offsets, data.popularity)
    written = ([1, 2, 2, 3, 0], [5, 7, 7, -3, 9], [0, 3, 3, 5], [1, 1, 2, 1])
    assert tuple(array.tolist() for array in events) == written
    train = data.splits["train"]
    assert {name: getattr(train, name).tolist() for name in EXAMPLE_COLUMNS} == {
        "sequence": [0, 0, 1, 2],
        "history_end": [2, 3, 3, 3],
        "user": [1, 1, 2, 0],
        "group": [0, 0, 1, 2],
        "item": [2, 3, 1, 0],
        "label": [1, 0, 1, 0],
    }
    assert data.vocabulary("item") == ITEMS
    assert data.vocabulary("user") == ["", "Ann", "Bob"]
    assert data.groups() == ["Ann", "Bob", "Cid"]
    assert [str(array.dtype) for array in (*train[:6], data.popularity)] == [
        "int32", "int64", "int32", "int32", "int32", "int8", "int64",
    ]  # fmt: skip


def test_splits_that_were_not_written_are_empty(folder: Path) -> None:
    valid = open_dataset(folder).splits["valid"]
    assert [len(column) for column in valid[:6]] == [0] * 6
    values = open_dataset(folder).batch_columns("valid", ints(), ints())["query"]
    assert isinstance(values, MultiValued)
    assert values.values.shape == (0, 2)


def test_unknown_split_is_refused_with_the_nearest_name(folder: Path) -> None:
    with pytest.raises(UserError, match=r"split 'tset'; did you mean 'test'\? \(train, valid"):
        open_dataset(folder).splits["tset"]


def test_the_text_of_a_dataset_is_one_line(folder: Path) -> None:
    dataset = open_dataset(folder)
    text = repr(dataset)
    assert "\n" not in text
    assert f"{len(dataset.vocabulary('item')) - 1} items" in text
    assert str(folder) in text
    assert "examples: " in text


def test_large_arrays_are_mapped_and_read_only(folder: Path) -> None:
    data = open_folder(folder, in_memory=0)
    for array in (data.event_item, *data.items["tags"]):
        assert array is not None
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable


def test_tables_pad_and_cut_multivalued_features(folder: Path) -> None:
    data = open_dataset(folder)
    tables, users, *_ = data.feature_tables()
    assert list(tables) == ["category", "tags", "price"]
    assert np.asarray(tables["category"]).tolist() == [0, 1, 1, 2]
    np.testing.assert_array_equal(np.asarray(tables["price"]), np.float32([0, 1.5, -2, 0.25]))
    tags = tables["tags"]
    assert isinstance(tags, MultiValued)
    assert np.asarray(tags.values).tolist() == [[0, 0], [1, 2], [0, 0], [4, 0]]
    assert np.asarray(tags.count).tolist() == [0, 2, 0, 1]
    assert {np.asarray(tags.values).dtype, np.asarray(tags.count).dtype} == {np.dtype("int32")}
    words = users["words"]
    assert isinstance(words, MultiValued)
    assert np.asarray(words.values).tolist() == [[0, 0, 0]] * 3


def test_columns_are_taken_for_the_rows_asked_for(folder: Path) -> None:
    columns = open_dataset(folder).batch_columns("train", ints(2, 0, 0, 3), ints())
    assert np.asarray(columns["device"]).tolist() == [2, 0, 0, 1]
    query = columns["query"]
    assert isinstance(query, MultiValued)
    assert np.asarray(query.values).tolist() == [[0, 0], [1, 2], [1, 2], [0, 0]]
    assert np.asarray(query.count).tolist() == [1, 2, 2, 0]


def test_more_events_than_are_read_at_a_time(tmp_path: Path) -> None:
    """All are written and read, and a fault is found where the next ones begin, and after it."""
    border = arrays.CHUNK_ROWS
    item, offsets = np.arange(border + 3) % tiny_run.ITEMS, ints(0, *[border + 3] * tiny_run.USERS)
    splits = {"train": Examples(*map(ints, (0, 5, 1, 0, 1, 1)))}
    folder = tiny_run.write_events(tmp_path / "data", item, offsets, splits)
    np.testing.assert_array_equal(open_dataset(folder).event_item, item)
    for entry in (border + 1, border):
        rewrite(folder / "events/timestamp/values.npy", lambda t, k=entry: np.where(t == k, 9, t))
        with pytest.raises(UserError, match=f"found {entry - 1} then 9 at entry {entry}"):
            open_dataset(folder)


@given(st.text(st.characters(codec=None)))
def test_escaping_is_reversible_and_leaves_one_printable_line(value: str) -> None:
    line = escape(value)
    assert unescape(line) == value
    assert len(line.splitlines()) <= 1
    line.encode("utf-8")


@pytest.mark.parametrize("special", ["", "a\nb", "\n", "a\\b", "\x85", "\ud800", "\u2028"])
@pytest.mark.parametrize("place", [0, 3, 4, 9])
def test_many_values_are_escaped_as_one_is(special: str, place: int) -> None:
    values = [f"value {number}" for number in range(10)]
    values[place] = special
    lines, counts = zip(*encoded_lines(values, 4), strict=True)
    assert counts == (4, 4, 2)
    assert b"".join(lines) == "".join(f"{escape(value)}\n" for value in values).encode()


INT = np.int32
FAULTS: list[tuple[str, Callable[[np.ndarray], Any], str]] = [
    ("events/item", lambda v: v + 1, "entry 3 should be at least 0 and below 4, found 4"),
    ("events/item", lambda v: v - 1, "entry 4 should be at least 0 and below 4, found -1"),
    ("events/item", lambda v: v[:-1], "expected 5 entries, found 4"),
    ("events/timestamp", lambda v: v[:-1], "expected 5 entries, found 4"),
    ("events/timestamp", lambda v: v[[1, 0, 2, 3, 4]], "oldest first, found 7 then 5 at entry 1"),
    ("items/category", lambda v: v * 2, "entry 3 should be at least 0 and below 3, found 4"),
    ("items/price", lambda v: v[1:], "expected 4 entries, found 3"),
    ("items/price", lambda v: v + np.float32("inf"), "entry 0 should be a finite number"),
    ("items/price", lambda v: v * np.float32("nan"), "entry 0 should be a finite number"),
    ("examples/train/sequence", lambda v: v + 2, "entry 2 should be at least 0 and below 3"),
    ("examples/train/history_end", lambda v: v - 1, "entry 2 .* sequence, 3 to 3, found 2"),
    ("examples/train/history_end", lambda v: v + ints(1, 1, 0, 0), "entry 1 .*, 0 to 3, found 4"),
    ("examples/train/history_end", lambda v: v * 2**60, "found 2305843009213693952"),
    ("examples/train/label", lambda v: v * np.int8(2), "entry 0 .* below 2, found 2"),
    ("examples/train/user", lambda v: v + INT(1), "entry 2 .* below 3, found 3"),
    ("examples/train/user", lambda v: v[:2], "expected 4 entries, found 2"),
    ("examples/train/group", lambda v: v - INT(1), "entry 0 .* below 3, found -1"),
    ("examples/train/item", lambda v: v + INT(1), "entry 1 .* below 4, found 4"),
    ("examples/train/device", lambda v: v + INT(1), "entry 2 .* below 3, found 3"),
    ("examples/train/query", lambda v: v + INT(1), "entry 2 .* below 4, found 4"),
    ("examples/train/item", lambda v: v.astype(np.int64), "one dimension of int32, .* of int64"),
    ("examples/train/item", lambda v: v[:, None], "one dimension of int32, found shape .4, 1."),
    ("examples/train/item", lambda v: v.astype(">i4"), "expected one dimension of int32"),
]


OFFSETS_AND_COUNTS: list[tuple[str, Callable[[np.ndarray], Any], str]] = [
    ("events/offsets", lambda v: v[[0, 2, 1, 3]] + ints(0, 1, 0, 0), "must not fall"),
    ("events/offsets", lambda v: v + 1, "expected offsets from 0 to 5, found 1 to 6"),
    ("events/offsets", lambda v: v[:-1], "expected 4 entries, found 3"),
    ("items/tags/offsets", lambda v: v[[0, 2, 1, 3, 4]], "must not fall, found 3 then 0"),
    ("items/tags/offsets", lambda v: v[[0, 1, 2, 3, 3]], "expected offsets from 0 to 4"),
    ("popularity", lambda v: -v, "entry 0 should be a count of 0 or more, found -1"),
    ("popularity", lambda v: v[1:], "expected 4 entries, found 3"),
    ("statistics/item/count", lambda v: v - INT(1), "entry 0 should be a count of 0 or more"),
    ("statistics/item/other", lambda v: -v, "entry 0 .* below 4, found -2"),
    ("statistics/item/other", lambda v: v + INT(2**30), "entry 0 .* below 4, found 1073741826"),
    ("statistics/item/together", lambda v: -v, "entry 0 should be a count of 0 or more, found -1"),
    ("statistics/item/offsets", lambda v: v - 1, "expected offsets from 0 to 2, found -1 to 1"),
    ("statistics/item/offsets", lambda v: v[[0, 2, 1, 3, 4]], "must not fall, found 1 then 0"),
    ("statistics/item/own", lambda v: v - np.int8(1), "entry 0 .* below 4, found -1"),
    ("statistics/item/own", lambda v: v[:-1], "expected 4 entries, found 3"),
    ("statistics/item/own", lambda v: v.astype("f4"), "one dimension of int8, .* of float32"),
]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [*((f"{name}/values", *fault) for name, *fault in FAULTS), *OFFSETS_AND_COUNTS],
)
def test_values_that_would_fail_silently_later_are_refused(folder, name, change, message) -> None:
    file = folder / f"{name}.npy"
    rewrite(file, change)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(folder)
    assert str(file) in str(error.value)


@pytest.mark.long
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_open_or_are_refused_but_never_crash(folder: Path, data: Any) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files))
    whole = file.read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(damaged)
    try:
        opened = open_dataset(folder)
        opened.feature_tables()
        opened.batch_columns("train", ints(0, 1, 2, 3), ints())
        for name in ("item", "tags", "user", "device"):
            opened.vocabulary(name)
    except UserError:
        pass
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["format_version"], 1, "expected format_version 3, found 1; prepare the data again"),
        (["counts", "events"], 6, "expected offsets from 0 to 6, found 0 to 5"),
        (["counts", "train"], 3, "expected 3 entries, found 4"),
        (["schema", "item", 0, "size"], 3, "expected 3 lines, found 4"),
        (["schema", "item", 1, "kind"], "colour", "expected kind to be one of categorical, mul"),
        (["schema", "item", 1, "colour"], 3, r"item\[1\]: unknown key 'colour'"),
        (["schema", "item", 3, "deviation"], 0, "'price': deviation must be above 0, got 0"),
        (["schema", "request", 0, "name"], "price", "two features are named 'price'"),
        (["schema", "request", 0, "name"], "label", "request feature cannot be named 'label'"),
    ],
)  # fmt: skip
def test_meta_that_makes_no_sense_is_refused(folder, keys, value, message) -> None:
    edit_json(folder / "meta.json", *keys, value=value)
    with pytest.raises(UserError, match=message):
        open_dataset(folder)


def test_what_is_not_a_dataset_folder_is_refused_unsearched(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "rglob", Mock(side_effect=AssertionError))
    (tmp_path / "file").touch()
    for name, message in (
        ("absent", "absent does not exist"),
        (".", r"not a dataset folder: it has no meta\.json"),
        ("file", "file is not a folder"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(tmp_path / name)


NO_TEXT = r"item\.txt: cannot be read as lines of text"
NO_TEXTS = (b"\xff", b"\\", b"\\x", b"a\\n", b"\\u12", b"\\uD800 \\x", b"\\u 123")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(("vocab/item.txt", text + b"\n\n\n\n", NO_TEXT) for text in NO_TEXTS),
        ("groups.txt", b"Ann\nBob\nCi", "expected 3 lines, found 2 and a last one without its"),
    ],
)
def test_texts_that_are_cut_or_no_text_are_refused(folder, name, content, message) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_dataset(folder).vocabulary("item")


def test_id_twice_in_a_vocabulary_is_refused(folder: Path) -> None:
    file = folder / "vocab/user.txt"
    unknown, first, _ = file.read_text().splitlines()
    file.write_text(f"{first}\n{first}\n{unknown}x\n")
    open_dataset(folder)  # the name of the unknown row is not a value
    file.write_text(f"{unknown}\n{first}\n{first}\n")
    with pytest.raises(UserError, match=rf"user\.txt: the value '{first}' occurs twice"):
        open_dataset(folder)
    file.write_text(f"{unknown}\n{first}\n\\u{ord(first[0]):04x}{first[1:]}\n")
    opened = open_dataset(folder)
    with pytest.raises(UserError, match=f"vocabulary of 'user' has the value '{first}' twice"):
        Vocabularies(opened.schema, opened.vocabulary)


MODULES = (metadata, tables, value_text, preparation, memory, log, arrays, target_negatives)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_what_is_not_public_run_too(module: Any, tmp_path: Path, monkeypatch) -> None:
    """`tests/docs/test_examples.py` has those of public names."""
    write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.long
def test_every_file_is_needed(folder: Path) -> None:
    files = {file for file in folder.rglob("*") if file.is_file()}
    assert len(files) > 40
    for file in files:
        moved = file.rename(file.with_name("moved"))
        with pytest.raises(UserError, match=file.name):
            open_dataset(folder)
        moved.rename(file)
    open_dataset(folder)
