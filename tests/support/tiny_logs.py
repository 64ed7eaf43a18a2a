"""Small logs: of interactions, with every kind of column, and of pure noise for each source."""

import json
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources import amazon, interactions, movielens, taobao
from dien_jax.preparation.sources.interactions import InteractionsOptions, prepare

HEADER = "user,item,category,timestamp\n"
LOG = HEADER + "".join(
    f"{user},i{(7 * number + shift) % 11},c{(7 * number + shift) % 11 % 3},{100 + number}\n"
    for shift, user in enumerate(["ann", "bob", "cat", "dan"])
    for number in range(6)
)
SPLITS = {
    "last-event": {"split": "last-event"},
    "by-user": {"split": "by-user", "valid_share": 0.2, "test_share": 0.2, "max_examples": 2},
    "by-time": {"split": "by-time", "valid_share": 0.2, "test_share": 0.2},
    "train-from": {"split": "by-time", "train_from": "20", "valid_from": "60", "test_from": "80"},
}
FIRST = taobao.FIRST_SECOND
LENGTH = taobao.END - taobao.FIRST_SECOND
SOURCES = ("interactions", "amazon", "movielens", "taobao")


def write(tmp_path: Path, content: str | bytes, name: str = "log.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def events_of(dataset: Dataset) -> dict[str, list[str]]:
    """Raw items of every raw user, in order."""
    items = dataset.vocabulary("item")
    return {
        user: [items[k] for k in dataset.event_item[start:end]]
        for user, (start, end) in zip(
            dataset.groups(), pairwise(dataset.event_offsets), strict=True
        )
    }


def values_of(dataset: Dataset, group: str, name: str) -> dict[str, str | list[str]]:
    """Raw values of a feature of ``items`` or ``users`` by raw id, lists of multi-valued ones."""
    (values, offsets), names = getattr(dataset, group)[name], dataset.vocabulary(name)
    texts = [names[value] for value in values]
    if offsets is not None:
        texts = [texts[start:end] for start, end in pairwise(offsets)]
    raws = dataset.vocabulary(group.removesuffix("s"))
    return {raw: text for raw, text in zip(raws, texts, strict=True) if raw}


def opened(prepare, options) -> tuple[Dataset, list[str]]:
    """The dataset that a source makes, and the summary."""
    summary = prepare(options)
    return open_dataset(options.out), summary


def options(file: Path, **changes) -> InteractionsOptions:
    return InteractionsOptions(
        **{"file": file, "out": file.parent / "data", "item_features": ("category",), **changes}
    )


def make(file: Path, **changes):
    """The dataset of a log, and the summary."""
    return opened(prepare, options(file, **changes))


def refused(file: Path, match: str, **changes) -> None:
    """Preparing fails with the message and leaves nothing behind."""
    before = {path.name for path in file.parent.iterdir()}
    with pytest.raises(UserError, match=match):
        prepare(options(file, **changes))
    assert {path.name for path in file.parent.iterdir()} == before


def log_of(path: Path) -> Path:
    """Write a log with ties, users of one event, one long history, lists and missing numbers.

    Its rows are in no order.
    """
    random = np.random.default_rng(0)
    header, lines = "user,item,kind,tags,price,slot,mood,timestamp,label", list[str]()
    for user in range(30):
        count = 60 if user == 7 else int(random.integers(1, 9))
        for time in random.integers(0, 100, count):
            item = int(random.zipf(1.5)) % 40
            tags = "|".join(f"t{tag}" for tag in random.integers(0, 9, random.integers(0, 6)))
            price = "" if random.random() < 0.2 else f"{random.normal():.3f}"
            slot = "|".join(f"s{slot}" for slot in random.integers(0, 5, random.integers(0, 4)))
            fields = (f"u{user}", f"i{item}", f"k{item % 5}", tags, price, slot, f"m{time % 3}")
            lines.append(",".join((*fields, str(time), str(int(random.random() < 0.4)))))
    return write(path, "\n".join([header, *random.permutation(lines), ""]))


def noise(users: int, items: int, events: int, seed: int) -> list[tuple[int, int, int]]:
    """User, item and time of events: each user's items are distinct, all times random."""
    rng = np.random.default_rng(seed)
    return [
        (user, int(item), int(time))
        for user in range(users)
        for item, time in zip(
            rng.permutation(items)[:events],
            FIRST + rng.choice(LENGTH, events, replace=False),
            strict=True,
        )
    ]


def prepared(source: str, rows: list[tuple[int, int, int]], folder: Path, **settings) -> Dataset:
    """The dataset that a source makes of the events."""
    settings |= {"out": folder / "data"}
    if source == "interactions":
        lines = ["user,item,timestamp", *(f"{u},{i},{t}" for u, i, t in rows)]
        log = write(folder, "\n".join(lines) + "\n")
        interactions.prepare(interactions.InteractionsOptions(file=log, **settings))
    elif source == "taobao":
        log = write(folder, "".join(f"{u},{i},{i % 3},pv,{t}\n" for u, i, t in rows))
        taobao.prepare(taobao.TaobaoOptions(source=log, **settings))
    elif source == "amazon":
        names = ("reviewerID", "asin", "unixReviewTime")
        records = [
            dict(zip(names, (str(u), str(i), t), strict=True)) | {"overall": 5.0}
            for u, i, t in rows
        ]
        reviews = write(folder, "\n".join(map(json.dumps, records)) + "\n", "reviews.json")
        meta = write(folder, "{'asin': '0', 'categories': [['a']]}\n", "meta.json")
        amazon.prepare(amazon.AmazonOptions(reviews=reviews, meta=meta, **settings))
    else:
        archive = folder / "ml-25m.zip"
        ratings = ["userId,movieId,rating,timestamp", *(f"{u},{i},5.0,{t}" for u, i, t in rows)]
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("ml-25m/ratings.csv", "\n".join(ratings) + "\n")
            packed.writestr("ml-25m/movies.csv", "movieId,title,genres\n0,A,Drama\n")
        movielens.prepare(movielens.MovielensOptions(name="25m", source=archive, **settings))
    return open_dataset(folder / "data")
