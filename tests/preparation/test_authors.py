"""The authors' prepared files: what becomes of their rows, and what is refused."""

import gzip
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.source_samples import AUTHORS, AUTHORS_TEST, AUTHORS_TRAIN, VOCABULARIES
from support.tiny_logs import opened

from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources.authors import AuthorsOptions, prepare, read_vocabulary
from dien_jax.utils.text_files import GZIP_MAGIC

pytestmark = pytest.mark.fast

USERS, ITEMS, CATEGORIES = VOCABULARIES.values()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AUTHORS.write(tmp_path / "files")
    return tmp_path / "files"


def run(folder: Path, out: str = "out", **options: Any) -> tuple[Dataset, list[str]]:
    return opened(prepare, AuthorsOptions(folder, folder.parent / out, **options))


def rows(data: Dataset, split: str) -> list[tuple[Any, ...]]:
    """Examples with raw values: label, group, user, item, history."""
    groups, items, users = data.groups(), data.vocabulary("item"), data.vocabulary("user")
    found, starts = data.splits[split], data.event_offsets
    places = zip(starts[found.sequence], found.history_end, strict=True)
    histories = [[items[event] for event in data.event_item[slice(*place)]] for place in places]
    named = ((groups, found.group), (users, found.user), (items, found.item))
    columns = [[names[row] for row in column] for names, column in named]
    return list(zip(found.label.tolist(), *columns, histories, strict=True))


def known(item: str) -> str:
    return item if item in ITEMS else "default_mid"


def test_rows_and_items_are_those_of_the_files_and_a_user_has_one_history(folder: Path) -> None:
    data, report = run(folder, valid_share=0.0)
    assert rows(data, "train") == [
        (label, user, user, known(item), [known(event) for event in history])
        for label, user, item, history in AUTHORS_TRAIN
    ]
    assert rows(data, "valid") == []
    assert rows(data, "test") == [
        (label, "Eve", "", item, past) for label, _, item, past in AUTHORS_TEST
    ]
    assert report[0] == (
        "8 examples of 4 users for train, 0 examples of 0 users for valid, "
        "2 examples of 1 users for test; 8 events in 5 histories"
    )
    assert data.splits["train"].sequence.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert data.splits["test"].sequence.tolist() == [4, 4]
    assert data.event_offsets.tolist() == [0, 2, 3, 6, 6, 8]
    assert data.event_timestamp.tolist() == [0, 1, 0, 0, 1, 2, 0, 1]
    assert data.vocabulary("item") == list(ITEMS)
    assert data.vocabulary("category") == list(CATEGORIES)
    assert data.items["category"].values.tolist() == [0, 1, 1, 2]


def test_users_of_the_training_split_alone_have_rows(folder: Path) -> None:
    data, _ = run(folder, valid_share=0.25)
    valid = {row[1] for row in rows(data, "valid")}
    assert len(valid) == 1
    trained = [user for user in USERS if user not in valid]
    assert data.vocabulary("user") == ["", *trained]
    assert {(row[1], row[2]) for row in rows(data, "train")} == {(user, user) for user in trained}
    for split in ("valid", "test"):
        assert set(data.splits[split].user.tolist()) == {0}
    assert [row[1] for row in rows(data, "valid")] == [*valid, *valid]


@pytest.mark.long
def test_seed_decides_which_users_are_set_aside(folder: Path) -> None:
    drawn = set()
    for seed in range(4):
        both = [run(folder, f"{k}{seed}", valid_share=0.5, seed=seed)[0] for k in range(2)]
        first, again = (data.splits["valid"].group.tolist() for data in both)
        assert first == again
        drawn.add(tuple(first))
    assert len(drawn) > 1


@pytest.mark.parametrize("valid_share", [0.0, 0.5])
def test_popularity_counts_each_training_event_once(folder: Path, valid_share: float) -> None:
    data, _ = run(folder, valid_share=valid_share)
    expected = dict.fromkeys(ITEMS, 0)
    for label, _, _, item, history in rows(data, "train"):
        for event in [*history, item] if label else []:
            expected[event] += 1
    assert data.popularity.tolist() == list(expected.values())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "voc.pkl"
    index = {"caf\u00e9": 1, "b": 0} | {f"item{number}": number for number in range(2, 300)}
    file.write_bytes(pickle.dumps(index, protocol=protocol))
    assert read_vocabulary(file) == index
    file.write_bytes(gzip.compress(file.read_bytes()))
    assert file.read_bytes().startswith(GZIP_MAGIC)
    assert read_vocabulary(file) == index


@pytest.mark.parametrize(
    "written",
    [
        b"(dp0\nS'A1'\np1\nI1\nsS'caf\\xc3\\xa9'\np2\nL0L\ns.",
        b"\x80\x02}q\x00(U\x02A1q\x01K\x01U\x05caf\xc3\xa9q\x02\x8a\x00u.",
    ],
    ids=["text", "binary"],
)
def test_byte_strings_of_python_2_are_read_as_utf8(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "voc.pkl"
    file.write_bytes(written)
    assert read_vocabulary(file) == {"A1": 1, "caf\u00e9": 0}


class Malicious:
    """Makes a file when it is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused_and_runs_nothing(folder: Path, protocol: int) -> None:
    target = folder.parent / "owned"
    attack = pickle.dumps({"a": 0, "b": Malicious(target)}, protocol=protocol)
    (folder / "uid_voc.pkl").write_bytes(attack)
    with pytest.raises(UserError, match=r"uid_voc\.pkl: .* asks for \w+\.mkdir, and code in a"):
        run(folder)
    assert not target.exists()
    assert not (folder.parent / "out").exists()
    pickle.load(io.BytesIO(attack))
    assert target.exists(), "the attack would have worked"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([("a", 0)], "found list"),
        ({}, "found 0 entries"),
        ({"a": 0.0}, "found 1 entries of str to float"),
        ({"a": False}, "found 1 entries of str to bool"),
        ({b"a": 0}, "found 1 entries of bytes to int|asks for"),
        ({0: 0}, "found 1 entries of int to int"),
        ({"a": {"b": 0}}, "found 1 entries of str to dict"),
        ({"a": 0, "b": 0}, "numbers 0 to n-1, found 2 entries"),
        ({"a": 1, "b": 2}, "numbers 0 to n-1, found 2 entries"),
        ({"a": -1, "b": 0}, "numbers 0 to n-1, found 2 entries"),
        ({"a": 0, "b": 10**5000}, "numbers 0 to n-1, found 2 entries"),
    ],
)
def test_pickle_of_anything_else_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    file = tmp_path / "voc.pkl"
    for protocol in (2, 4):
        file.write_bytes(pickle.dumps(value, protocol=protocol))
        with pytest.raises(UserError, match=rf"voc\.pkl: .*({message})"):
            read_vocabulary(file)


def test_index_0_must_be_the_unknown_item(folder: Path) -> None:
    (folder / "mid_voc.pkl").write_bytes(pickle.dumps({"pear": 0, "default_mid": 1}))
    with pytest.raises(UserError, match="expected index 0 to be 'default_mid', found 'pear'"):
        run(folder)


def test_file_of_rubbish_leaves_no_examples(folder: Path) -> None:
    file = folder / "local_test_splitByUser"
    file.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserError, match=r"local_test_splitByUser: no examples are left for the te"):
        run(folder, max_bad_share=1.0)


def test_missing_folder_and_existing_target_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="absent: expected the folder that holds local_train_split"):
        prepare(AuthorsOptions(folder.parent / "absent", folder.parent / "out"))
    with pytest.raises(UserError, match="files exists already"):
        prepare(AuthorsOptions(folder, folder))


def test_every_event_of_a_training_history_can_be_an_example(folder: Path) -> None:
    given, _ = run(folder, valid_share=0.0)
    more, _ = run(folder, valid_share=0.0, every_event=True, out="more")
    train = rows(more, "train")
    assert train[: len(AUTHORS_TRAIN)] == rows(given, "train")
    added = train[len(AUTHORS_TRAIN) :]
    positives = [row[1:] for row in added if row[0]]
    assert positives == [
        ("Ann", "Ann", "saw", ["pear"]),
        ("Cid", "Cid", "fig", ["default_mid"]),
        ("Cid", "Cid", "fig", ["default_mid", "fig"]),
    ]
    negatives = [row[1:] for row in added if not row[0]]
    assert [row[0] for row in negatives] == ["Ann", "Cid", "Cid"]
    own = {"Ann": {"pear", "saw"}, "Cid": {"fig"}}
    for group, _, item, _ in negatives:
        assert item not in own[group] | {"default_mid"}
    for split in ("valid", "test"):
        assert rows(more, split) == rows(given, split)
