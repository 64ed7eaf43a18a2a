"""Small dataset folders: one with every kind of feature, one of many items; and their equality."""

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data.arrays import Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import Column, Feature, Schema
from dien_jax.preparation.writer import DatasetWriter

SCHEMA = Schema(
    item=(
        Feature("item", "categorical", size=4),
        Feature("category", "categorical", size=3),
        Feature("tags", "multivalued", size=5, max_values=2),
        Feature("price", "numeric", mean=10.0, deviation=2.5),
    ),
    user=(
        Feature("user", "categorical", size=3),
        Feature("words", "multivalued", size=2, max_values=3),
    ),
    request=(
        Feature("device", "categorical", size=3),
        Feature("query", "multivalued", size=4, max_values=2),
    ),
)
ITEMS = ["", "pear\nfig", "back\\slash", "\u2028\x00\ud800"]
PEAR, SLASH, ODD = ITEMS[1:]
CONTEXT = {"device": "desk", "query": ["q", "s"]}
"""Values of the features of a request."""


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


FIRST = tempfile.TemporaryDirectory(prefix="dien_jax-folders-")


def once(write: Callable[..., Path]) -> Callable[..., Path]:
    """Write a folder for the first call with some arguments, and copy it for the others."""
    written: dict[str, Path] = {}

    @functools.wraps(write)
    def copied(path: Path, *given: Any, **named: Any) -> Path:
        key = repr((given, sorted(named.items())))
        if key not in written:
            first = Path(FIRST.name) / f"{write.__name__}-{len(written)}"
            written[key] = write(first, *given, **named)
        return Path(shutil.copytree(written[key], path))

    return copied


def write_folder(
    path: Path,
    schema: Schema,
    vocabularies: dict[str, list[str]],
    *,
    groups: list[str],
    events: dict[str, Any],
    popularity: np.ndarray,
    splits: dict[str, Examples],
    items: dict[str, tuple[Any, ...]] | None = None,
    users: dict[str, tuple[Any, ...]] | None = None,
    **notes: Any,
) -> Path:
    """A dataset folder; ``items`` and ``users`` are values, and offsets if any."""
    with DatasetWriter(
        path, schema=schema, source={"name": "test", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        for name, values in vocabularies.items():
            writer.vocabulary(name, values)
        for write_column, columns in ((writer.items, items), (writer.users, users)):
            for name, column in (columns or {}).items():
                write_column(name, *column)
        writer.groups(groups)
        writer.popularity(popularity)
        writer.events(**events)
        for split, examples in splits.items():
            writer.examples(split, examples)
        writer.note(**notes)
    return path


@once
def write(path: Path, **changes: Any) -> Path:
    """A small valid folder, some arguments of ``events`` or of training ``examples`` replaced."""
    events: dict[str, Any] = {"timestamp": ints(5, 7, 7, -3, 9), "offsets": ints(0, 3, 3, 5)}
    examples = {
        "sequence": ints(0, 0, 1, 2),
        "history_end": ints(2, 3, 3, 3),
        "user": ints(1, 1, 2, 0),
        "group": ints(0, 0, 1, 2),
        "item": ints(2, 3, 1, 0),
        "label": ints(1, 0, 1, 0),
        "columns": {
            "device": Column(ints(0, 1, 2, 1), None),
            "query": Column(ints(1, 2, 3, 0), ints(0, 3, 3, 4, 4)),
        },
    }
    events |= {name: value for name, value in changes.items() if name in events}
    examples |= {name: value for name, value in changes.items() if name in examples}
    vocabularies = {
        "item": ITEMS,
        "category": ["", "fruit", "tool"],
        "tags": ["", "a", "b", "c", "d"],
        "user": ["", "Ann", "Bob"],
        "words": ["", "x"],
        "device": ["", "phone", "desk"],
        "query": ["", "q", "r", "s"],
    }
    return write_folder(
        path,
        SCHEMA,
        vocabularies,
        items={
            "category": (ints(0, 1, 1, 2),),
            "tags": (ints(1, 2, 3, 4), ints(0, 0, 3, 3, 4)),
            "price": (np.array([0, 1.5, -2, 0.25]),),
        },
        users={"words": (ints(), ints(0, 0, 0, 0))},
        groups=["Ann", "Bob", "Cid"],
        popularity=ints(1, 1, 2, 1),
        events={"item": ints(1, 2, 2, 3, 0), **events},
        splits={"train": Examples(**examples)},
        extra=[1, 2],
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder and its folders, by name."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def leftovers(parent: Path) -> list[str]:
    return sorted(entry.name for entry in parent.iterdir())


@once
def write_wide(path: Path, seed: int = 0, first: int = 1) -> Path:
    """Users of two tastes; each has its last event and one item of the other taste as targets.

    There are so many items that they have factors; their ids count from ``first``. The first 60
    users are for training, 15 for validation.
    """
    random = np.random.default_rng(seed)
    size, users, events = 60, 90, 6
    likes_second = random.random((users, 1)) < 0.5
    half = size // 2
    low = np.where(likes_second, half, 1)
    items = low + random.integers(0, half - 1, (users, events))
    others = np.where(likes_second, 1, half)[:, 0] + random.integers(0, half - 1, users)
    starts = np.arange(users) * events

    def examples(chosen: np.ndarray) -> Examples:
        twice = np.repeat(chosen, 2)
        return Examples(
            sequence=twice,
            history_end=starts[twice] + events - 1,
            user=twice + 1,
            group=twice,
            item=np.stack([items[chosen, -1], others[chosen]], axis=1).reshape(-1),
            label=np.tile([1, 0], len(chosen)),
        )

    names = [f"u{user}" for user in range(users)]
    item, user = Feature("item", "categorical", size), Feature("user", "categorical", users + 1)
    parts = map(examples, np.split(np.arange(users), [60, 75]))
    return write_folder(
        path,
        Schema((item,), (user,)),
        {"item": ["", *(f"i{first + item}" for item in range(size - 1))], "user": ["", *names]},
        groups=names,
        events={
            "item": items.reshape(-1),
            "timestamp": np.tile(np.arange(events), users),
            "offsets": np.append(starts, items.size),
        },
        popularity=np.bincount(items[:60].reshape(-1), minlength=size),
        splits=dict(zip(("train", "valid", "test"), parts, strict=True)),
    )


def assert_equal(first: Dataset, other: Dataset) -> None:
    """The folders have equal files, but for what ``meta.json`` says of their source and split."""
    ours, theirs = contents(first.path), contents(other.path)
    metas = [json.loads(files.pop("meta.json")) for files in (ours, theirs)]
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert [metas[0][name] == metas[1][name] for name in ("schema", "counts")] == [True, True]
