"""Datasets in several parts: what is read does not depend on how they are divided."""

import dataclasses
import doctest
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import small_dataset, tiny_run
from support.small_dataset import as_array, in_parts, ints

from dien_jax.config.settings import TrainConfig
from dien_jax.data import columns
from dien_jax.data.columns import ChainedArray, windows
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.digests import data_digest, table_digests, vocabulary_digests
from dien_jax.data.loader import Loader
from dien_jax.data.metadata import EXAMPLE_COLUMNS, SPLITS
from dien_jax.data.schema import MultiValued
from dien_jax.data.vocabularies import UserEvents
from dien_jax.errors import UserError
from dien_jax.statistics.features import count_training_events, factorise_training_events

pytestmark = pytest.mark.fast

DIVISIONS = {"two": [11], "five": [3, 4, 17, 26], "empty": [0, 9, 9, 9, 30]}
"""Sequences before which the parts of the folder of 30 sequences begin."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny_run.write_data(folder / "unsorted", shown=True)
    return in_parts(folder / "unsorted", folder / "data", [])


@pytest.fixture(scope="module", params=DIVISIONS, ids=str)
def divided(whole: Path, request: pytest.FixtureRequest) -> Path:
    out = whole.parent / request.param
    return in_parts(whole, out, DIVISIONS[request.param])


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """The small folder with every kind of feature, a sequence in each of its parts."""
    return in_parts(small_dataset.write(tmp_path / "whole"), tmp_path / "data", [1, 2])


def arrays(dataset: Dataset) -> dict[str, list[np.ndarray]]:
    """Everything that is read from the parts of a folder."""
    found = {
        name: [np.asarray(getattr(dataset, f"event_{name}"))]
        for name in ("item", "timestamp", "offsets")
    }
    if dataset.event_negatives is not None:
        found["negatives"] = as_array(dataset.event_negatives)
    for split, examples in dataset.splits.items():
        for name in EXAMPLE_COLUMNS:
            found[f"{split} {name}"] = [np.asarray(getattr(examples, name))]
        for name, column in examples.context.items():
            found[f"{split} {name}"] = as_array(column)
        if examples.probability is not None:
            found[f"{split} probability"] = [np.asarray(examples.probability)]
    return found


def test_several_parts_are_read_as_one(whole: Path, divided: Path) -> None:
    one, several = open_dataset(whole), open_dataset(divided)
    assert isinstance(several.event_item, ChainedArray)
    assert len(several.event_item.parts) == len(several.meta["parts"]) > 1
    assert several.meta["counts"] == one.meta["counts"]
    assert several.groups() == one.groups()
    expected, found = arrays(one), arrays(several)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda a: a.dtype, found) == jax.tree.map(lambda a: a.dtype, expected)


def test_features_of_every_kind_are_read_as_one(tmp_path: Path, three: Path) -> None:
    one, several = open_dataset(tmp_path / "whole"), open_dataset(three)
    expected, found = arrays(one), arrays(several)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert list(several.splits["train"].context) == ["device", "query"]
    rows = ints(3, 0, 0, 2)
    for dataset in (one, several):
        query = dataset.context_rows("train", rows)["query"]
        assert isinstance(query, MultiValued)
        assert np.asarray(query.values).tolist() == [[0, 0], [1, 2], [1, 2], [0, 0]]
        assert dataset.splits["train"].take(rows).item.tolist() == [0, 2, 2, 1]


def test_digests_do_not_depend_on_the_parts(whole: Path, divided: Path) -> None:
    one, several = open_dataset(whole), open_dataset(divided)
    assert data_digest(several) == data_digest(one)
    assert vocabulary_digests(several) == vocabulary_digests(one)
    assert table_digests(several, statistics=True) == table_digests(one, statistics=True)


@pytest.mark.parametrize("order", ["shuffled", "keyed", "sorted", "evaluation"])
def test_batches_do_not_depend_on_the_parts(whole: Path, divided: Path, order: str) -> None:
    options = TrainConfig(batch_size=16, buckets=(2, 4), max_history=6)
    given: Any = {"seed": 3, "shown_per_step": 2, "statistics": True, "order": order}
    for number in (0, 1):
        one, several = (
            Loader(open_dataset(folder), "train", options, part=(number, 2), **given)
            for folder in (whole, divided)
        )
        assert several.padded_lengths == one.padded_lengths
        assert several.cut_histories == one.cut_histories > 0
        for step in range(one.steps_per_epoch):
            expected, found = one.batch(1, step), several.batch(1, step)
            jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_events_of_users_do_not_depend_on_the_parts(whole: Path, divided: Path) -> None:
    one, several = (UserEvents(open_dataset(folder)) for folder in (whole, divided))
    for user in range(tiny_run.USERS):
        for time in (None, 5, 50):
            assert several.find(f"u{user}", time) == one.find(f"u{user}", time)


def test_statistics_and_factors_do_not_depend_on_the_parts(tmp_path: Path) -> None:
    one = open_dataset(in_parts(small_dataset.write_wide(tmp_path / "data"), tmp_path / "one", []))
    for number, borders in enumerate([[40], [0, 1, 59, 59, 88]]):
        several = open_dataset(in_parts(tmp_path / "data", tmp_path / str(number), borders))
        computed = dataclasses.replace(
            several,
            statistics=count_training_events(several),
            factors=factorise_training_events(several),
        )
        for dataset in (several, computed):
            for name, counts in one.statistics.values.items():
                jax.tree.map(np.testing.assert_array_equal, dataset.statistics.values[name], counts)
            for bits, expected in zip(dataset.statistics.own, one.statistics.own, strict=True):
                np.testing.assert_array_equal(np.asarray(bits), np.asarray(expected))
            for name, vectors in one.factors.items():
                jax.tree.map(np.testing.assert_array_equal, dataset.factors[name], vectors)


def test_events_before_validation_count_part_by_part(tmp_path: Path) -> None:
    data = tiny_run.write_data(tmp_path / "data", sizes={"train": 8})
    split = {"train_from": 1, "valid_from": 60}
    one, several = (
        count_training_events(dataclasses.replace(dataset, meta=dataset.meta | {"split": split}))
        for dataset in (open_dataset(data), open_dataset(in_parts(data, tmp_path / "in", [2, 9])))
    )
    assert 8 < one.values["item"].sequences < tiny_run.USERS
    for name, counts in one.values.items():
        jax.tree.map(np.testing.assert_array_equal, several.values[name], counts)


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("events/item/values", ints(9), "entry 0 should be at least 0 and below 4, found 9"),
        ("events/offsets", ints(0, 2), "expected offsets from 3 to 5, found 0 to 2"),
        ("events/negatives/offsets", ints(0, 1), "expected 3 entries, found 2"),
        ("examples/train/sequence/values", ints(1), "at least 2 and below 3, found 1"),
        ("examples/train/group/values", ints(1), "at least 2 and below 3, found 1"),
        ("examples/train/history_end/values", ints(2), "within its sequence, 3 to 5, found 2"),
        ("examples/train/query/offsets", ints(1, 1), "expected offsets from 0 to 0, found 1 to 1"),
        ("statistics/item/own", ints(9), "at least 0 and below 8, found 9"),
    ],
)
def test_damage_is_named_with_its_part(
    three: Path, file: str, rows: np.ndarray, message: str
) -> None:
    path = three / "parts" / "00002" / f"{file}.npy"
    stored = np.load(path)
    values = rows if len(rows) > 1 else np.resize(rows, len(stored))
    np.save(path, values.astype(stored.dtype))
    with pytest.raises(UserError, match=message) as error:
        open_dataset(three)
    assert str(path) in str(error.value)


@pytest.mark.long
def test_every_file_is_needed(three: Path) -> None:
    files = {file for file in three.rglob("*") if file.is_file()}
    assert len([file for file in files if file.is_relative_to(three / "parts")]) > 60
    for file in files:
        if file.parent.name == "probability" and file.parent.parent.name != "train":
            continue
        moved = file.rename(file.with_name("moved"))
        with pytest.raises(UserError, match=file.name):
            open_dataset(three)
        moved.rename(file)
    open_dataset(three)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, "missing required field 'parts'"),
        ([], "expected parts, the counts of each part, found none"),
        ([{}], r"missing required field 'sequences' - at '\$.parts\[0\]'"),
        ("1", r"Expected 'array', got 'str' - at '\$.parts'"),
        (slice(2), "counts.sequences should be 2, the sum of those of the parts, found 3"),
    ],
)
def test_wrong_counts_of_parts_are_refused(three: Path, parts: Any, message: str) -> None:
    meta = json.loads((three / "meta.json").read_text())
    meta["parts"] = meta["parts"][parts] if isinstance(parts, slice) else parts
    if parts is None:
        del meta["parts"]
    (three / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message) as error:
        open_dataset(three)
    assert str(three / "meta.json") in str(error.value)


def test_a_part_with_the_counts_of_another_is_named(three: Path) -> None:
    meta = json.loads((three / "meta.json").read_text())
    meta["parts"] = meta["parts"][::-1]
    (three / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"parts/00000/events/offsets\.npy: expected offsets from"):
        open_dataset(three)


CHAIN = ChainedArray(
    [np.arange(0), np.arange(5), np.arange(0), np.arange(2), np.arange(4)], [7, 0, 7, 5, 7]
)
"""The numbers from 0 on."""


def test_a_chained_array_is_indexed_as_one_array() -> None:
    whole = np.arange(11)
    assert np.asarray(CHAIN).tolist() == whole.tolist()
    assert (len(CHAIN), CHAIN.size, CHAIN.shape, CHAIN.ndim) == (11, 11, (11,), 1)
    assert CHAIN.dtype == whole.dtype
    assert list(CHAIN) == whole.tolist()
    random = np.random.default_rng(0)
    keys: list[Any] = [0, -1, np.int32(7), whole % 3 == 0, [2, 9], ints(), ints(-1, -11, 4)]
    keys += [slice(None), slice(5, 7), slice(3, -2), slice(9, 2), slice(None, None, -2)]
    keys += [random.integers(-11, 11, shape) for shape in (20, (4, 5), (2, 0), ())]
    for key in keys:
        np.testing.assert_array_equal(CHAIN[key], whole[key], strict=True)


@pytest.mark.parametrize("key", [11, -12, ints(0, 11), ints(-12), np.zeros(3, bool)])
def test_rows_outside_a_chained_array_are_refused(key: Any) -> None:
    with pytest.raises(IndexError):
        CHAIN[key]


def test_a_slice_within_a_part_is_a_view() -> None:
    part = np.arange(3)
    assert np.shares_memory(ChainedArray([np.arange(2), part])[3:5], part)


def test_there_is_no_arithmetic_with_a_chained_array() -> None:
    for compute in (lambda: CHAIN == 1, lambda: np.arange(11) - CHAIN, lambda: np.add(CHAIN, 1)):
        with pytest.raises(TypeError):
            compute()
    with pytest.raises(ValueError, match="has to be copied"):
        np.asarray(CHAIN, copy=False)


def test_windows_within_a_part_are_those_of_one_array() -> None:
    first = ints(3, 5, 0, 6, 4, 10)
    live = ints(2, 2, 3, 1, 1, 1)[:, None] > np.arange(3)
    expected = windows(np.arange(11), first, 3)
    np.testing.assert_array_equal(windows(CHAIN, first, 3)[live], expected[live])


def test_examples_in_docstrings_run() -> None:
    assert doctest.testmod(columns).failed == 0


def test_splits_have_examples_in_every_kind_of_part(divided: Path) -> None:
    """So that the tests above mean something."""
    counts = open_dataset(divided).meta["parts"]
    for split in SPLITS:
        assert sum(part[split] > 0 for part in counts) > 1
